"""Turn task.dataset=self_instruct into the folder that job=generate fills, before anything trains on it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from filelock import FileLock

from peftkit import record
from peftkit.jobs.console import is_main
from peftkit.jobs.generate import finished, generate
from peftkit.schema import Generate, Run, UserError

SEED = 0  # of the data: runs of other seeds train on the same
KEPT = ("recipe=", "generate.", "source=", "data_root=", "out=")  # words of a command that the data hang on


def with_grown_data(run: Run, config: dict[str, Any], overrides: Sequence[str]) -> tuple[Run, dict[str, Any]]:
    """Return the run and its config with the folder of generated tasks as their dataset.

    What is there already is read, what was begun goes on. Processes that want the same data wait for each other.

    Raises:
        UserError: no task was kept, more are there than are asked for, or a plan would have to pay for the tasks.
    """
    if not run.grows_data:
        return run, config
    assert run.generate is not None
    writing = replace(run, seed=SEED, force=False)
    lock = Path(run.out, "generate", ".lock")
    lock.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock) if is_main() else nullcontext():
        words = ["job=generate", *(word for word in overrides if word.startswith(KEPT))]
        said = {**config, "job": "generate", "seed": SEED, "force": False}
        folder = generate(writing, said, words, only_looks=run.job == "plan")
    while finished(folder, run.generate) is None:  # under torchrun one process writes
        time.sleep(1)
    result = record.read_result(folder)
    assert result is not None
    _complain_of_more(folder, result, run.generate)
    if not result["counts"]["kept"]:
        writer = result["audit"]["sources"]["model"]["name"]
        raise UserError(
            f"nothing that {writer} wrote was kept ({folder}/rejected.jsonl tells why); name a writer that can: "
            "generate.model=ID_OR_DIR, or generate.generator=endpoint"
        )
    task = replace(run.task, dataset=str(folder))
    return replace(run, task=task, data_root=None), {**config, "task": {**config["task"], "dataset": str(folder)}}


def _complain_of_more(folder: Path, result: Mapping[str, Any], settings: Generate) -> None:
    """Refuse a folder that was grown for a higher target: a run would train on all of it, whatever it says."""
    count, overshoot = result["counts"]["kept"], settings.batch - 1  # the last round may keep as many more
    if count <= settings.target + overshoot:
        return
    before = result["run"]["config"]["generate"]["target"]
    enough = before if before >= count - overshoot else count
    raise UserError(
        f"{folder} holds {count:,} tasks, generate.target={settings.target} asks for fewer; say "
        f"generate.target={enough}, or out=FOLDER for tasks of its own"
    )
