"""Training of one model on several tasks: a complete run folder for each task, in the folder of the whole run."""

from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

from peftkit.config.console import log
from peftkit.jobs.stages import check, finish_run, latencies, record_training, save, score
from peftkit.leaderboard.glue import glue_average
from peftkit.leaderboard.stats import task_score
from peftkit.methods import count_parameters
from peftkit.pipeline.examples import RunContext
from peftkit.pipeline.export import artifact_bytes
from peftkit.pipeline.multitask import TaskModel, build_models, tokens_of_epoch, train_models
from peftkit.pipeline.train import TrainedRun, run_costs
from peftkit.results import run_folder

AVERAGE = "average"  # the score of the whole run


def train_together(context: RunContext) -> None:
    """Train a run of several tasks, and fill its folder and those of the tasks, which are in it."""
    tasks = build_models(context)
    run_folder.write_result(context.folder, context.result)
    trained = train_models(context, tasks)
    record_training(context, trained)
    scored = [_score_task(context, task, trained) for task in tasks]
    tokens = tokens_of_epoch(tasks, context.result["multitask"]["tasks"])
    for task, (costs, artifact) in zip(tasks, scored, strict=True):
        own = replace(trained, parameters=count_parameters(task.bundle.model))
        costs |= latencies(task.context, task.bundle, task.splits)  # merges an adapter into the base that all share
        size = None if artifact is None else artifact_bytes(task.bundle, artifact)
        task.context.result["costs"] = run_costs(own, tokens, size, costs | task.splits.costs)
        finish_run(task.context, artifact)
    _finish_whole(context, trained, tokens)


def _score_task(context: RunContext, task: TaskModel, trained: TrainedRun) -> tuple[dict[str, Any], Path | None]:
    """Score, save and check the model of a task; return the costs of that, and the folder of the artifact."""
    part, bundle = task.context, task.bundle
    part.check_folder, part.result["multitask"] = context.check_folder, context.result["multitask"]
    part.result["meta"]["started"] = context.result["meta"]["started"]
    record_training(part, trained)
    part.folder.mkdir(exist_ok=True)
    part.result["run"]["config"]["vocab"] = part.config.vocab
    run_folder.write_config(part.folder, part.config)
    run_folder.write_result(part.folder, part.result)  # which the process that verifies it reads
    costs = score(part, bundle, task.splits, task.predictor)
    artifact = save(part, bundle)
    check(part, bundle, trained)
    scores = ", ".join(f"{name} {each['value']:.3f}" for name, each in part.result["scores"].items())
    log(f"   {task.name}: {scores or 'hidden labels, no score'}")
    return costs, artifact


def _finish_whole(context: RunContext, trained: TrainedRun, tokens: float) -> None:
    """Record the scores of all tasks, their average, and the costs of the whole run."""
    results: dict[str, dict[str, Any]] = {part.config.task.name: part.result for part in context.parts}
    scores = {name: task_score(each["scores"]) for name, each in results.items() if each["scores"]}
    if scores:
        context.result["scores"] = {AVERAGE: {"value": fmean(scores.values()), "higher_is_better": True}}
    context.result["multitask"]["glue_average"] = glue_average(scores)
    context.result["tasks"] = {
        part.config.task.name: {
            "folder": part.folder.name,
            "score": scores.get(part.config.task.name),
            **{name: part.result[name] for name in ("scores", "gates", "costs")},
        }
        for part in context.parts
    }
    costs = [each["costs"] for each in results.values()]
    measured = {
        "eval_seconds": sum(each["eval_seconds"] for each in costs),
        "eval_peak_bytes": max(each["eval_peak_bytes"] or 0 for each in costs) or None,
    }
    size = sum(each["adapter_bytes"] or 0 for each in costs)
    context.result["costs"] = run_costs(trained, tokens, size, measured)
    finish_run(context, None)
