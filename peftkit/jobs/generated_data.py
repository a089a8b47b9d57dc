"""Training on generated tasks: task.dataset=self_instruct runs job=generate first."""

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
from peftkit.jobs.generate import finished_note, generate
from peftkit.results import run_folder
from peftkit.results.console import is_main_process

SEED = 0  # of the data: runs of other seeds train on the same
PATIENCE = 2 * 3600.0  # seconds without a reply after which a waiting process gives up: a model may be downloaded first
RELEVANT = ("recipe=", "generate.", "source=", "data_root=", "out=")  # overrides that determine the data


def with_generated_data(config: RunConfig) -> RunConfig:
    """Return the config with a folder of generated tasks as its dataset, where it needs one.

    A finished folder is used, an unfinished one is continued. Processes that need the same data wait for each other.

    Raises:
        UserError: no task was kept, the folder has more tasks than requested, or job=plan would have to generate.
    """
    if not config.generates_data:
        return config
    settings = config.generate
    # without generate.model the run's own model generates
    relevant = RELEVANT if settings.model is not None else (*RELEVANT, "model=", "model.")
    overrides = ("job=generate", *(override for override in config.overrides if override.startswith(relevant)))
    lock = Path(config.out, "generate", ".lock")
    lock.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock) if is_main_process() else nullcontext():
        generating = replace(config, job="generate", seed=SEED, force=False, overrides=overrides)
        folder = generate(generating, may_generate=config.job != "plan")
    _wait(folder, settings)
    result = run_folder.read_result(folder)
    assert result is not None
    _check_count(folder, result, settings)
    if not result["counts"]["kept"]:
        raise UserError(
            f"{folder}: no task of {result['audit']['sources']['model']['name']} was kept, rejected.jsonl has the "
            "reasons; set generate.model=ID_OR_DIR or generate.generator=endpoint to use another generator"
        )
    return replace(config, task=replace(config.task, dataset=str(folder)), data_root=None)


def _wait(folder: Path, settings: Generate) -> None:
    """Wait until the folder is finished: under torchrun the main process writes it, and the others wait here.

    Raises:
        UserError: the main process failed, or has received no reply for a long time.
    """
    start, is_logged = time.time(), False
    while finished_note(folder, settings) is None:
        if not is_logged:
            rank = os.environ.get("RANK", "0")
            print(f"process {rank} waits for process 0 to fill {folder}", file=sys.stderr, flush=True)
            is_logged = True
        result, journal = folder / "result.json", folder / "journal.jsonl"
        if result.is_file() and result.stat().st_mtime > start:
            meta = (run_folder.read_result(folder) or {})["meta"]
            if meta["status"] == "failed":
                raise UserError(f"{folder}: generation failed: {meta['reason']}; run job=generate seed={SEED}")
        last = max(start, journal.stat().st_mtime) if journal.is_file() else start
        if time.time() - last > PATIENCE:
            raise UserError(f"{folder}: no reply for {PATIENCE / 3600:g} hours; run job=generate seed={SEED} first")
        time.sleep(1)


def _check_count(folder: Path, result: Mapping[str, Any], settings: Generate) -> None:
    """Refuse a folder with more tasks than requested: a run would train on all of them."""
    count, overshoot = result["counts"]["kept"], settings.batch - 1  # the last round may keep as many more
    if count <= settings.num_instructions + overshoot:
        return
    before = result["run"]["config"]["generate"]["num_instructions"]
    enough = before if before >= count - overshoot else count
    raise UserError(
        f"{folder}: has {count:,} tasks, more than generate.num_instructions={settings.num_instructions}; use "
        f"generate.num_instructions={enough}, or out=FOLDER for separate tasks"
    )
