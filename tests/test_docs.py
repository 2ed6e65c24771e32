"""README and docs: every block is executed as it stands, a page's Python blocks in their order in one process."""

import os
import re
import subprocess
import sys

import pytest
from helpers import ROOT
from test_examples import STRICT

PAGES = ["README.md", *sorted(str(page.relative_to(ROOT)) for page in (ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(.*)\n((?:.*\n)*?)```$", re.MULTILINE)


def blocks(page, kind):
    """The page's blocks of this kind, which its opening fence names."""
    return [text for name, text in BLOCK.findall((ROOT / page).read_text()) if name == kind]


PYTHON = [page for page in PAGES if blocks(page, "python")]


@pytest.mark.parametrize("page", PYTHON)
def test_the_python_blocks_of_a_page_run_in_their_order(page, tmp_path):
    script = tmp_path / "page.py"
    script.write_text("\n".join(blocks(page, "python")))
    command = [sys.executable, *STRICT, str(script)]
    environment = os.environ | {"RAY_DEDUP_LOGS": "0"}
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)
    assert result.returncode == 0, result.stderr


def test_the_readme_begins_with_fifteen_lines():
    first = blocks("README.md", "python")[0]
    assert len([line for line in first.splitlines() if line.strip()]) <= 15
