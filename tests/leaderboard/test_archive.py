"""An archive of runs gives the same board as the run folders it was made of."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.recorded_runs import write_run
from helpers.synthetic_board import make_board

from peftkit.config import UserError
from peftkit.jobs.leaderboard import write
from peftkit.leaderboard.archive import read_predictions, write_archive
from peftkit.leaderboard.board import Board
from peftkit.leaderboard.page import page_data
from peftkit.leaderboard.reading import collect
from peftkit.leaderboard.runs import BoardRun

FILES = ("leaderboard.csv", "comparisons.csv", "glue.csv", "leaderboard.md", "leaderboard.tex", "pareto.svg")
RESULTS = Path(__file__).parents[2] / "docs" / "results"


def archive(root: Path, file: Path) -> Path:
    write_archive([run.folder for run in collect([root])], file)
    return file


def without_places(page: dict) -> dict:
    """Return what a page shows, except for the folders of runs and the time."""
    for run in [run for row in page["entries"] for run in row["runs"]] + page["failed"]:
        run["folder"] = Path(run["folder"]).name
    return page | {"written": None}


def test_tables_tests_plots_and_page_are_the_same_from_an_archive(tmp_path: Path) -> None:
    make_board(tmp_path / "runs", seeds=2, methods=("full", "lora", "adapter", "ia3"))
    file = archive(tmp_path / "runs", tmp_path / "board.parquet")
    pages = []
    for name, place in (("folders", tmp_path / "runs"), ("archive", file)):
        board = Board.read([place])
        write(board, tmp_path / name, "")
        pages.append(without_places(page_data(board)))
    assert pages[0] == pages[1]
    assert any(row["curves"] for row in pages[1]["entries"])
    for name in FILES:
        texts = [(tmp_path / place / name).read_text(encoding="utf-8") for place in ("folders", "archive")]
        texts = [text.replace("\\", "").replace(f"{file}/", f"{tmp_path}/runs/") for text in texts]
        assert texts[0] == texts[1], name


def test_an_archive_of_archives_and_folders_has_all_runs_once(tmp_path: Path) -> None:
    write_run(tmp_path / "a", "x", seed=0)
    write_run(tmp_path / "b", "y", seed=1)
    first = archive(tmp_path / "a", tmp_path / "first.parquet")
    runs = collect([first, tmp_path / "b", first])
    write_archive([run.folder for run in runs], tmp_path / "both.parquet")
    again = collect([tmp_path / "both.parquet"])
    assert sorted(run.seed for run in again if isinstance(run, BoardRun) and run.problem is None) == [0, 1]


def test_one_result_json_is_read_by_its_path(tmp_path: Path) -> None:
    write_run(tmp_path, "a", seed=0)
    write_run(tmp_path, "b", seed=1)
    assert [run.folder for run in collect([tmp_path / "a" / "result.json"])] == [tmp_path / "a"]


def test_a_parquet_file_of_something_else_is_refused(tmp_path: Path) -> None:
    make_board(tmp_path / "runs", seeds=1)
    other = next((tmp_path / "runs").rglob("predictions.parquet"))
    with pytest.raises(UserError, match=r"not an archive of runs, which job=leaderboard output=FILE\.parquet writes"):
        collect([other])


def test_the_committed_archives_hold_finished_runs_with_predictions() -> None:
    for name, count in (("glue_minilm", 120), ("methods_minilm", 60)):
        runs = collect([RESULTS / f"{name}.parquet"])
        assert [run.problem for run in runs] == [None] * count
        assert all(read_predictions(run.folder) is not None for run in runs)
