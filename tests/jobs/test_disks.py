"""A disk that fails ends a run with its path and cause; the sweep goes on, and the same command heals."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import commands
from helpers.disks import failing_write, largest_file, remount, small_disk
from helpers.fork_server import ForkServer
from helpers.unbroken import learned

from peftkit.config.errors import WriteError
from peftkit.jobs import stages as job

Overrides = Callable[..., list[str]]
RUN = ("task=mrpc", "train.save_strategy=steps", "train.save_steps=1", "train.num_train_epochs=2", "method=lora")
NAMES = {errno.EIO: "Input/output error", errno.EDQUOT: "Disk quota exceeded", errno.EROFS: "Read-only file system"}


@pytest.mark.parametrize("size", [600, *(pytest.param(n, marks=pytest.mark.slow) for n in (3_000, 20_000, 60_000))])
def test_a_write_that_no_library_completes_is_recorded(tiny: Overrides, tmp_path: Path, size: int) -> None:
    overrides = tiny("bert", *RUN)
    with largest_file(size), pytest.raises(WriteError, match="cannot be written: File too large; free space"):
        commands.finetune(*overrides)
    for file in (tmp_path / "outputs").rglob("result.json"):  # at 600 bytes there is none
        meta = json.loads(file.read_text())["meta"]
        assert meta["status"] == "failed" and "cannot be written: File too large" in meta["reason"]
    (folder,) = commands.finetune(*overrides)
    (other,) = commands.finetune(*overrides, f"out={tmp_path}/unbroken")
    assert learned(folder) == learned(other)


@pytest.mark.slow
@pytest.mark.parametrize("kilobytes", [4, 16, 40, 80, 160, 300, 450, 600, 800, 1000, 1300, 1600])
def test_a_full_disk_heals(tiny: Overrides, tmp_path: Path, fork_server: ForkServer, kilobytes: int) -> None:
    with small_disk(tmp_path / "disk", f"{kilobytes}k") as disk:
        command = ["-m", *tiny("bert", *RUN), f"out={disk}", "seed=0,1"]
        done = fork_server.run(command, tmp_path)
        assert "Traceback" not in done.output
        if done.code:
            assert done.code == 1 and "No space left on device; free space" in done.stderr
            assert "seed 1 ->" in done.stderr  # the sweep goes on
        remount(disk, "size=64m")
        again = fork_server.run(command, tmp_path)
        assert again.code == 0, again.output
        found = [learned(file.parent) for file in sorted(disk.rglob("result.json"))]
        whole = fork_server.run([*command, f"out={tmp_path}/whole"], tmp_path)
        assert whole.code == 0
        assert found == [learned(file.parent) for file in sorted((tmp_path / "whole").rglob("result.json"))]


@pytest.mark.slow
def test_a_disk_that_is_read_only_is_refused(tiny: Overrides, tmp_path: Path, fork_server: ForkServer) -> None:
    with small_disk(tmp_path / "disk", "64m") as disk:
        command = [*tiny("bert", *RUN), f"out={disk}/runs"]
        remount(disk, "ro")
        done = fork_server.run(command, tmp_path)
        assert done.code == 2 and "use another out=" in done.stderr and "Traceback" not in done.output
        remount(disk, "rw")
        assert fork_server.run(command, tmp_path).code == 0


def test_a_folder_that_vanishes_is_not_made_again(
    tiny: Overrides, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate = job.evaluate_splits

    def vanish(*arguments: object) -> object:
        shutil.rmtree(tmp_path / "outputs")
        return evaluate(*arguments)

    monkeypatch.setattr(job, "evaluate_splits", vanish)
    with pytest.raises(WriteError, match=r"deleted or replaced|No such file"):
        commands.finetune(*tiny("bert", *RUN))
    assert not list((tmp_path / "outputs").rglob("result.json"))
    monkeypatch.undo()
    (folder,) = commands.finetune(*tiny("bert", *RUN))
    learned(folder)


def fail_at(overrides: list[str], out: Path, number: int, code: int) -> bool:
    """Run with an error at one write; return whether the run failed, with its path and cause."""
    with failing_write(out, number, code):
        try:
            commands.finetune(*overrides)
        except WriteError as error:
            assert "cannot be written: " in str(error) and NAMES[code] in str(error)
            return True
    return False


@pytest.mark.parametrize(
    "code", [errno.EIO, *(pytest.param(n, marks=pytest.mark.slow) for n in (errno.EDQUOT, errno.EROFS))]
)
@pytest.mark.parametrize("part", [0.5, *(pytest.param(n / 20, marks=pytest.mark.slow) for n in range(20) if n != 10)])
def test_an_error_at_a_write_heals(tiny: Overrides, tmp_path: Path, part: float, code: int) -> None:
    overrides, out = tiny("bert", *RUN), tmp_path / "outputs"
    with failing_write(out, None) as faults:
        (folder,) = commands.finetune(*overrides)
    whole = learned(folder)
    shutil.rmtree(out)
    fail_at(overrides, out, round(part * faults.count), code)
    commands.finetune(*overrides)
    assert learned(folder) == whole
