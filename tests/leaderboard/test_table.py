"""The tables fit where they are shown, hide nothing and are not broken by text of a run."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from helpers.recorded_runs import write_run
from rich.console import Console

from peftkit.leaderboard import table
from peftkit.leaderboard.board import Board
from peftkit.leaderboard.files import write_tables
from peftkit.leaderboard.reading import collect
from peftkit.leaderboard.stats import GLUE, board_entries


def shown(root: Path, width: int = 100) -> str:
    out = io.StringIO()
    table.show(Board.read([root]), Console(file=out, width=width))
    return out.getvalue()


def spreadsheet(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


def glue(root: Path, without: str | None = None) -> None:
    for number, task in enumerate(GLUE):
        if task != without:
            metrics = {"mrpc": {"accuracy": True, "f1": True}, "mnli": {"accuracy_matched": True}}.get(task)
            write_run(root, task, task=task, value=number / 10, metrics=metrics)


def test_glue_shows_its_average_or_what_it_lacks(tmp_path: Path) -> None:
    glue(tmp_path / "whole")
    glue(tmp_path / "part", without="wnli")
    assert "40.0" in shown(tmp_path / "whole").split("GLUE, ")[1]
    part = shown(tmp_path / "part").split("GLUE, ")[1]
    assert "35.0" not in part  # the mean of the eight
    assert "No average for lora: missing wnli." in part


def test_a_section_names_its_own_metrics(tmp_path: Path) -> None:
    write_run(tmp_path, "a", task="mrpc", metrics={"accuracy": True, "f1": True})
    write_run(tmp_path, "b", task="cola", metrics={"matthews_correlation": True})
    write_run(tmp_path, "c", task="rte", metrics={"accuracy": True, "cost_of_errors": False})  # of one's own
    table = shown(tmp_path).split("GLUE, ")[0]
    heads = [line.split() for line in table.splitlines() if line.startswith(("mrpc ", "cola ", "rte "))]
    assert heads == [["cola", "matthews"], ["mrpc", "accuracy", "f1"], ["rte", "accuracy", "cost_of_errors", "↓"]]


def test_an_error_is_shown_in_its_own_unit(tmp_path: Path) -> None:
    write_run(tmp_path, "a", task="houses", suite="own", value=3.25, metrics={"mean_squared_error": False})
    write_run(
        tmp_path, "b", method="full", task="houses", suite="own", value=3.0, metrics={"mean_squared_error": False}
    )
    text = shown(tmp_path)
    assert "3.25  " in text
    assert "+0.25" in text
    assert "325" not in text


@pytest.mark.parametrize("width", [70, 100, 160])
def test_lines_fit_and_what_does_not_is_named(tmp_path: Path, width: int) -> None:
    glue(tmp_path)
    write_run(tmp_path, "tuned", task="mrpc", rate=2, metrics={"accuracy": True, "f1": True})
    text = shown(tmp_path, width)
    assert max(map(len, text.splitlines())) <= width
    assert ("Hidden because the terminal is narrow" in text) == (width == 70)
    assert "learning_rate=2" in text


def test_several_models_are_labeled(tmp_path: Path) -> None:
    write_run(tmp_path, "a", model="google-bert/bert-base-uncased")
    write_run(tmp_path, "b", model="openai-community/gpt2")
    text = shown(tmp_path)
    assert "bert-base-uncased" in text
    assert "gpt2" in text


def test_times_of_two_machines_carry_their_mark(tmp_path: Path) -> None:
    write_run(tmp_path, "a", method="full", device="cpu: EPYC", seconds=50)
    write_run(tmp_path, "b", seed=0, device="cpu: EPYC", seconds=40)
    write_run(tmp_path, "c", seed=1, device="cuda: H200", seconds=3)
    text = shown(tmp_path)
    assert "50 s A" in text
    assert "40 s A, 3 s B" in text
    assert "A = cpu: EPYC; B = cuda: H200" in " ".join(text.split())


def test_failed_and_broken_results_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path, "good", seed=1)
    write_run(tmp_path, "bad", status="failed", reason="out of memory")
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "result.json").write_text('{"run": ')
    table.show(Board.read([tmp_path]))  # to the terminal
    text = capsys.readouterr().out
    assert "1 of 2" in text
    assert "2 of 3 runs without valid scores" in text
    assert "failed: out of memory" in text
    assert "broken: " in text
    write_tables(Board.read([tmp_path]), tmp_path / "board")
    markdown = (tmp_path / "board" / "leaderboard.md").read_text(encoding="utf-8")
    assert "failed: out of memory" in markdown
    assert "torn" in markdown


def test_an_unfinished_run_is_not_a_failed_one(tmp_path: Path) -> None:
    write_run(tmp_path, "bad", status="failed", reason="out of memory")
    write_run(tmp_path, "going", task="mrpc", status="running")
    write_run(tmp_path, "stopped", task="sst2", status="interrupted", reason="KeyboardInterrupt")
    lines = shown(tmp_path, 300).splitlines()
    going = next(place for place, line in enumerate(lines) if line.startswith("2 of 3 runs unfinished"))
    assert lines[going + 1].startswith("mrpc bert lora seed 0: running since 2026-01-01 UTC")
    assert lines[going + 2].startswith("sst2 bert lora seed 0: interrupted: KeyboardInterrupt")
    assert lines[going + 3] == "1 of 3 runs without valid scores:"
    write_tables(Board.read([tmp_path]), tmp_path / "board")
    assert "## 2 of 3 runs unfinished" in (tmp_path / "board" / "leaderboard.md").read_text(encoding="utf-8")


def test_nothing_but_broken_results_still_shows_and_writes(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text("{")
    assert "1 of 1 runs" in shown(tmp_path)
    write_tables(Board.read([tmp_path]), tmp_path / "board")
    assert not (tmp_path / "board" / "leaderboard.csv").exists()


def test_a_spreadsheet_holds_plain_numbers(tmp_path: Path) -> None:
    write_run(tmp_path, "a", method="full", value=0.25, task="stsb")
    write_run(tmp_path, "b", value=-0.25, task="stsb")
    write_tables(Board.read([tmp_path]), tmp_path)
    full, lora = spreadsheet(tmp_path / "leaderboard.csv")
    assert [float(lora[name]) for name in ("accuracy", "delta vs full", "trainable share")] == [-0.25, -0.5, 0.1]
    assert (lora["adapter_bytes"], lora["n seeds"], full["delta vs full"]) == ("40", "1", "")
    assert [float(line["stsb"]) for line in spreadsheet(tmp_path / "glue.csv")] == [0.25, -0.25]


def test_a_glue_table_of_an_earlier_board_does_not_stay(tmp_path: Path) -> None:
    write_run(tmp_path, "a")
    write_tables(Board.read([tmp_path]), tmp_path / "board")
    assert (tmp_path / "board" / "glue.csv").exists()
    (tmp_path / "a" / "result.json").unlink()
    write_run(tmp_path, "b", suite="own")
    write_tables(Board.read([tmp_path]), tmp_path / "board")
    assert not (tmp_path / "board" / "glue.csv").exists()


@pytest.mark.parametrize("name", ["=cmd|' /C calc'!A0", "@SUM(1)", "+1", "-x", " =x", "＝x"])
def test_text_of_a_run_is_no_formula(tmp_path: Path, name: str) -> None:
    write_run(tmp_path, "x", method=name)
    write_tables(Board.read([tmp_path]), tmp_path / "board")
    (line,) = spreadsheet(tmp_path / "board" / "leaderboard.csv")
    assert line["method"] == f"'{name}"


def test_text_of_a_run_cannot_break_the_tables(tmp_path: Path) -> None:
    write_run(tmp_path, "x", suite="own", method="a|b\n\x1b[31m[red]<script>[l](http://x)\u202e")
    text = shown(tmp_path, 200)
    assert "\x1b" not in text
    assert "[red]<script>" in text  # no markup, so not lost either
    write_tables(Board.read([tmp_path]), tmp_path / "board")
    markdown = (tmp_path / "board" / "leaderboard.md").read_text(encoding="utf-8")
    (line,) = (line for line in markdown.splitlines() if "script" in line)
    assert line.startswith("| a\\|b  \\[31m\\[red\\]&lt;script&gt;\\[l\\](http://x)  |")
    assert not {"\x1b", "\u202e"} & set(markdown)


def compared(root: Path) -> None:
    """Write four seeds of three methods on two tasks, of which one method is worse, and one seed is missing."""
    for task in ("rte", "sst2"):
        for method, value in (("full", 0.81), ("lora", 0.809), ("prompt", 0.5)):
            for seed in range(4):
                if (task, method, seed) != ("rte", "lora", 3):
                    write_run(
                        root, f"{task}{method}{seed}", method=method, task=task, seed=seed, value=value + seed / 500
                    )


def test_tied_groups_and_the_verdict_are_shown(tmp_path: Path) -> None:
    compared(tmp_path)
    text = shown(tmp_path, 160)
    (head, *_) = (line for line in text.splitlines() if "group" in line)
    lines = {line.split()[0]: line for line in text.split("rte")[1].splitlines() if line.startswith("  ")}
    place = head.index("group")
    assert [lines[m][place : place + 5].strip() for m in ("full", "lora", "prompt")] == ["a", "a", "b"]
    assert "3 of 4" in lines["lora"]
    assert "81.0 to 81.6" in lines["full"]
    words = " ".join(text.split())
    assert (
        "rte: full has the best mean, 81.3. No significant difference from the best: lora; significantly worse: prompt."
        in words
    )
    assert "rte: lora has 3 of 4 seeds." in words


def test_wins_ties_and_losses_are_counted_over_tasks(tmp_path: Path) -> None:
    compared(tmp_path)
    totals = shown(tmp_path).split("Tasks won, tied and lost against")[1].splitlines()
    line = next(line for line in totals if line.startswith("prompt  "))
    assert line.split()[1:] == ["0", "0", "4"]
    write_tables(Board.read([tmp_path]), tmp_path / "board")
    markdown = (tmp_path / "board" / "leaderboard.md").read_text(encoding="utf-8")
    won = markdown.split("### Tasks won, tied and lost")[1]
    assert "| full |  | 0-2-0 | 2-0-0 |" in won


def test_a_spreadsheet_holds_groups_and_tests(tmp_path: Path) -> None:
    compared(tmp_path)
    write_tables(Board.read([tmp_path]), tmp_path / "board")
    rows = spreadsheet(tmp_path / "board" / "leaderboard.csv")
    assert {(row["task"], row["method"]): row["group"] for row in rows}["rte", "prompt"] == "b"
    assert {row["n seeds"] + " of " + row["planned seeds"] for row in rows} == {"4 of 4", "3 of 4"}
    tests = spreadsheet(tmp_path / "board" / "comparisons.csv")
    assert len(tests) == 6
    for test in tests:
        assert float(test["low"]) < float(test["difference"]) < float(test["high"])
        assert test["differs"] == str(float(test["p_holm"]) <= 0.05)


def test_trials_are_shown_where_there_were_several(tmp_path: Path) -> None:
    compared(tmp_path)
    assert "trials" not in shown(tmp_path, 200)
    file = tmp_path / "rtefull0" / "result.json"
    record = json.loads(file.read_text())
    record["search"] = {"trials": [{"learning_rate": 1, "score": 0.5}] * 4, "chosen": 1, "rows": 5, "seconds": 1.0}
    file.write_text(json.dumps(record))
    assert "budgets: 1 to 4 trials" in shown(tmp_path, 200)
    (row, *_) = (row for row in board_entries(collect([tmp_path])) if (row.task, row.method) == ("rte", "full"))
    assert row.trials == 4


def test_a_long_table_is_cut_in_the_terminal_alone(tmp_path: Path) -> None:
    for rate in range(45):
        write_run(tmp_path, f"r{rate}", rate=rate + 1, value=rate / 100)
    assert "The best 40 of up to 45 entries of a task" in shown(tmp_path, 160)
    write_tables(Board.read([tmp_path]), tmp_path / "board")
    assert len(spreadsheet(tmp_path / "board" / "leaderboard.csv")) == 45


def cross_validate(root: Path, name: str, method: str, folds: list[float]) -> None:
    """Write a run of three folds, with out-of-fold predictions of 30 examples."""
    write_run(root, name, method=method, task="queues", suite="own", value=0.6, rows={"train": 20, "out_of_fold": 30})
    file = root / name / "result.json"
    record = json.loads(file.read_text())
    record["run"]["config"]["task"]["folds"] = len(folds)
    record["cross_validation"] = {"folds": [{"scores": {"accuracy": score}} for score in folds]}
    file.write_text(json.dumps(record))


def test_a_cross_validation_is_one_entry_with_its_spread_over_folds(tmp_path: Path) -> None:
    cross_validate(tmp_path, "a", "lora", [0.5, 0.6, 0.7])
    cross_validate(tmp_path, "b", "full", [0.6, 0.6, 0.6])
    write_run(tmp_path / "a", "fold-0", task="queues", suite="own")
    fold = tmp_path / "a" / "fold-0" / "result.json"
    record = json.loads(fold.read_text())
    record["run"]["config"]["task"] |= {"folds": 3, "fold": 0}
    fold.write_text(json.dumps(record))
    text = shown(tmp_path, width=150)
    assert "3, ± 10.0" in text and "3, ± 0.0" in text and "the score pools them all" in text
    assert len(board_entries(collect([tmp_path]))) == 2  # a fold alone is no entry
    write_tables(Board.read([tmp_path]), tmp_path / "files")
    lines = spreadsheet(tmp_path / "files" / "leaderboard.csv")
    assert {line["method"]: line["folds"] for line in lines if line["method"] in ("lora", "full")} == {
        "lora": "3, ± 10.0", "full": "3, ± 0.0",
    }  # fmt: skip
