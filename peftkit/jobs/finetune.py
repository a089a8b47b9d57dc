"""Turn a choice of model, method and task into one trained, scored and recorded run."""

from __future__ import annotations

import shutil
import traceback
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from peftkit import training
from peftkit.config import RunConfig, error_summary, generates_text, is_prompted
from peftkit.config.source import Source
from peftkit.data.collate import LengthGroupedSampler, padding_waste
from peftkit.data.datasets import SEARCH_SPLIT, TaskDataset, load_task_dataset
from peftkit.data.formats import Encoded, LanguageModelingFormat
from peftkit.jobs.search import no_search, search
from peftkit.methods import count_parameters, fold
from peftkit.pipeline import language_model, latency, merge_check, verify
from peftkit.pipeline.build import (
    TrainingBundle,
    build,
    describe_sources,
    device_name,
    execution_setup,
    find_model,
    output_reader,
    own_loss,
    split_holdout,
    trainer_factory,
    warn_substitutions,
)
from peftkit.pipeline.evaluate import answer, evaluate_splits, holdout_score
from peftkit.pipeline.export import artifact_bytes, export_artifact
from peftkit.pipeline.prompting import count_shots, save_prompt
from peftkit.pipeline.reference import score_reference
from peftkit.pipeline.teacher import add_teacher_scores, teacher_answers
from peftkit.results import run_folder
from peftkit.results.console import is_main_process, log
from peftkit.results.model_card import model_card

TRAINED, CHOSEN_ON = "trained on", "chosen on"  # names of rows that are no split of the data


def finetune(run: RunConfig, begin: Callable[[Path], None] | None = None, is_asked: bool = True) -> Path:
    """Train once and leave a run folder; a finished one is left as it is, an unfinished one is resumed.

    Args:
        begin: is told the folder as soon as it is known.
        is_asked: False for a trial of a search, which speaks for its trials.

    Raises:
        UserError: the data or the checkpoint do not fit the choice.
    """
    model_source = find_model(run.model, run.source)
    rows = load_task_dataset(run.task, run.data_root, run.source, set_apart=run.search.samples if run.trial else 0)
    sources = describe_sources(run, model_source, rows.source)
    setup = execution_setup(run)
    folder = run_folder.run_folder(run, sources, setup)
    if begin is not None:
        begin(folder)
    if not run.force and (known := run_folder.read_result(folder)) and known["meta"]["status"] == "finished":
        if is_asked:
            log(f"finished already: {folder}, {_figures(known)} (force=true trains it again)")
        return folder
    if is_asked:
        warn_substitutions(model_source, rows.source)
    what = f"trial of {run.train['learning_rate']:g}" if run.trial else f"seed {run.seed}"
    log(f"{run.method.name} on {run.task.name}, {model_source.name}, {what} -> {folder}")
    if is_main_process():
        if run.force:
            _empty(folder)
        folder.mkdir(parents=True, exist_ok=True)
        run_folder.write_config(folder, run)
    started = datetime.now(timezone.utc).isoformat(timespec="seconds")
    result: dict[str, Any] = {
        "run": {"recipe": run.recipe, "config": run.to_dict(), "overrides": list(run.overrides), "setup": setup},
        "scores": {},
        "costs": {},
        "audit": {"sources": sources},
        "search": None,
        "forgetting": None,
        "meta": run_folder.meta(run.seed, device_name(), setup["precision"], started),
    }
    try:
        if run.search.lr_multipliers is not None and is_prompted(run):
            result["search"] = no_search(run)
        elif run.search.lr_multipliers is not None:
            result["search"] = search(run, lambda trial: finetune(trial, is_asked=False))
            run = replace(run, train={**run.train, "learning_rate": result["search"]["chosen"]})
            result["run"]["config"] = run.to_dict()
        if run.trial:
            run = replace(run, task=replace(run.task, splits={**run.task.splits, "validation": [SEARCH_SPLIT]}))
        _train_and_record(run, model_source, rows, folder, result)
    except BaseException as error:
        interrupted = isinstance(error, KeyboardInterrupt)
        result["meta"] |= {"status": "interrupted" if interrupted else "failed", "reason": error_summary(error)}
        if is_main_process():
            with (folder / "log.jsonl").open("a") as file:
                file.write(run_folder.line({"error": traceback.format_exc()}))
            run_folder.write_result(folder, result)
        raise
    return folder


