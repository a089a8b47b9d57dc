"""Turn task.dataset=self_instruct into the folder that job=generate fills, before anything trains on it."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from filelock import FileLock

from peftkit.config import Generate, RunConfig, UserError
from peftkit.jobs.generate import finished, generate
from peftkit.results import run_folder
from peftkit.results.console import is_main_process

SEED = 0  # of the data: runs of other seeds train on the same
PATIENCE = 2 * 3600.0  # seconds without a reply after which a waiting process gives up: a model may be fetched first
KEPT = ("recipe=", "generate.", "source=", "data_root=", "out=")  # words of a command that the data hang on


def with_generated_data(run: RunConfig) -> RunConfig:
    """Return the run with the folder of generated tasks as its dataset.

    What is there already is read, what was begun goes on. Processes that want the same data wait for each other.

    Raises:
        UserError: no task was kept, more are there than are asked for, or a plan would have to pay for the tasks.
    """
    if not run.generates_data:
        return run
    lock = Path(run.out, "generate", ".lock")
    lock.parent.mkdir(parents=True, exist_ok=True)
    kept = KEPT if run.generate.model is not None else (*KEPT, "model=", "model.")  # the run's own model writes
    with FileLock(lock) if is_main_process() else nullcontext():
        overrides = ("job=generate", *(override for override in run.overrides if override.startswith(kept)))
        writing = replace(run, job="generate", seed=SEED, force=False, overrides=overrides)
        folder = generate(writing, only_looks=run.job == "plan")
    _wait(folder, run.generate)
    result = run_folder.read_result(folder)
    assert result is not None
    _complain_of_more(folder, result, run.generate)
    if not result["counts"]["kept"]:
        writer = result["audit"]["sources"]["model"]["name"]
        raise UserError(
            f"nothing that {writer} wrote was kept ({folder}/rejected.jsonl tells why); name a writer that can: "
            "generate.model=ID_OR_DIR, or generate.generator=endpoint"
        )
    return replace(run, task=replace(run.task, dataset=str(folder)), data_root=None)


def _wait(folder: Path, settings: Generate) -> None:
    """Wait until the folder is finished: under torchrun one process writes it, and the others come here.

    Raises:
        UserError: the process that writes has failed, or shows no sign of life.
    """
    began, is_told = time.time(), False
    while finished(folder, settings) is None:
        if not is_told:
            rank = os.environ.get("RANK", "0")
            print(f"process {rank} waits for process 0 to fill {folder}", file=sys.stderr, flush=True)
            is_told = True
        result, journal = folder / "result.json", folder / "journal.jsonl"
        if result.is_file() and result.stat().st_mtime > began:
            meta = (run_folder.read_result(folder) or {})["meta"]
            if meta["status"] == "failed":
                raise UserError(
                    f"{folder} was not filled: {meta['reason']}; mend that, or say job=generate seed={SEED}"
                )
        last = max(began, journal.stat().st_mtime) if journal.is_file() else began
        if time.time() - last > PATIENCE:
            raise UserError(f"{folder} got no reply for {PATIENCE / 3600:g} hours; say job=generate seed={SEED} first")
        time.sleep(1)


def _complain_of_more(folder: Path, result: Mapping[str, Any], settings: Generate) -> None:
    """Refuse a folder that was grown for a higher target: a run would train on all of it, whatever it says."""
    count, overshoot = result["counts"]["kept"], settings.batch - 1  # the last round may keep as many more
    if count <= settings.num_instructions + overshoot:
        return
    before = result["run"]["config"]["generate"]["num_instructions"]
    enough = before if before >= count - overshoot else count
    raise UserError(
        f"{folder} holds {count:,} tasks, generate.num_instructions={settings.num_instructions} asks for fewer; say "
        f"generate.num_instructions={enough}, or out=FOLDER for tasks of its own"
    )
