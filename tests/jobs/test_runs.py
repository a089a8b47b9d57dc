"""job=runs: the list has every run, however broken, and deletes only what is chosen."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest
from helpers.commands import check, choose
from helpers.recorded_runs import write_run

import peftkit
from peftkit.config import UserError
from peftkit.jobs.runs import show_runs
from peftkit.results.listing import ListedRun, delete_run, list_runs
from peftkit.results.locks import LOCK, locked_folder

LORA, IA3 = "glue/rte/bert/lora", "glue/mrpc/bert/ia3"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Return a folder with runs of every status, a folder that is no run, and a link out of it."""
    root = tmp_path / "outputs"
    write_run(root, f"{LORA}/seed-0-0123abcd", value=0.75)
    write_run(root, f"{LORA}/seed-1-0123abce", seed=1, status="failed", reason="out of memory\x1b[2J\nthe rest")
    write_run(root, f"{IA3}/seed-0-aaaaaaaa", task="mrpc", method="ia3", status="interrupted")
    (checkpoint := root / IA3 / "seed-0-aaaaaaaa" / "checkpoints" / "checkpoint-5").mkdir(parents=True)
    (checkpoint / "optimizer.pt").write_bytes(b"0" * 5000)
    write_run(root, f"{IA3}/seed-1-aaaaaaab", task="mrpc", method="ia3", seed=1, status="running")
    killed = root / IA3 / "seed-2-aaaaaaac"  # before the first result.json
    killed.mkdir()
    (killed / "config.yaml").write_text("seed: 2\n")
    for unfinished in (root / IA3 / "seed-1-aaaaaaab", killed):
        (unfinished / LOCK).touch()
    (fold := root / IA3 / "fold-1-seed-0-0123abcf").mkdir()  # of a cross-validation, killed likewise
    (fold / "config.yaml").write_text("seed: 0\n")
    (fold / LOCK).touch()
    (root / "notes").mkdir()
    (root / "notes" / "result.json").write_text('{"accuracy": [')
    (tmp_path / "elsewhere").mkdir()
    write_run(tmp_path / "elsewhere", "seed-0-eeeeeeee", status="failed")
    (root / "link").symlink_to(tmp_path / "elsewhere")
    return root


def by_name(out: Path) -> dict[str, ListedRun]:
    return {run.folder.name: run for run in list_runs(out)}


def run_job(out: Path, *overrides: str) -> None:
    (config,) = choose(["job=runs", f"out={out}", *overrides])
    show_runs(config)


def test_every_run_is_listed_with_status_score_and_size(out: Path) -> None:
    runs = by_name(out)
    assert {name: run.status for name, run in runs.items()} == {
        "seed-0-0123abcd": "finished", "seed-1-0123abce": "failed", "seed-0-aaaaaaaa": "interrupted",
        "seed-1-aaaaaaab": "interrupted", "seed-2-aaaaaaac": "interrupted", "notes": "broken",
        "fold-1-seed-0-0123abcf": "interrupted",
    }  # fmt: skip
    first = runs["seed-0-0123abcd"]
    assert (first.task, first.model, first.method, first.seed, first.metric, first.score) == (
        "rte", "bert", "lora", 0, "accuracy", 0.75
    )  # fmt: skip
    for run in runs.values():
        files = [file for file in run.folder.rglob("*") if file.is_file()]
        assert run.bytes == sum(file.stat().st_size for file in files)
    assert runs["seed-0-aaaaaaaa"].checkpoint_bytes == 5000
    assert runs == {run.folder.name: run for run in peftkit.runs(out)}


def test_a_locked_run_is_running_and_never_deleted(out: Path) -> None:
    with locked_folder(out / LORA / "seed-1-0123abce"):  # a failed run that is trained again
        run = by_name(out)["seed-1-0123abce"]
        assert run.status == "running" and run.keep == "it is running"
        with pytest.raises(OSError, match="running"):
            delete_run(run, out)
    run = by_name(out)["seed-1-0123abce"]
    assert run.status == "failed"
    # it starts after the list was made
    with locked_folder(run.folder), pytest.raises(UserError, match="is written by process"):
        delete_run(run, out)
    assert not (run.folder / LOCK).exists() and run.folder.is_dir()
    shutil.rmtree(run.folder)
    write_run(out, f"{LORA}/seed-1-0123abce", seed=1)  # it has finished while the question was open
    with pytest.raises(UserError, match="finished since"):
        delete_run(run, out)
    assert run.folder.is_dir()