def _empty(folder: Path) -> None:
    """Delete what a run left, but for the replies of judges: they are paid for, and go by the answers they are of."""
    for entry in folder.iterdir() if folder.is_dir() else ():
        if entry.is_dir() and not entry.is_symlink():
            if entry.name != "judged":
                shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)


def _train_and_record(
    run: RunConfig, model_source: Source, rows: TaskDataset, folder: Path, result: dict[str, Any]
) -> None:
    select_best = run.early_stopping.patience is not None
    table, held, held_rows = rows.splits[run.task.splits["train"]], None, None
    if select_best:
        table, held_rows = split_holdout(rows, run.task, run.early_stopping.holdout)
    tables = {name: rows.splits[name] for name in run.task.splits["validation"]}
    # before the model to train is loaded, so that one alone is in memory at a time
    reference = score_reference(run, model_source, {**tables, TRAINED: table, CHOSEN_ON: held_rows})
    asked_of = len(table)
    if run.distill.teacher is not None and generates_text(run.task):
        table, result["audit"]["taught"] = teacher_answers(run, table, folder)
    parts, encoded = build(run, model_source, rows.label_names, table)
    encoded = reference.beside(TRAINED, encoded)
    if run.distill.teacher is not None and not generates_text(run.task):
        encoded = add_teacher_scores(run, encoded, table, rows.label_names)
    if select_best:
        held = reference.beside(CHOSEN_ON, parts.format.encode(held_rows))
    evaluations = {name: reference.beside(name, parts.format.encode(each)) for name, each in tables.items()}
    checkpoints = folder / "checkpoints"
    follows = run.trial and held is None
    arguments = training.training_arguments(
        run.train,
        run.seed,
        checkpoints,
        select_best,
        unused_parameters=parts.schedule is not None,
        evaluate_epochs=follows,
    )
    splits = {run.task.splits["train"]: encoded, **evaluations}
    result["audit"] |= audit(rows, parts, splits if held is None else {**splits, CHOSEN_ON: held})
    result["audit"]["rows"][run.task.splits["train"]] = asked_of  # whatever a teacher made of them
    if is_prompted(run):
        result["audit"]["shots"] = count_shots(run, parts.format, evaluations)
    encoded.positions.clear()  # only answers need them: no training should hold them in memory
    held = evaluations[SEARCH_SPLIT] if follows else held
    if is_main_process():
        run_folder.write_result(folder, result)
    batch = arguments.train_batch_size
    sampler = None
    if arguments.train_sampling_strategy == "group_by_length":
        sampler = LengthGroupedSampler(encoded.lengths, batch, run.seed)
    setup = training.TrainerSetup(
        parts.model,
        arguments,
        parts.format.collator(),
        output_reader(parts),
        encoded.inputs,
        holdout=None if held is None else held.inputs,
        sampler=sampler,
        score=None if held is None else lambda scores: {"score": holdout_score(run, parts, scores, held)},
        patience=run.early_stopping.patience,
        log_file=folder / "log.jsonl",
        schedule=parts.schedule,
        loss=own_loss(run, parts),
        make=trainer_factory(run, parts, arguments),
    )
    trainer = training.make_trainer(setup)
    texts = {}
    if isinstance(parts.format, LanguageModelingFormat) and not run.trial:
        (held_out, *_) = run.task.splits["validation"]
        texts = {"held_out": evaluations[held_out], "general": language_model.general_text(parts, run.task)}
    before = {name: language_model.bits_per_byte(answer(parts, trainer, text)[0]) for name, text in texts.items()}
    if before:
        training.reset_preparation(trainer)
    fit = training.fit(trainer, checkpoints)
    if run.trial:
        result["curve"] = _curve(fit)
    else:
        verify.prewarm_verifier()
    parameters = count_parameters(parts.model)
    fold(parts.model)
    result["scores"], eval_costs = evaluate_splits(
        run, parts, trainer, evaluations, rows, folder / "predictions.parquet"
    )
    order = np.arange(len(encoded.lengths)) if sampler is None else sampler.order(0)
    tokens = round(encoded.tokens * fit.epochs)
    artefact, speeds = None, {}
    if not run.trial:
        artefact = folder
        if is_main_process() and is_prompted(run):
            artefact = save_prompt(parts.format, model_source, folder)
        elif is_main_process():
            artefact = export_artifact(parts, folder, run.vocab)
        split = rows.splits[run.task.splits["validation"][0]]
        precision = result["run"]["setup"]["precision"]
        result["gates"] = verify.verify_run(run, parts, split, folder, rows.label_names, precision)
        if texts:
            general = language_model.bits_per_byte(answer(parts, trainer, texts["general"])[0])
            after = {"held_out": result["scores"]["bits_per_byte"]["value"], "general": general}
            result["language"] = language_model.compare_language(run, parts, model_source, split, before, after)
        if (merged := merge_check.check_merge(run, parts, split, folder)) is not None:
            result["merge"] = merged
        if is_main_process():
            speeds = latency.measure_latency(run, parts, evaluations[run.task.splits["validation"][0]])
    if is_main_process():
        if (checkpoints / "runs").is_dir():  # where transformers puts TensorBoard's files
            shutil.move(checkpoints / "runs", folder / "tensorboard")
        shutil.rmtree(checkpoints, ignore_errors=True)
        result["costs"] = {
            "trainable_params": parameters.trainable,
            "head_params": parameters.head,
            "total_params": parameters.total,
            "adapter_bytes": None if artefact is None else artifact_bytes(parts, artefact),
            "train_seconds": fit.seconds,
            "train_peak_bytes": fit.peak_bytes,
            "train_reserved_bytes": fit.reserved_bytes,
            **eval_costs,
            **reference.costs,
            **speeds,
            "tokens": tokens,
            "padding_waste": padding_waste(encoded.lengths, order, batch),
            "tokens_per_second": tokens / fit.seconds if tokens else 0.0,
            "steps": fit.steps,
            "epochs": fit.epochs,
        }
        result["meta"]["status"] = "finished"
        if artefact is not None:
            run_folder.write_text(folder / "README.md", model_card(result, artefact.name))
        run_folder.write_result(folder, result)
        log(f"   {_figures(result)} in {fit.seconds:.0f} s")
    trainer.accelerator.wait_for_everyone()  # a search, and job=downstream, read in every process what one has written


