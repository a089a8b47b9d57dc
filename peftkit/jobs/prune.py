"""Prune the attention heads of a finished run, the least important ones, into a run of its own."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from peftkit.config import RunConfig, UserError, is_prompted, kind_of, refusal, refuse
from peftkit.config.console import log
from peftkit.jobs.finetune import log_finished, new_result, write_report
from peftkit.jobs.stages import finish_run
from peftkit.methods import count_parameters, merge_adapter
from peftkit.models.attention_heads import attention_layers, masked_heads, remove_heads
from peftkit.pipeline import verify
from peftkit.pipeline.artifacts import base_source, load_bundle
from peftkit.pipeline.build import TrainingBundle
from peftkit.pipeline.comparison import EXAMPLES, TOLERANCE, flat, fp32_scores, max_difference
from peftkit.pipeline.domain_scores import domain_record
from peftkit.pipeline.encoding import encode, read_dataset
from peftkit.pipeline.evaluate import evaluate_splits, predictor
from peftkit.pipeline.examples import RunContext
from peftkit.pipeline.export import export_artifact
from peftkit.pipeline.measures import measure_latency
from peftkit.pipeline.pruning import as_lists, describe_layers, head_importance, least_important, zeros_of
from peftkit.pipeline.sources import warn_substitutions
from peftkit.results import run_folder
from peftkit.results.locks import locked_folder
from peftkit.results.run_end import recorded_failure
from peftkit.results.run_result import RunResult


def prune(config: RunConfig, on_start: Callable[[Path], None] | None = None) -> Path:
    """Remove attention heads of a finished run; write a run folder beside it, with its scores and costs.

    Args:
        on_start: called with the folders of both runs before the heads are judged.

    Raises:
        UserError: the run has no weights, cannot be merged or was pruned by the same settings, its data is another one,
            or its heads are unknown.
        VerificationError: the pruned model is not the whole one with the removed heads masked.
    """
    run = RunResult.finished(config.run)
    if on_start is not None:
        on_start(run.folder)  # so that both are in the table of the command
    context = _new_context(config, run)
    folder = context.folder
    with locked_folder(folder) as context.check_folder:
        if on_start is not None:
            on_start(folder)
        if not config.force and run_folder.is_finished(folder):
            log_finished(folder, "prunes again")
            return folder
        warn_substitutions(context.model_source, context.dataset.source)
        _prune(context, run)
        write_report(context)
    return folder


def _new_context(config: RunConfig, run: RunResult) -> RunContext:
    trained, record = run.config, run.record
    kind = kind_of(trained.task)
    refuse(
        (is_prompted(trained), f"{run.folder}: no weights were trained; prune a run of another method"),
        (
            trained.method.traits.has_own_model,
            f"{run.folder}: method={trained.method.name} has no attention heads; prune a run of another method",
        ),
        (
            kind.loss is not None,
            f"job=prune needs the model's own loss, and task={trained.task.name} trains by {kind.loss}; "
            "prune a run of another kind of task",
        ),
    )
    pruned = replace(
        trained,
        job="prune",
        run=config.run,
        prune=config.prune,
        force=config.force,
        data_root=config.data_root or trained.data_root,
        source="offline" if record["audit"]["sources"]["data"]["kind"] == "offline" else trained.source,
        overrides=config.overrides,
    )
    data, recorded = read_dataset(pruned), record["audit"]["sources"]["data"]
    if data.source.revision != recorded["revision"]:
        raise UserError(
            f"{run.folder} was trained on {recorded['name']} {recorded['revision']}, the data is {data.source.name} "
            f"{data.source.revision}; set data_root= as for the run"
        )
    sources, setup = record["audit"]["sources"], record["run"]["setup"]
    result = new_result(pruned, sources, setup) | {"audit": record["audit"], "search": record["search"]}
    folder = _folder_of(run, run_folder.run_folder(pruned, sources, setup))
    if folder == run.folder.absolute():  # a run is named by its settings
        share = config.prune.heads or 0.0
        raise UserError(
            refusal(f"{run.folder} was pruned by prune.heads={share:g} already", f"prune.heads={share / 2:g}")
        )
    return RunContext(pruned, base_source(run), data, folder, result)


def _folder_of(run: RunResult, standard: Path) -> Path:
    """Return the folder of a pruned run: beside the run; of one of several tasks outside of their run's folder.

    That folder is deleted as a whole. A copy of it, in no <out>/<suite>/<tasks>/<model>/<method>, has the pruned run
    beside it.

    Args:
        standard: <out>/<suite>/<task>/<model>/<method>/<name> of the pruned run.
    """
    place = run.folder.absolute().parent
    together = RunResult(place)
    if run.config.tasks is None or not (together.exists and together.config.is_multitask):
        return place / standard.name
    if len(place.parts) > 5 and place.parts[-3:-1] == standard.parts[-3:-1]:
        return Path(*place.parts[:-5], *standard.parts[-5:])
    return place.parent / standard.name


def _prune(context: RunContext, run: RunResult) -> None:
    """Write the run folder of a pruned run, or record why it failed."""
    config, folder, result = context.config, context.folder, context.result
    log(f"prune {config.prune.heads:.0%} of the heads of {run.folder} -> {folder}")
    result["meta"]["started"] = run_folder.now()
    with recorded_failure(folder, result, context.check_folder):
        if config.force:
            run_folder.delete_files(folder)
        run_folder.clear_torn(folder)
        run_folder.write_config(folder, config)
        run_folder.write_result(folder, result)
        _prune_and_score(context, run)


def _prune_and_score(context: RunContext, run: RunResult) -> None:
    config, data, folder, result = context.config, context.dataset, context.folder, context.result
    bundle = load_bundle(run, quantized=False)
    bundle.model = merge_adapter(bundle.model)
    predictor(config, bundle)  # moves the model to the device of the run
    splits = {name: encode(bundle.format, data.splits[name]) for name in config.task.splits["validation"]}
    name = next(iter(splits))
    before = {"scores": run.record["scores"], **_costs(config, bundle, splits[name])}
    difference = _remove(bundle, context, data.splits[name])
    result["pruning"] |= {"run": run.folder.absolute().name, "before": before}
    run_folder.write_result(folder, result)
    trainer, file = predictor(config, bundle), folder / "predictions.parquet"
    verify.start_verifier()
    result["scores"], costs = evaluate_splits(config, bundle, trainer, splits, data, file)
    if config.task.domain is not None:
        result["domains"] = domain_record(pq.read_table(file), config.task, data.label_names)
    artifact = export_artifact(bundle, folder, context.model_source, config.vocab)
    gates = verify.verify_run(config, bundle, data.splits[name], folder, data.label_names)
    result["gates"] = gates | {"slicing_difference": difference}
    result["costs"] = run.record["costs"] | costs | _costs(config, bundle, splits[name]) | {"merged_latency_ms": None}
    _log_change(result)
    finish_run(context, artifact)


def _remove(bundle: TrainingBundle, context: RunContext, table: Any) -> float:
    """Remove the least important heads from a model, and record which; return how much the scores of some examples
    differ from those of the whole model with the removed heads masked.

    Raises:
        UserError: no head can be removed.
        VerificationError: the scores differ.
    """
    config, layers = context.config, attention_layers(bundle.model)
    importance = head_importance(bundle, layers, _judging_examples(context), config.seed)
    share, total = config.prune.heads or 0.0, sum(layer.heads for layer in layers)
    removed = least_important(importance, share)
    number, wanted = sum(map(len, removed.values())), round(share * total)
    if total == len(layers):
        raise UserError(
            f"{config.run}: every attention of the model has one head, or one group of heads; prune another run"
        )
    if not number:
        raise UserError(
            refusal(f"prune.heads={share:g} is none of the model's {total} heads", f"prune.heads={1 / total:.2f}")
        )
    grouped = layers[0].width // layers[0].key_width
    context.result["pruning"] = {
        "heads": total,
        "removed": number,
        "queries_per_head": grouped,
        "samples": config.prune.samples,
        "pruned_heads": removed,
        "importance": as_lists(importance),
    }
    names = "attention heads" if grouped == 1 else f"groups of {grouped} attention heads"
    log(
        f"   {number} of {total} {names} are removed, by {config.prune.samples} training examples; left in each layer: "
        f"{describe_layers(layers, removed)}"
    )
    if number < wanted:
        log(f"!! prune.heads={share:g} would be {wanted}, but every attention keeps one")
    encoded = bundle.format.encode(table.select(range(min(EXAMPLES, len(table)))))
    with masked_heads(layers, zeros_of(layers, removed)):
        masked = flat(bundle, fp32_scores(bundle, list(encoded.inputs)), encoded)
    remove_heads(bundle.model, removed)
    difference = max_difference(masked, flat(bundle, fp32_scores(bundle, list(encoded.inputs)), encoded))
    if not difference <= TOLERANCE["fp32"]:  # also NaN
        raise verify.VerificationError(f"the pruned model's scores differ from the masked model's by {difference:.2g}")
    return difference


def _judging_examples(context: RunContext) -> Any:
    """Return a sample of the training examples, which depends only on the seed."""
    config = context.config
    examples = context.dataset.splits[str(config.task.splits["train"])]
    order = np.random.default_rng(config.seed).permutation(len(examples))[: config.prune.samples]
    return examples.select(sorted(order.tolist()))


def _costs(config: RunConfig, bundle: TrainingBundle, encoded: Any) -> dict[str, Any]:
    return {
        "total_params": count_parameters(bundle.model).total,
        "adapter_bytes": sum(weight.nbytes for weight in bundle.model.parameters()),
        "latency_ms": measure_latency(config, bundle, encoded)["latency_ms"],
    }


def _log_change(result: dict[str, Any]) -> None:
    """Log the scores, the size and the speed before and after."""
    before, costs = result["pruning"]["before"], result["costs"]
    scores = [
        f"{name} {before['scores'][name]['value']:.3f} -> {entry['value']:.3f}"
        for name, entry in result["scores"].items()
    ]
    smaller = 1 - costs["total_params"] / before["total_params"]
    log(
        f"   {', '.join(scores)}, parameters {before['total_params']:,} -> {costs['total_params']:,} (-{smaller:.0%}), "
        f"latency {before['latency_ms']:.3g} -> {costs['latency_ms']:.3g} ms"
    )
