"""The stages of a training run: build, train, score, export and verify, and its result at the end."""

from pathlib import Path
from typing import Any

from peftkit import training
from peftkit.config import is_prompted
from peftkit.config.console import is_main_process, log
from peftkit.config.shipped_files import recorded_files, shipped_files
from peftkit.pipeline import verify
from peftkit.pipeline.artifacts import store_base
from peftkit.pipeline.build import TrainingBundle
from peftkit.pipeline.calibration import calibrate
from peftkit.pipeline.domain_scores import record_domains
from peftkit.pipeline.evaluate import evaluate_splits, predict_encoded
from peftkit.pipeline.examples import EncodedSplits, RunContext, build_and_encode
from peftkit.pipeline.export import (
    WHOLE_BASE,
    artifact_bytes,
    describe_artifact,
    export_artifact,
    has_base,
    save_prompt,
)
from peftkit.pipeline.frozen import reused_states
from peftkit.pipeline.measures import compare_language, mean_bits_per_byte, measure_latency
from peftkit.pipeline.train import TrainedRun, run_costs, train
from peftkit.results import run_folder
from peftkit.results.loading_code import BASE
from peftkit.results.model_card import model_card
from peftkit.results.run_result import RunResult


def run_stages(context: RunContext) -> None:
    """Train a run, and fill its folder."""
    config, folder = context.config, context.folder
    bundle, splits = build_and_encode(context)
    if is_main_process():
        run_folder.write_result(folder, context.result)
    with reused_states(config, bundle, splits) as features:
        trained = train(context, bundle, splits)
        record_training(context, trained)
        costs = score(context, bundle, splits, trained.trainer)
    if features is not None:
        costs["feature_seconds"] = features.train
        costs["eval_seconds"] += features.validation
    artifact = save(context, bundle)
    check(context, bundle, trained)
    costs |= latencies(context, bundle, splits)
    if is_main_process():
        size = None if artifact is None else artifact_bytes(bundle, artifact)
        context.result["costs"] = run_costs(trained, splits.train.tokens, size, costs | splits.costs)
        finish_run(context, artifact)
    # in a search and in job=downstream all processes read the result that the main process writes
    trained.trainer.accelerator.wait_for_everyone()


def record_training(context: RunContext, trained: TrainedRun) -> None:
    """Record when training made its first step, and how it computed its batches."""
    if (step := trained.fit.first_step) is not None:
        context.result["meta"]["first_step"] = step.isoformat(timespec="milliseconds")
    if trained.trainer.eager_batches:
        context.result["meta"]["training_attention"] = "eager"
    if trained.trainer.part_size is not None:
        context.result["meta"]["part_size"] = trained.trainer.part_size


def score(
    context: RunContext, bundle: TrainingBundle, splits: EncodedSplits, trainer: training.ScoringTrainer
) -> dict[str, Any]:
    """Score the validation splits, fit what was held out for it, and return the costs."""
    config = context.config
    if config.keeps_model:
        verify.start_verifier()
    context.result["scores"], costs = evaluate_splits(
        config, bundle, trainer, splits.validation, context.dataset, context.folder / "predictions.parquet"
    )
    if splits.calibration is not None:
        calibrate(context, bundle, trainer, splits.calibration)
    record_domains(context, bundle, trainer, splits)
    return costs


def save(context: RunContext, bundle: TrainingBundle) -> Path | None:
    """Write the artifact of a run that keeps its model, and return its folder."""
    config = context.config
    if not config.keeps_model or not is_main_process():
        return None
    if is_prompted(config):
        return save_prompt(bundle, context.model_source, context.folder)
    return export_artifact(bundle, context.folder, context.model_source, config.vocab)


def check(context: RunContext, bundle: TrainingBundle, trained: TrainedRun) -> None:
    """Check the saved artifact, the effect of merging and the change of language modeling."""
    config, result, name = context.config, context.result, context.config.task.splits["validation"][0]
    if not config.keeps_model:
        return
    table = context.dataset.splits[name]
    result["gates"] = verify.verify_run(config, bundle, table, context.folder, context.dataset.label_names)
    if trained.texts:
        after = {
            "held_out": result["scores"]["bits_per_byte"]["value"],
            "general": mean_bits_per_byte(predict_encoded(bundle, trained.trainer, trained.texts["general"])[0]),
        }
        result["language"] = compare_language(config, bundle, context.model_source, table, trained.bits_before, after)
    if (merged := verify.check_merge(config, bundle, table, context.folder)) is not None:
        result["merge"] = merged


def latencies(context: RunContext, bundle: TrainingBundle, splits: EncodedSplits) -> dict[str, Any]:
    """Return the latencies of a model that is kept; measuring them merges the model, so it comes last."""
    if not context.config.keeps_model or not is_main_process():
        return {}
    name = context.config.task.splits["validation"][0]
    return dict(measure_latency(context.config, bundle, splits.validation[name]))


def needs_base(context: RunContext) -> bool:
    """Return whether the base is to be stored beside an adapter, and the files of a finished run do not have it."""
    adapter, recorded = context.folder / "adapter", recorded_files(context.folder) or ()
    is_stored = has_base(adapter) and any(f"adapter/{BASE}/{name}" in recorded for name in WHOLE_BASE)
    return context.config.export.with_base and adapter.is_dir() and not is_stored


def add_base(context: RunContext) -> None:
    """Store the base beside the adapter of a run that is finished."""
    context.result = RunResult.finished(context.folder).record
    finish_run(context, context.folder / "adapter")
    log(f"the base is stored in {context.folder / 'adapter' / 'base'}")


def finish_run(context: RunContext, artifact: Path | None) -> None:
    """Write the model card and, as the last file that a finished run needs, its result."""
    if not is_main_process():
        return
    folder = context.folder
    context.check_folder()
    if artifact is not None:
        if needs_base(context):
            store_base(RunResult(folder))
        base = None if artifact.name == "model" or has_base(artifact) else context.model_source
        card = model_card(context.result, describe_artifact(artifact, artifact.name, artifact.name, base))
        run_folder.write_text(folder / "README.md", card)
    context.result["files"] = shipped_files(folder)
    context.result["meta"]["status"] = "finished"
    run_folder.write_result(folder, context.result)