def _figures(result: dict[str, Any]) -> str:
    scores = ", ".join(f"{name} {entry['value']:.3f}" for name, entry in result["scores"].items())
    return scores or "labels hidden, no score"


def _curve(fit: training.TrainingSummary) -> list[dict[str, float]]:
    """Return the score after each epoch, by the seconds of training that it took: evaluations are not counted."""
    entries = [entry for entry in fit.history if "eval_score" in entry]
    seconds = fit.seconds - sum(entry["eval_runtime"] for entry in entries)
    return [
        {"epoch": entry["epoch"], "seconds": seconds * entry["epoch"] / fit.epochs, "score": entry["eval_score"]}
        for entry in entries
    ]


def audit(rows: TaskDataset, parts: TrainingBundle, splits: dict[str, Encoded]) -> dict[str, Any]:
    """Count rows, truncated rows, dropped rows and labels of every split; name what began at random below the head."""
    model = language_model.plain_model(parts.model)
    return {
        "fresh": [*getattr(model, "fresh_head", ()), *getattr(model, "fresh_base", ())],
        "label_names": rows.label_names,
        "rows": {name: len(encoded.has_label) for name, encoded in splits.items()},
        "truncated": {name: encoded.truncated for name, encoded in splits.items()},
        "dropped": rows.dropped,
        "label_counts": {name: parts.format.label_counts(encoded) for name, encoded in splits.items()},
    }
