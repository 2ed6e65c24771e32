"""Whatever a text holds and whatever the streams are, commands print, in one line what is one line."""

import io
import os
import subprocess
import sys
import unicodedata

import pytest
from cli_helpers import here, refused, smd_evo
from hypothesis import given
from hypothesis import strategies as st
from rich.table import Table

from smd_evo.console import Plain
from smd_evo.experiments.tables import new_table
from smd_evo.streams import open_streams, printable
from smd_evo.terminal import show

ODD = "runs/[red]x[/red] :smile: \x1b[31m\udcff\u202e"
SHOWN = r"runs/[red]x[/red] :smile: \x1b[31m\xff\u202e"


@given(st.text(st.characters(codec=None)))
def test_printable_text_has_no_controls_and_any_unicode_encoding(text):
    found = printable(text)
    found.encode("utf-8")
    assert {unicodedata.category(one) for one in found.replace("\n", "")}.isdisjoint({"Cc", "Cf", "Cs", "Zl", "Zp"})


def test_tables_and_lines_show_text_as_it_is(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    table = Table(title=ODD, caption=ODD)
    table.add_column(ODD)
    table.add_row(ODD)
    show([table], [ODD], ODD)
    output = capsys.readouterr().out
    assert output.count(SHOWN) == 7
    assert "\x1b" not in output


def test_errors_show_it_too(tmp_path):
    refused(here("verify", ODD, cwd=tmp_path), SHOWN)
    refused(here("finetune", "--config", ODD, cwd=tmp_path), SHOWN)


@pytest.mark.parametrize("width", ["1", "20"])
def test_narrow_terminals(width):
    assert smd_evo("verify", "nothere", COLUMNS=width).stderr.count("\n") == 1


def test_the_environment_says_which_encoding():
    code = "from smd_evo.streams import open_streams; open_streams(); print('\N{EM DASH}\xe9')"
    environment = os.environ | {"PYTHONIOENCODING": "latin-1"}
    found = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True)
    assert found.stdout == b"-\xe9\n"
    assert found.stderr == b""


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_encodings_without_dashes(encoding, monkeypatch):
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, io.TextIOWrapper(io.BytesIO(), encoding=encoding))
    open_streams()
    table = new_table("title", "caption \N{EM DASH} \N{BULLET}", ["a"], ["b"], edge=True)
    table.add_row("\N{MINUS SIGN}1", "\N{MULTIPLICATION SIGN}2 \xe9")
    show([table], ["\N{EM DASH}"], "there")
    sys.stdout.flush()
    output = sys.stdout.buffer.getvalue().decode(encoding)
    assert sys.stderr.buffer.getvalue() == b""
    assert ("\N{EM DASH}" if encoding == "utf-8" else "\n-\n") in output
    assert ("\\xe9" if encoding == "ascii" else "\xe9") in output


def test_nobody_reads_the_output():
    reading, writing = os.pipe()
    os.close(reading)
    arguments = [sys.executable, "-m", "smd_evo.cli", "finetune", "--help"]
    result = subprocess.run(arguments, stdout=writing, stderr=subprocess.PIPE, check=False)
    os.close(writing)
    assert (result.returncode, result.stderr) == (1, b"")


def test_closed_streams():
    command = f'"{sys.executable}" -m smd_evo.cli verify nothere >&- 2>&-'
    assert subprocess.run(["sh", "-c", command], check=False).returncode == 2


def test_a_console_that_nobody_reads_says_so():
    with pytest.raises(BrokenPipeError):
        Plain().on_broken_pipe()
