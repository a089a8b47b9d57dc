"""How many runs of a command train at the same time, with how many threads, and on which GPU each."""

import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from importlib import import_module
from typing import Any

from peftkit.config import JOBS, RunConfig
from peftkit.config.console import log
from peftkit.config.imports import end_imports
from peftkit.config.progress import shown_progress, stage
from peftkit.config.worker_pool import Ended, WorkerPool
from peftkit.jobs.dispatch import run_job

# keys of train that do not change the memory of a run
RATE_KEYS = ("learning_rate", "num_train_epochs", "warmup_steps", "weight_decay", "lr_scheduler_type", "max_grad_norm")


def with_workers(config: RunConfig, runs: int, auto: int = 1) -> RunConfig:
    """Return the config of one of several runs, with the threads of each and the number that train at the same time.

    The number of threads depends on `workers` alone, so that the runs of a command that goes on equal those before.

    Args:
        auto: the number of workers=auto.
    """
    if config.workers is None or config.job in ("plan", "fetch"):
        return replace(config, workers=None)
    allowed = auto if config.workers == "auto" else config.workers
    number = min(allowed, runs)
    return replace(
        config,
        threads=config.threads or max(usable_cores() // allowed, 1),
        workers=number if number > 1 else None,
    )


def with_same_workers(configs: Sequence[RunConfig]) -> list[RunConfig]:
    """Return the configs of all runs of a command as `with_workers` does, for processes that are started anew."""
    auto = number_of_workers(configs, len(configs), can_fork=False) if configs[0].workers == "auto" else 1
    return [with_workers(config, len(configs), auto) for config in configs]


def number_of_workers(configs: Sequence[RunConfig], runs: int, can_fork: bool) -> int:
    """Return the number of workers=auto: of the cores, of the runs, and as many as fit into the free memory.

    With GPUs each has one of its own.

    Args:
        configs: those of the runs that differ in more than the seed.
        runs: the number of all runs.
        can_fork: whether this process has only imported what runs need.
    """
    limits = [(usable_cores(), "cores"), (runs, "runs")]
    if configs[0].job != "plan" and min(limits)[0] > 1:
        import torch

        if torch.accelerator.is_available():
            limits.append((torch.accelerator.device_count(), "GPUs"))
        else:
            limits.append(_fitting(configs, can_fork, min(limits)[0]))
    number, reason = min(limits, key=lambda limit: limit[0])
    if runs > 1:
        log(f"workers=auto: {number} of {runs} runs at a time, limited by the {reason}")
    return number


def prepare_fork(job: str) -> bool:
    """Import what a job needs; return whether processes can be forked from this one, if it has run nothing."""
    if sys.platform != "linux":
        return False
    import torch

    import_module(JOBS[job].entry.partition(":")[0])
    end_imports()
    return not torch.accelerator.is_available()  # its driver does not survive a fork


def gpu_environments() -> list[dict[str, str]]:
    """Return the environment of a process that uses one GPU, for each of them; one that sets nothing without a GPU."""
    import torch

    name, count = "CUDA_VISIBLE_DEVICES", torch.cuda.device_count()
    visible = os.environ.get(name) or ",".join(map(str, range(count)))
    return [{name: device} for device in visible.split(",")[:count]] or [{}]


def usable_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def _fitting(configs: Sequence[RunConfig], can_fork: bool, most: int) -> tuple[int, str]:
    """Return how many of the largest run fit into the free memory, and the reason.

    The libraries are counted for each, although processes that are forked share them: each has a second process, which
    verifies its models.
    """
    from peftkit.pipeline.memory import SPARE, free_memory

    free, peak = SPARE * free_memory(), max(_peaks(configs, can_fork), default=0)
    number = most if most * peak <= free else max(int(free / peak), 1)
    return number, f"memory: {peak / 1e6:,.0f} MB a run, {free / 1e6:,.0f} MB free"


def _peaks(configs: Sequence[RunConfig], can_fork: bool) -> list[float]:
    """Return the peak memory of each run that can be planned, in bytes; infinity where planning it takes too much.

    They are planned in a process of its own, so that this one stays small and has run nothing.
    """
    planned: list[RunConfig] = []
    for config in map(_without_rates, configs):
        if config not in planned:
            planned.append(config)
    peaks: list[float] = []

    def receive(_: RunConfig, message: Any) -> None:
        if isinstance(message, float):
            peaks.append(message)
        elif isinstance(message, Ended) and message.reason is not None:
            peaks.append(float("inf"))

    pool = WorkerPool(1, _send_peak, receive, can_fork and prepare_fork(configs[0].job))
    try:
        for config in planned:
            pool.submit(config)
        with shown_progress(), stage("planning the memory of the runs"):
            pool.drain()
    finally:
        pool.stop()
    return peaks


def _without_rates(config: RunConfig) -> RunConfig:
    """Return a config that equals that of other runs with the same memory."""
    train = {name: value for name, value in config.train.items() if name not in RATE_KEYS}
    return replace(config, seed=0, overrides=(), train=train)


def _send_peak(config: RunConfig, send: Callable[[Any], None]) -> None:
    with suppress(Exception):  # the run fails with it too, and records it
        plan = run_job(replace(config, job="plan", plan=replace(config.plan, measure=False)))
        send(float(plan.memory.total + plan.imported))
