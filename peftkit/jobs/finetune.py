"""Fine-tuning: one model, method and task, trained, scored, verified and recorded in a run folder.

Where settings are searched, every method gets the same number of trials.
"""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from peftkit.config import RunConfig
from peftkit.config.console import is_main_process, log
from peftkit.config.search_space import with_candidate
from peftkit.config.shared import sharing
from peftkit.data.datasets import FOLD_SPLIT, SEARCH_SPLIT
from peftkit.jobs.cross_validation import cross_validate
from peftkit.jobs.multitask import train_together
from peftkit.jobs.report import log_warnings
from peftkit.jobs.search import search
from peftkit.jobs.stages import add_base, finish_run, needs_base, run_stages
from peftkit.metrics import check_own_metrics
from peftkit.paths import safe_name
from peftkit.pipeline import verify
from peftkit.pipeline.artifacts import find_model
from peftkit.pipeline.encoding import read_dataset
from peftkit.pipeline.examples import RunContext
from peftkit.pipeline.main_process import follow_main_process
from peftkit.pipeline.processes import one_outcome
from peftkit.pipeline.report import FILE as REPORT
from peftkit.pipeline.report import try_report
from peftkit.pipeline.sources import describe_sources, device_name, execution_setup, warn_substitutions
from peftkit.results import run_folder
from peftkit.results.locks import locked_folder
from peftkit.results.run_end import record_failure, recorded_failure, remove_leftovers
from peftkit.results.run_result import RunResult

SHOWN_FINDINGS = 3  # of a report, after each run


@sharing()
def finetune(
    config: RunConfig,
    on_start: Callable[[Path], None] | None = None,
    waits: bool = True,
    is_nested: bool = False,
) -> Path:
    """Train once and write a run folder; a finished run is skipped, an unfinished one is resumed.

    Args:
        on_start: called with the run folder before training.
        waits: whether to wait for a process that trains the same run.
        is_nested: True for a trial or a fold, whose search or cross-validation logs the status.

    Raises:
        UserError: the data or the checkpoint do not match the config.
        BusyError: another process trains the same run, and `waits` is False.
    """
    context = _new_context(config)
    folder = context.folder
    with ExitStack() as stack:

        def is_finished() -> bool:
            context.check_folder = stack.enter_context(locked_folder(folder, waits))
            return not config.force and all(run_folder.is_finished(each.folder) for each in (context, *context.parts))

        # before the lock, nothing of the folder is read: another process may write it
        done = follow_main_process(str(folder), is_finished)
        if on_start is not None:
            on_start(folder)
        if done:
            if is_main_process():  # what a process that was killed after the result has not done
                remove_leftovers(folder)
                for each in context.parts or [context]:
                    if needs_base(each):
                        add_base(each)
                    if not (each.folder / REPORT).is_file():
                        write_report(each)
            if not is_nested:
                log_finished(folder, "trains it again")
            return folder
        if not is_nested:
            warn_substitutions(context.model_source, *(each.dataset.source for each in context.parts or [context]))
        _train(context)
    return folder


def _train(context: RunContext) -> None:
    """Train a run whose folder is locked, or record why it failed."""
    config, folder = context.config, context.folder
    log(f"{config.method.name} on {config.task.name}, {context.model_source.name}, {_label(config)} -> {folder}")
    context.result["meta"]["started"] = run_folder.now()
    with recorded_failure(folder, context.result, context.check_folder):
        if is_main_process():
            if config.force:
                run_folder.delete_files(folder)
            for each in (context, *context.parts):
                run_folder.clear_torn(each.folder)
            run_folder.write_config(folder, config)
        with one_outcome(lambda error: record_failure(folder, context.result, error, context.check_folder)):
            if config.is_cross_validation:
                cross_validate(context, _train_fold)
                finish_run(context, None)
            else:
                _choose_settings(context)
                (train_together if context.parts else run_stages)(context)
    if is_main_process():
        remove_leftovers(folder)
        log(f"   {describe_scores(context.result)} in {context.result['costs']['train_seconds']:.0f} s")
        for each in context.parts or [context]:
            write_report(each)


