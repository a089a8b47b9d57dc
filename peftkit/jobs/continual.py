"""Continual learning: tasks train one after the other from each other's weights, and are scored each time."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from peftkit.config import RunConfig, TaskConfig, UserError
from peftkit.config.console import log
from peftkit.config.start import continued_config
from peftkit.jobs.finetune import finetune
from peftkit.jobs.forgetting import load_scored_examples
from peftkit.leaderboard.stats import task_score
from peftkit.paths import safe_name
from peftkit.pipeline.continual import ContinualScores, score_with_head, table_lines, write_continual_page
from peftkit.pipeline.sources import device_name
from peftkit.results import run_folder
from peftkit.results.locks import locked_folder
from peftkit.results.run_result import RunResult

JOB_KEYS = ("job", "tasks", "task", "start")  # of the overrides, which each run has for itself


def continual(config: RunConfig, on_start: Callable[[Path], None] | None = None) -> Path:
    """Train each of `tasks` from the weights of the one before, and from the base alone; record the scores.

    Every run is one of job=finetune in its own folder: finished ones are skipped, an interrupted one is resumed.

    Returns:
        The folder of the matrix, with result.json and index.html.

    Raises:
        UserError: a task has hidden labels, or the weights of one do not fit another.
    """
    runs: list[RunResult] = []
    matrix: list[list[float]] = []
    for task in config.tasks or []:
        start = str(runs[-1].folder) if runs else config.start
        runs.append(RunResult(finetune(_run_config(config, task, start), on_start)))
        if not runs[-1].scores:
            raise UserError(f"task={task.name} has hidden labels, so nothing can be compared; use another task")
        matrix.append([_score(config, head, runs[-1]) for head in runs])
        found = (f"{run.config.task.name} {score:.3f}" for run, score in zip(runs, matrix[-1], strict=True))
        log(f"   after {task.name}: {', '.join(found)}")
    alone = [runs[0]]
    for task in (config.tasks or [])[1:]:
        alone.append(RunResult(finetune(_run_config(config, task, None), on_start)))
    names = [run.config.task.name for run in runs]
    scores = ContinualScores(names, matrix, [task_score(run.record["scores"]) for run in alone])
    folder = _folder(config, names, runs)
    _write(config, folder, scores, [*runs, *alone[1:]])
    print("\n".join(table_lines(scores)))
    log(f"-> {folder / 'index.html'}, {folder / 'result.json'}")
    return folder


def _run_config(config: RunConfig, task: TaskConfig, start: str | None) -> RunConfig:
    """Return the config of a run of one task."""
    kept = [each for each in config.overrides if each.lstrip("+~").partition("=")[0] not in JOB_KEYS]
    overrides = [*kept, "job=finetune", "tasks=null", f"task={task.name}"]
    overrides += [] if start is None else [f"start={start}"]
    own = replace(config, job="finetune", tasks=None, task=task, start=start, overrides=tuple(overrides))
    return own if start is None else replace(own, method=replace(own.method, config=continued_config(own)))


def _score(config: RunConfig, head: RunResult, body: RunResult) -> float:
    if head is body:
        return task_score(head.record["scores"])
    return score_with_head(head, body, load_scored_examples(config, head))


def _folder(config: RunConfig, names: list[str], runs: list[RunResult]) -> Path:
    """Return <out>/<suite>/continual-<tasks>/<model>/<method>/seed-<n>-<id>, beside the runs of the tasks."""
    model = run_folder.checkpoint_name(runs[0].record["audit"]["sources"]["model"])
    parts = map(safe_name, (f"continual-{'-'.join(names)}", model, config.method.name))
    number = run_folder.digest([run.folder.name for run in runs])
    return Path(runs[0].folder.parents[3], *parts, f"seed-{config.seed}-{number}")


def _write(config: RunConfig, folder: Path, scores: ContinualScores, runs: list[RunResult]) -> None:
    """Write result.json, which boards leave out, and the page."""
    top = Path(config.out).absolute()
    title = f"{config.method.name} of {folder.parents[1].name}, seed {config.seed}"
    folder.mkdir(parents=True, exist_ok=True)
    meta = run_folder.meta(config.seed, device_name(config.workers), runs[0].record["meta"]["precision"])
    result = {
        "run": {"recipe": config.recipe, "config": config.to_dict(), "overrides": list(config.overrides)},
        "continual": {**scores.as_record(), "runs": [str(run.folder.absolute().relative_to(top)) for run in runs]},
        "meta": meta | {"status": "finished"},
    }
    with locked_folder(folder):
        write_continual_page(scores, title, folder / "index.html")
        run_folder.write_result(folder, result)
