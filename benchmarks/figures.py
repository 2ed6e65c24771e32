"""Puts what results files say into the pages, between ``<!-- figures: NAME -->`` and ``<!-- end of figures -->``.

python benchmarks/figures.py [--check]

Results are those of benchmarks/results, benchmarks/imagenet/results and benchmarks/gradient_free/results. With
--check nothing is written, and a page that says something else is an error, as it is in the tests.
"""

import json
import re
import sys
from functools import partial
from pathlib import Path

HERE = Path(__file__).parent
PAGES = [HERE.parent / "README.md", HERE / "README.md", *sorted((HERE.parent / "docs").glob("*.md"))]
GRADIENT_FREE = HERE / "gradient_free" / "results"
BLOCK = re.compile(r"(<!-- figures: (?P<name>.+?) -->\n).*?(<!-- end of figures -->)", re.DOTALL)

sys.path[:0] = [str(HERE), str(HERE / "imagenet"), str(HERE / "gradient_free")]

import study_tables as imagenet  # noqa: E402
import tables as gradient_free  # noqa: E402
from measure import RESULTS, shown  # noqa: E402


def figures():
    """Each by its name: a function that makes its Markdown."""
    engine = {file.stem: partial(engine_table, file) for file in sorted(RESULTS.glob("*.json"))}
    rivals = {each.name: partial(gradient_free.table, each) for each in sorted(GRADIENT_FREE.glob("*/"))}
    named = {"engine": engine, "gradient-free": rivals}
    return {f"{kind} {name}": make for kind, own in named.items() for name, make in own.items()} | imagenet.tables()


def engine_table(file):
    rows = json.loads(file.read_text())["rows"]
    cells = [[shown(tuple(cell) if isinstance(cell, list) else cell) for cell in row.values()] for row in rows]
    return imagenet.table([*rows[0]], cells)


def filled(text, made):
    """A page with present figures in their places."""

    def fill(found):
        name = found["name"]
        if name not in made:
            raise SystemExit(f"expected the name of figures there are ({', '.join(made)}), got {name}")
        return f"{found[1]}\n{made[name]()}\n\n{found[3]}"

    return BLOCK.sub(fill, text)


def main():
    made, old = figures(), []
    for page in PAGES:
        text = page.read_text()
        if (new := filled(text, made)) != text:
            old.append(page.name)
            if "--check" not in sys.argv:
                page.write_text(new)
    if old:
        print(f"{', '.join(old)}: {'not what results say' if '--check' in sys.argv else 'written'}")
    return 1 if old and "--check" in sys.argv else 0


if __name__ == "__main__":
    sys.exit(main())