def skipped_run(config: RunConfig, reason: str | None) -> Path | None:
    """Return the folder of a run that is not needed, for a reason that is recorded there, now or before; else None.

    A finished run stays.
    """
    context = _new_context(config)
    folder, meta = context.folder, context.result["meta"]

    def recorded_reason() -> str | None:
        with locked_folder(folder):
            result = None if config.force else run_folder.valid_result(folder)
            status = None if result is None else result["meta"].get("status")
            if result is not None and status == "skipped":
                return str(result["meta"]["reason"])
            if status == "finished" or reason is None:
                return None
            context.result["meta"] = {**meta, "status": "skipped", "reason": reason}
            run_folder.write_result(folder, context.result)
            return reason

    if (found := follow_main_process(str(folder), recorded_reason)) is None:
        return None
    log(f"skipped: {config.method.name} on {config.task.name}, {_label(config)}: {found}")
    return folder


def _label(config: RunConfig) -> str:
    """Return what distinguishes a run from others of its method and task."""
    fold = f", {config.task.folds} folds" if config.task.folds is not None else ""
    fold = fold if config.task.fold is None else f", fold {config.task.fold + 1} of {config.task.folds}"
    if config.trial:
        return f"trial with learning rate {config.train['learning_rate']:g}{fold}"
    return f"seed {config.seed}{fold}"


def fork_verifier() -> None:
    """Fork the process that verifies saved models, from one that has imported what a run needs and run nothing."""
    verify.fork_verifier()


def _train_fold(config: RunConfig) -> Path:
    return finetune(config, is_nested=True)


def _new_context(config: RunConfig) -> RunContext:
    """Find model, data and the run folder; nothing is written yet."""
    check_own_metrics(config.task.metrics)
    parts = [_new_context(replace(config, task=task)) for task in config.tasks or ()] if config.is_multitask else []
    source = find_model(config.model, config.source)
    dataset = parts[0].dataset if parts else read_dataset(config)
    sources, setup = describe_sources(config, source, dataset.source), execution_setup(config, dataset.is_split)
    result = new_result(config, sources, setup)
    if parts:
        setup["tasks"] = run_folder.digest([_id_of_task(part) for part in parts])
    folder = run_folder.run_folder(config, sources, setup)
    for part in parts:
        part.result["run"]["setup"]["tasks"] = setup["tasks"]
        part.folder = folder / safe_name(part.config.task.name)
    return RunContext(config, source, dataset, folder, result, parts=parts)


def _id_of_task(part: RunContext) -> str:
    """Return a hash of the settings and the data of one of several tasks, whatever the seed."""
    sources, setup = part.result["audit"]["sources"], part.result["run"]["setup"]
    return run_folder.run_id(replace(part.config, seed=0), sources, setup)


def new_result(config: RunConfig, sources: dict[str, Any], setup: dict[str, Any]) -> dict[str, Any]:
    """Return the result of a run that starts.

    Args:
        sources: the records of model and data.
        setup: what determines the result besides settings and sources, from `execution_setup`.
    """
    return {
        "run": {
            "recipe": config.recipe,
            "config": config.to_dict(),
            "overrides": list(config.overrides),
            "setup": setup,
        },
        "scores": {},
        "costs": {},
        "audit": {"sources": sources},
        "search": None,
        "calibration": None,
        "cross_validation": None,
        "forgetting": None,
        "meta": run_folder.meta(config.seed, device_name(config.workers), setup["precision"])
        | {"threads": torch.get_num_threads()},
    }


def _choose_settings(context: RunContext) -> None:
    """Choose settings by trials if a search is set; trials are scored on examples held out from training."""
    config, result = context.config, context.result
    if config.search.is_set:
        result["search"], best = search(config, partial(finetune, is_nested=True))
        config = config if best is None else with_candidate(config, best)
        result["run"]["config"] = config.to_dict()
    if config.trial or config.task.fold is not None:
        splits = {**config.task.splits, "validation": [SEARCH_SPLIT if config.trial else FOLD_SPLIT]}
        config = replace(config, task=replace(config.task, splits=splits))
    context.config = config


def write_report(context: RunContext) -> None:
    """Write the report of a finished run and log its findings; a trial and a fold have none."""
    is_part = context.config.trial or context.config.task.fold is not None
    if not is_part and (report := try_report(context.folder)) is not None:
        log_warnings(report.findings[:SHOWN_FINDINGS])  # those about the data were logged before training


def log_finished(folder: Path, repetition: str) -> None:
    """Log the scores of a run that is not repeated, and what force=true would do."""
    log(f"finished already: {folder}, {describe_scores(RunResult(folder).record)} (force=true {repetition})")


def describe_scores(result: dict[str, Any]) -> str:
    """Return the scores of a result in a line of the log."""
    scores = (f"{name} {entry['value']:.3f}" for name, entry in result["scores"].items())
    return ", ".join(scores) or "hidden labels, no score"
