"""Fine-tuning: one model, method and task, trained, scored, verified and recorded in a run folder."""

from __future__ import annotations

import shutil
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from peftkit.config import RunConfig, error_summary, is_prompted
from peftkit.data.datasets import SEARCH_SPLIT, load_task_dataset
from peftkit.jobs.search import search
from peftkit.pipeline import verify
from peftkit.pipeline.artifacts import artifact_bytes, export_artifact, save_prompt
from peftkit.pipeline.build import TrainingBundle
from peftkit.pipeline.evaluate import answer, evaluate_splits
from peftkit.pipeline.examples import EncodedSplits, RunContext, build_and_encode, load_examples
from peftkit.pipeline.measures import bits_per_byte, compare_language, measure_latency
from peftkit.pipeline.sources import describe_sources, device_name, execution_setup, find_model, warn_substitutions
from peftkit.pipeline.train import TrainedRun, run_costs, train
from peftkit.pipeline.verify import check_merge
from peftkit.results import run_folder
from peftkit.results.console import is_main_process, log
from peftkit.results.model_card import model_card
from peftkit.results.run_result import RunResult


def finetune(config: RunConfig, begin: Callable[[Path], None] | None = None, is_nested: bool = False) -> Path:
    """Train once and leave a run folder; a finished one is left as it is, an unfinished one is resumed.

    Args:
        begin: called with the run folder before training.
        is_nested: True for a trial of a search, which logs for its trials.

    Raises:
        UserError: the data or the checkpoint do not fit the config.
    """
    context = _open(config)
    folder = context.folder
    if begin is not None:
        begin(folder)
    if not config.force and run_folder.is_finished(folder):
        if not is_nested:
            log(f"finished already: {folder}, {_scores(RunResult(folder).record)} (force=true trains it again)")
        return folder
    if not is_nested:
        warn_substitutions(context.model_source, context.dataset.source)
    what = f"trial of {config.train['learning_rate']:g}" if config.trial else f"seed {config.seed}"
    log(f"{config.method.name} on {config.task.name}, {context.model_source.name}, {what} -> {folder}")
    if is_main_process():
        if config.force:
            _empty(folder)
        folder.mkdir(parents=True, exist_ok=True)
        run_folder.write_config(folder, config)
    try:
        _search_learning_rate(context)
        _run_stages(context)
    except BaseException as error:
        _record_failure(context, error)
        raise
    return folder


def _open(config: RunConfig) -> RunContext:
    """Find model and data, and with them the run folder; nothing is written yet."""
    source = find_model(config.model, config.source)
    samples = config.search.samples if config.trial else 0
    dataset = load_task_dataset(config.task, config.data_root, config.source, search_samples=samples)
    sources, setup = describe_sources(config, source, dataset.source), execution_setup(config)
    result: dict[str, Any] = {
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
        "forgetting": None,
        "meta": run_folder.meta(config.seed, device_name(), setup["precision"]),
    }
    return RunContext(config, source, dataset, run_folder.run_folder(config, sources, setup), result)


def _search_learning_rate(context: RunContext) -> None:
    """Choose the learning rate by trials where a search is set; a trial itself is scored on the examples set apart."""
    config, result = context.config, context.result
    if config.search.lr_multipliers is not None:
        result["search"] = search(config, lambda trial: finetune(trial, is_nested=True))
        rate = result["search"]["chosen"] or config.train["learning_rate"]  # a method without weights has no trials
        config = replace(config, train={**config.train, "learning_rate": rate})
        result["run"]["config"] = config.to_dict()
    if config.trial:
        task = replace(config.task, splits={**config.task.splits, "validation": [SEARCH_SPLIT]})
        config = replace(config, task=task)
    context.config = config


def _run_stages(context: RunContext) -> None:
    config, folder = context.config, context.folder
    examples = load_examples(context)
    bundle, splits = build_and_encode(context, examples)
    if is_main_process():
        run_folder.write_result(folder, context.result)
    trained = train(context, bundle, splits)
    if not config.trial:
        verify.prewarm_verifier()
    context.result["scores"], costs = evaluate_splits(
        config, bundle, trained.trainer, splits.validation, context.dataset, folder / "predictions.parquet"
    )
    artifact = None
    if not config.trial:
        if is_main_process() and is_prompted(config):
            artifact = save_prompt(bundle.format, context.model_source, folder)
        elif is_main_process():
            artifact = export_artifact(bundle, folder, context.model_source, config.vocab)
        costs |= _verify(context, bundle, trained, splits)
    if is_main_process():
        size = None if artifact is None else artifact_bytes(bundle, artifact)
        context.result["costs"] = run_costs(trained, splits.train, size, costs | examples.reference.costs)
        _record(context, artifact)
        log(f"   {_scores(context.result)} in {trained.fit.seconds:.0f} s")
    # a search and job=downstream read in every process what one has written
    trained.trainer.accelerator.wait_for_everyone()


def _verify(context: RunContext, bundle: TrainingBundle, trained: TrainedRun, splits: EncodedSplits) -> dict[str, Any]:
    """Check the artifact, what merging changes and what was forgotten; return the latencies.

    Measuring latency merges the model, so it comes last.
    """
    config, result, name = context.config, context.result, context.first_validation
    table = context.dataset.splits[name]
    precision = result["run"]["setup"]["precision"]
    result["gates"] = verify.verify_run(config, bundle, table, context.folder, context.dataset.label_names, precision)
    if trained.texts:
        general = bits_per_byte(answer(bundle, trained.trainer, trained.texts["general"])[0])
        after = {"held_out": result["scores"]["bits_per_byte"]["value"], "general": general}
        result["language"] = compare_language(config, bundle, context.model_source, table, trained.bits_before, after)
    if (merged := check_merge(config, bundle, table, context.folder)) is not None:
        result["merge"] = merged
    return dict(measure_latency(config, bundle, splits.validation[name])) if is_main_process() else {}


def _record(context: RunContext, artifact: Path | None) -> None:
    """Write the result and the model card, and remove the checkpoints."""
    folder, checkpoints = context.folder, context.checkpoints
    if (checkpoints / "runs").is_dir():  # where transformers puts TensorBoard's files
        shutil.move(checkpoints / "runs", folder / "tensorboard")
    shutil.rmtree(checkpoints, ignore_errors=True)
    context.result["meta"]["status"] = "finished"
    if artifact is not None:
        run_folder.write_text(folder / "README.md", model_card(context.result, artifact.name))
    run_folder.write_result(folder, context.result)


def _record_failure(context: RunContext, error: BaseException) -> None:
    """Record in the run folder why a run failed or was interrupted."""
    status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
    context.result["meta"] |= {"status": status, "reason": error_summary(error)}
    if is_main_process():
        with (context.folder / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(run_folder.line({"error": traceback.format_exc()}))
        run_folder.write_result(context.folder, context.result)


def _empty(folder: Path) -> None:
    """Delete what a run left, except for paid replies of judges, which are stored by the answers they are about."""
    for entry in folder.iterdir() if folder.is_dir() else ():
        if entry.is_symlink() or not entry.is_dir():
            entry.unlink(missing_ok=True)
        elif entry.name != "judged":
            shutil.rmtree(entry, ignore_errors=True)


def _scores(result: dict[str, Any]) -> str:
    scores = ", ".join(f"{name} {entry['value']:.3f}" for name, entry in result["scores"].items())
    return scores or "hidden labels, no score"