def test_the_next_command_keeps_the_other_filters(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_job(out, "filter.task=rte")
    end = f"job=runs out={out} filter.task=rte filter.status=failed delete=true"
    assert capsys.readouterr().err.splitlines()[-1].endswith(end)


def test_an_unfinished_run_of_an_earlier_version_is_running_while_its_files_change(out: Path) -> None:
    folder = out / IA3 / "seed-1-aaaaaaab"
    (folder / LOCK).unlink()
    assert by_name(out)[folder.name].status == "running"
    os.utime(folder / "result.json", (0, 0))
    assert by_name(out)[folder.name].status == "interrupted"


def test_only_the_chosen_runs_are_deleted(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_job(out, "filter.status=failed", "delete=true", "force=true")
    shown = capsys.readouterr()
    assert "out of memory" in shown.out and "\x1b" not in shown.out and "deleted 1 run" in shown.err
    assert not (out / LORA / "seed-1-0123abce").exists() and (out / LORA / "seed-0-0123abcd").exists()
    assert (out.parent / "elsewhere" / "seed-0-eeeeeeee").is_dir()
    run_job(out, "filter.method='I*'", "delete=checkpoints", "force=true")
    kept = out / IA3 / "seed-0-aaaaaaaa"
    assert (kept / "result.json").is_file() and not (kept / "checkpoints").exists()
    run_job(out, "filter.task='*'", "filter.older_than=1d", "delete=true", "force=true")
    # one is not of peftkit, the others have no start but are new
    assert sorted(by_name(out)) == ["fold-1-seed-0-0123abcf", "notes", "seed-2-aaaaaaac"]
    assert not (out / LORA).exists() and out.is_dir()  # empty parents are deleted, too


def test_runs_below_a_run_are_not_deleted_without_a_filter(out: Path) -> None:
    (out / "result.json").write_text("{}")
    with pytest.raises(UserError, match="needs a filter"):
        run_job(out, "delete=true", "force=true")
    assert len(by_name(out)) == 8


def test_a_link_in_place_of_a_run_is_kept(out: Path) -> None:
    run = by_name(out)["seed-0-0123abcd"]
    other = out.parent / "elsewhere" / "seed-0-eeeeeeee"
    shutil.rmtree(run.folder)
    run.folder.symlink_to(other)
    with pytest.raises(OSError, match="not inside"):
        delete_run(run, out)
    assert (other / "result.json").is_file()


def test_a_run_from_which_another_one_loads_is_named(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = out / LORA / "seed-0-0123abcd" / "result.json"
    base = out / IA3 / "seed-0-aaaaaaaa"
    loaded = f'"model": {{"checkpoint": "{base}/model"}}'
    file.write_text(file.read_text().replace('"model": {"name": "bert"}', loaded, 1))
    with pytest.raises(UserError, match="use force=true"):  # there is no terminal
        run_job(out, "filter.method=ia3", "delete=true")
    assert re.search(rf"{file.parent} loads from {base}, which would be deleted", capsys.readouterr().err)
    assert base.is_dir()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ("delete=true", "delete= needs a filter, or out= of a single run; use filter.status=failed, or"),
        ("filter.older_than=7", "use filter.older_than=7d"),
        ("filter.status=[faild]", "unknown status faild; did you mean failed?"),
        ("delete=all", "delete=all: unknown value"),
        ("task=mrpc", "job=runs ignores task=mrpc: it lists every run below out="),
    ],
)
def test_a_wrong_filter_is_refused(overrides: str, message: str) -> None:
    assert any(message in error for error in check(["job=runs", *overrides.split()]))
