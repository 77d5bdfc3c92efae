"""Pages of the benchmarks: tables of Markdown as netCDF, and the folder of short runs."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import report

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
HEADER = ["known", "right (%)", "log score", "log score", "removed (bits)", "s", ""]
ROWS = [
    ["nothing", "86.2", "-0.493 ± 0.035", "1e+05", "35.8 ± 3.7 (23.0)", "-", "a"],
    ["host, dopant", "93", "-0.287 ± 0.026", "1,114", "50.4 ± 3.9 (45.8)", "0.7", ""],
]
BODY = f"""Of a prior.

{report.table(HEADER, ROWS)}

## Times

At 1e5 e/Å², in
seconds:

{report.table(["50 %"], [["2 of 6"], ["inf"]])}
"""


@pytest.fixture
def page(tmp_path, monkeypatch, capsys):
    """A page that was written, and its tables."""
    monkeypatch.setattr(report, "FOLDER", tmp_path / "benchmarks")
    monkeypatch.setattr(report, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(sys, "argv", ["/anywhere/small.py", "--num", "3"])
    report.write("small", "A small page", BODY, 7)
    text = (tmp_path / "benchmarks" / "small.md").read_text()
    assert text in capsys.readouterr().out
    return text, xr.load_datatree(tmp_path / "results" / "small.nc")


def test_a_page_names_commit_seed_and_machine(page):
    text, tree = page
    assert text.startswith("# A small page\n\nOf a prior.")
    assert "Made by `python benchmarks/small.py`" in text
    assert f"commit {tree.attrs['commit']}, seed 7, {tree.attrs['machine']}." in text
    assert tree.attrs["title"] == "A small page"
    assert tree.attrs["seed"] == 7
    assert tree.attrs["command"] == "python benchmarks/small.py --num 3"


def test_the_tables_are_found_again(page):
    tree = page[1]
    assert list(tree.children) == ["table_1", "table_2"]
    first = tree["table_1"].to_dataset()
    assert first.sizes == {"row": 2}
    assert list(first.known.values) == ["nothing", "host, dopant"]
    assert first.right.long_name == "right (%)"
    np.testing.assert_array_equal(first.right, [86.2, 93.0])
    # a name that occurs twice, thousands
    np.testing.assert_array_equal(first.log_score_2, [1e5, 1114])
    np.testing.assert_array_equal(first.s, [np.nan, 0.7])
    assert list(first.column_7.values) == ["a", ""]
    assert first.attrs == {"caption": "Of a prior."}
    second = tree["table_2"].to_dataset()
    assert second.attrs == {"heading": "Times", "caption": "At 1e5 e/Å², in seconds:"}
    assert list(second["50"].values) == ["2 of 6", "inf"]  # not every cell is a number


def test_errors_are_columns_of_their_own(page):
    first = page[1]["table_1"].to_dataset()
    np.testing.assert_array_equal(first.log_score, [-0.493, -0.287])
    np.testing.assert_array_equal(first.log_score_error, [0.035, 0.026])
    np.testing.assert_array_equal(first.removed_bits_in_brackets, [23.0, 45.8])
    assert "right_error" not in first
    assert "removed_bits_in_brackets_error" not in first


@pytest.mark.parametrize("page", sorted(report.FOLDER.glob("*.md")), ids=lambda p: p.stem)
def test_tables_of_every_page_have_all_rows(page):
    body = page.read_text()
    rows = sum(line.startswith("|") for line in body.splitlines())
    tables = report.tree_of(body, {}).children.values()
    # a header and a rule each
    assert sum(t.sizes["row"] + 2 for t in tables) == rows


def test_another_folder_takes_the_place_of_docs(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", "import report; print(report.FOLDER, report.RESULTS)"],
        cwd=BENCHMARKS,
        env=os.environ | {"BAYESCTX_PAGES": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == [str(tmp_path / "benchmarks"), str(tmp_path / "results")]
    docs = BENCHMARKS.parent / "docs" / "benchmarks"
    assert docs == report.FOLDER or "BAYESCTX_PAGES" in os.environ
