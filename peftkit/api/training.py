"""Train runs, and compare them on a board."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any, Literal

from peftkit.api.calls import compose_run, compose_runs, run_for_folder, run_values, with_libraries
from peftkit.cli import arguments
from peftkit.config.console import log_records
from peftkit.config.shared import sharing
from peftkit.jobs.comparison import train_all
from peftkit.jobs.workers import with_same_workers, with_workers

if TYPE_CHECKING:
    from peftkit.jobs.plan_record import Plan
    from peftkit.leaderboard.board import Board
    from peftkit.results.run_result import RunResult


def finetune(
    *,
    model: str | None = None,
    method: str | None = None,
    task: str | None = None,
    recipe: str | None = None,
    seed: int = 0,
    train: Mapping[str, Any] | None = None,
    **settings: Any,
) -> RunResult:
    """Fine-tune once; a finished run is repeated only with force=True.

    Args:
        model, method, task, recipe: names of conf/ and recipes/; None is the default, or the recipe's choice.
        train: arguments of transformers' trainer.
        settings: any other key or section, such as tasks=[...] in place of `task`.

    Raises:
        UserError: a name, key or value is wrong, or the data or checkpoint do not fit.
    """
    from peftkit.results.run_result import RunResult

    chosen = {"recipe": recipe, "model": model, "method": method, "task": task, "seed": seed, "train": train}
    return RunResult(run_for_folder(with_workers(compose_run(settings, **chosen), 1)))


@sharing()
def compare(
    *,
    methods: Sequence[str],
    tasks: Sequence[str],
    seeds: int | Sequence[int] = 3,
    workers: int | Literal["auto"] | None = None,
    model: str | None = None,
    recipe: str | None = None,
    train: Mapping[str, Any] | None = None,
    **settings: Any,
) -> Board:
    """Fine-tune every method on every task with every seed, and return the board of these runs.

    Args:
        seeds: seeds, or how many from 0 on.
        workers: runs that train at the same time ("auto": as cores, memory and GPUs allow), each in a process that is
            started anew; a script needs `if __name__ == "__main__":` then. None trains one after the other in this one.

    Raises:
        UserError: a name, key or value is wrong, before any run starts. A run that fails later is on the board.
    """
    from peftkit.leaderboard.board import Board

    tasks, methods = arguments.some("tasks", tasks, "name", str), arguments.some("methods", methods, "name", str)
    numbers = arguments.some("seeds", range(seeds) if isinstance(seeds, int) else seeds, "seed", int)
    chosen = {"recipe": recipe, "model": model, "train": train, "workers": workers}
    runs = [run_values(settings, **chosen, task=t, method=m, seed=n) for t, m, n in product(tasks, methods, numbers)]
    with log_records():
        configs = with_same_workers(compose_runs(runs))
    configs.sort(key=lambda config: numbers.index(config.seed) if config.sequential_seeds else 0)
    return Board.read(train_all(configs))


def plan(
    *,
    model: str | None = None,
    method: str | None = None,
    task: str | None = None,
    recipe: str | None = None,
    seed: int = 0,
    train: Mapping[str, Any] | None = None,
    **settings: Any,
) -> Plan:
    """Return the trainable parameters, steps and memory of a run, without training."""
    from peftkit.jobs.plan import make_plan

    chosen = {"recipe": recipe, "model": model, "method": method, "task": task, "seed": seed, "train": train}
    config = compose_run(settings, job="plan", **chosen)
    with with_libraries(config):
        return make_plan(config)
