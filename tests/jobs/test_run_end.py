"""A finished run has its result before its checkpoints go, and hashes of what it ships that later commands check."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import commands
from helpers.disks import flip

import peftkit
from peftkit.config import UserError
from peftkit.config.shipped_files import damaged_file, shipped_files
from peftkit.jobs import finetune as job
from peftkit.paths import atomic_write, clear_parts
from peftkit.results import run_folder

Overrides = Callable[..., list[str]]
WEIGHTS = "adapter/adapter_model.safetensors"


def record_of(folder: Path) -> dict:
    return json.loads((folder / "result.json").read_text())


@pytest.fixture
def run(tiny: Overrides) -> tuple[Path, list[str]]:
    overrides = tiny("bert", "task=sst2", "train.save_strategy=epoch")
    (folder,) = commands.finetune(*overrides)
    return folder, overrides


def test_the_result_has_the_hashes_of_what_ships(run: tuple[Path, list[str]]) -> None:
    folder, _ = run
    files = record_of(folder)["files"]
    assert {WEIGHTS, "adapter/adapter_config.json", "predictions.parquet"} < {*files}
    assert not {"result.json", "log.jsonl", "report.html"} & {*files}
    assert files == shipped_files(folder) and damaged_file(folder, files) is None


def test_a_damaged_file_is_refused_and_trained_again(
    run: tuple[Path, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, overrides = run
    before = record_of(folder)
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"sentence": "a fine film"}\n')
    flip(folder / WEIGHTS)
    wrong = f"{folder / WEIGHTS} has another content than was recorded; train the run again"
    for command in (
        lambda: commands.predict(folder, rows),
        lambda: commands.merge(folder),
        lambda: peftkit.load(folder),
    ):
        with pytest.raises(UserError, match=wrong):
            command()
    capsys.readouterr()
    commands.finetune(*overrides)
    assert (
        f"!! {folder / WEIGHTS} has another content than was recorded: the run is trained again"
        in capsys.readouterr().err
    )
    assert record_of(folder)["files"][WEIGHTS] == before["files"][WEIGHTS]
    (folder / "predictions.parquet").unlink()
    commands.finetune(*overrides)
    assert record_of(folder)["files"] == before["files"] and record_of(folder)["scores"] == before["scores"]
    assert "predictions.parquet is missing: the run is trained again" in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"", b'{"schema": 2, "meta": {"sta', b"[]", b"\xff\xfe"])
def test_a_damaged_result_counts_as_none(tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes) -> None:
    (tmp_path / "result.json").write_bytes(content)
    assert run_folder.valid_result(tmp_path) is None and not run_folder.is_finished(tmp_path)
    assert capsys.readouterr().err.count(f"!! {tmp_path / 'result.json'} cannot be read") == 2
    with pytest.raises(UserError, match=r"result\.json cannot be read"):
        run_folder.read_result(tmp_path)


def test_the_checkpoints_go_after_the_result(tiny: Overrides, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def look(folder: Path) -> None:
        seen.append((record_of(folder)["meta"]["status"], any((folder / "checkpoints").iterdir())))

    monkeypatch.setattr(job, "remove_leftovers", look)
    overrides = tiny("bert", "task=sst2", "train.save_strategy=epoch")
    (folder,) = commands.finetune(*overrides)
    assert seen == [("finished", True)]
    monkeypatch.undo()  # as if the process had been killed there
    with pytest.raises(ZeroDivisionError), atomic_write(folder / "result.json") as part:
        shutil.copy(folder / "report.html", part)
        part.rename(torn := part.with_name(f"{part.name[:-8]}00000000"))
        raise ZeroDivisionError
    (folder / "report.html").unlink()
    commands.finetune(*overrides)
    assert not (folder / "checkpoints").exists() and not torn.exists() and (folder / "report.html").is_file()


def test_torn_files_are_cleared(tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        with atomic_write(tmp_path / "result.json") as part:
            part.write_text('{"sche')
            os._exit(9)
    os.waitpid(child, 0)
    (torn,) = tmp_path.iterdir()
    clear_parts(tmp_path, ["config.yaml"])
    assert torn.exists()
    run_folder.clear_torn(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_file_is_on_the_disk_before_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    fsync, replace = os.fsync, Path.replace
    monkeypatch.setattr(
        os, "fsync", lambda number: done.append(Path(f"/proc/self/fd/{number}").readlink().name[:5]) or fsync(number)
    )
    monkeypatch.setattr(Path, "replace", lambda self, target: done.append("replace") or replace(self, target))
    run_folder.write_text(tmp_path / "x.txt", "größer")
    assert done == [".part", "replace", tmp_path.name[:5]]
    assert (tmp_path / "x.txt").read_bytes() == "größer".encode()


def test_a_result_of_a_later_training_is_not_amended(tmp_path: Path) -> None:
    first = {"meta": {"status": "finished", "started": "2026-01-01T00:00:00+00:00"}}
    run_folder.write_result(tmp_path, first)
    with run_folder.updated_result(tmp_path, first) as result:
        result["judged"] = {"a": 1}
    run_folder.write_result(tmp_path, {"meta": {"status": "finished", "started": "2026-01-02T00:00:00+00:00"}})
    with pytest.raises(UserError, match="trained again meanwhile"), run_folder.updated_result(tmp_path, first):
        pass


def test_a_record_cannot_name_other_files(tmp_path: Path) -> None:
    for name in ("../x", "/etc/passwd", "adapter/../../x"):
        assert "is not in the folder of the run" in str(damaged_file(tmp_path, {name: {"bytes": 0, "sha256": ""}}))
    assert damaged_file(tmp_path, None) is None and damaged_file(tmp_path, {"notes.txt": {}}) is None
    assert "expected an object" in str(damaged_file(tmp_path, []))
    os.mkfifo(tmp_path / "predictions.parquet")
    assert "is missing" in str(damaged_file(tmp_path, {"predictions.parquet": {"bytes": 0, "sha256": ""}}))
