"""Downstream gain of continued pretraining: a task is trained from the base and from the adapted model."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from peftkit.config import RunConfig, UserError, kind_of
from peftkit.config.console import is_main_process, log
from peftkit.jobs.finetune import finetune
from peftkit.leaderboard.stats import task_score
from peftkit.pipeline.artifacts import find_model, merged_folder
from peftkit.pipeline.start import check_base
from peftkit.results import run_folder
from peftkit.results.run_result import RunResult

JOB_OVERRIDES = ("job=", "run=")  # overrides that the two runs do not have


def downstream(config: RunConfig, on_start: Callable[[Path], None] | None = None) -> Path:
    """Train a task from the base of a language modeling run and from the model that this run trained.

    Both are runs of job=finetune with the same seed and settings; a learning rate is searched separately for each.
    Masked language modeling drops BERT's pooler: where [CLS] is pooled, the second run newly initializes it. Both
    scores are added to those of other tasks and seeds, under `language` in the result of the language modeling run.

    Returns:
        The folder of the second run.

    Raises:
        UserError: `run` is not a language modeling run or cannot be merged, its base is not the base of the config,
            or the labels are hidden.
    """
    run = RunResult.finished(config.run)
    folder, adapted = run.folder, run.config
    if adapted.task.kind != "language_modeling" or adapted.trial:
        problem = "is a trial" if adapted.trial else f"trained {adapted.task.name}, not a language model"
        raise UserError(f"{folder} {problem}; set run= to a finished run of recipe=adapt_bert, adapt_gpt2 or adapt_t5")
    check_base(run, config, find_model(config.model, config.source))
    checkpoint = merged_folder(run)
    overrides = tuple(override for override in config.overrides if not override.lstrip("+").startswith(JOB_OVERRIDES))
    first = replace(config, job="finetune", run=None, overrides=overrides)
    before = finetune(first, on_start)
    result = RunResult(before).record
    if not result["scores"]:
        raise UserError(f"task={config.task.name} has hidden labels, so nothing can be compared; use another task")
    changes: dict[str, Any] = {"checkpoint": str(checkpoint), "revision": "main"}
    if config.model.family == "encoder" and kind_of(config.task).sequence_label:
        # the pooling of the base: the merged folder does not record how it was trained
        changes["pooling"] = result["audit"]["sources"]["model"]["pooling"]
    overrides += tuple(f"model.{name}={value}" for name, value in changes.items())
    after = finetune(replace(first, model=replace(first.model, **changes), overrides=overrides), on_start)
    if is_main_process():
        settings = run_folder.run_id(replace(first, seed=0), result["audit"]["sources"], result["run"]["setup"])
        _record(run, f"{config.task.name}-{config.method.name}-{settings}", config, before, after)
    return after


def _record(run: RunResult, name: str, config: RunConfig, before: Path, after: Path) -> None:
    """Add both scores to the result of the language modeling run, which several seeds may update at the same time."""
    first, second = RunResult(before).record, RunResult(after).record
    scores = {"before": task_score(first["scores"]), "after": task_score(second["scores"])}
    rate = "searched separately" if config.search.is_set else f"{float(config.train['learning_rate']):g}"
    entry = {
        "task": config.task.name,
        "method": config.method.name,
        "learning_rate": rate,
        "rows": first["audit"]["rows"].get(str(config.task.splits["train"])),
        "fresh": second["audit"]["fresh"],
        "seeds": {},
    }
    with run_folder.updated_result(run.folder, run.record) as result:
        entries = result["language"].setdefault("downstream", {})
        entries.setdefault(name, entry)["seeds"][str(config.seed)] = scores
    log(
        f"{config.task.name}, {config.method.name}: {scores['before']:.3f} from the base, {scores['after']:.3f} from "
        f"{run.folder}"
    )
