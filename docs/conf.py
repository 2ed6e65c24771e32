"""How Sphinx makes the site: ``make docs``, strictly, from the pages as they are and from docstrings."""

import dataclasses
import os
import posixpath
import re

import smd_evo
from smd_evo.experiments.compare.settings import CompareConfig
from smd_evo.experiments.finetune.settings import FinetuneConfig
from smd_evo.experiments.generations.settings import EvolutionConfig
from smd_evo.experiments.settings import ExperimentConfig
from smd_evo.experiments.window.settings import WindowConfig

os.environ["EVOTORCH_VERBOSE_LEVEL"] = "0"  # before its import: no INFO lines

project = "smd_evo"
author = "the developers of smd_evo"
release = version = smd_evo.__version__
copyright = author

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
exclude_patterns = ["_build"]
source_suffix = {".md": "markdown"}
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 4
suppress_warnings = ["myst.header"]  # pages that are shown by themselves, too, begin with the first level

autodoc_typehints = "description"
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False

html_theme = "furo"
html_title = f"smd_evo {release}"
copybutton_exclude = ".linenos, .gp, .go"

PAGES = {"README.md": "docs/index.md", "benchmarks/README.md": "docs/results.md", "CHANGELOG.md": "docs/changes.md"}
"""Pages of the repository that lie beside docs/, and what they are on the site."""


def on_the_site(text: str, page: str, shown: str) -> str:
    """Links as the site has them: what lies elsewhere in the repository is a page of the site, or its name alone.

    Args:
        text: of the page.
        page: its path in the repository.
        shown: where the site shows it.
    """
    folder = posixpath.dirname(shown)

    def moved(found: re.Match[str]) -> str:
        words, target = found.groups()
        path, hash_, anchor = target.partition("#")
        if "://" in target or not path:
            return found[0]
        whole = posixpath.normpath(posixpath.join(posixpath.dirname(page), path))
        there = PAGES.get(whole, whole)
        if there.startswith("docs/") or there.endswith(".png"):
            return f"{words}({posixpath.relpath(there, folder)}{hash_}{anchor})"
        return words[1:-1]

    return re.sub(r"(!?\[[^\]]*\])\(([^)\s]+)\)", moved, text)


def settings() -> str:
    """Tables of all settings, from where the command line has them."""
    kinds = {
        "All experiments": ExperimentConfig,
        "`finetune`": FinetuneConfig,
        "`finetune --generations`, `evolve`": EvolutionConfig,
        "`window`": WindowConfig,
        "`compare`": CompareConfig,
    }
    common = {each.name: each for each in dataclasses.fields(ExperimentConfig)}
    text = ""
    for title, kind in kinds.items():
        text += f"\n## {title}\n\n| option | | |\n| --- | --- | --- |\n"
        for each in dataclasses.fields(kind):
            about = each.metadata
            if kind is ExperimentConfig or each.name not in common or about != common[each.name].metadata:
                value = f"`{about['metavar']}`" if about["metavar"] else ""
                cells = f"`--{each.name.replace('_', '-')}`", value, about["help"]
                text += f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |\n"
    return text


def setup(app):
    """Links are moved as pages are read."""

    def read(_, name, text):
        whole = text[0].replace("% settings", settings()) if name == "settings" else text[0]
        text[0] = on_the_site(whole, f"docs/{name}.md", f"docs/{name}.md")

    def included(_, path, __, text):
        page = posixpath.relpath(app.srcdir / path, app.srcdir.parent)
        text[0] = on_the_site(text[0], page, PAGES[page])

    app.connect("source-read", read)
    app.connect("include-read", included)
