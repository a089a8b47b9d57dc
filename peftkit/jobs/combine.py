"""job=combine: the changes that runs made to one base, added with signed weights, as a new run for each task."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from peftkit import training
from peftkit.compat.hub import download_adapter
from peftkit.config import RunConfig, UserError, refuse
from peftkit.config.checks.start import foreign_adapter_errors
from peftkit.config.console import log
from peftkit.config.quoting import as_override
from peftkit.config.source import ADAPTER_FILE, fingerprint
from peftkit.config.start import base_of, hub_adapter, is_foreign_adapter, is_hub_id
from peftkit.config.traits import Traits, traits_of
from peftkit.data.offline_corpus import documents_fingerprint
from peftkit.jobs.finetune import describe_scores, log_finished, new_result, write_report
from peftkit.jobs.forgetting import load_scored_examples, measure_forgetting, print_forgetting, read_text
from peftkit.jobs.stages import finish_run
from peftkit.leaderboard.scale_plot import write_scale_plot
from peftkit.methods import count_parameters
from peftkit.pipeline import verify
from peftkit.pipeline.artifacts import base_source, find_model, run_tokenizer_source, with_eval_settings
from peftkit.pipeline.build import TrainingBundle
from peftkit.pipeline.combination import Combination, ForeignAdapter, Target, WeightedRun, targets_of
from peftkit.pipeline.domain_scores import domain_record
from peftkit.pipeline.examples import RunContext, score_reference, score_splits
from peftkit.pipeline.export import export_artifact
from peftkit.pipeline.measures import LATENCY_EXAMPLES, measure_latency
from peftkit.pipeline.sources import artifact_fingerprint, execution_setup, warn_substitutions
from peftkit.results import run_folder
from peftkit.results.locks import locked_folder
from peftkit.results.run_end import recorded_failure
from peftkit.results.run_result import RunResult

PAPER = "Ilharco et al. 2023, arXiv:2212.04089"
PICTURE = "interpolation.png"  # in the run folders
SUMMED_COSTS = ("trainable_params", "train_seconds")
SCALES = (1.0,)  # of which the general loss is measured, unless combine.interpolate names others


def combine(config: RunConfig, on_start: Callable[[Path], None] | None = None) -> Path:
    """Combine runs, print the general loss of each task when it is measured, and return the folder of the first one."""
    return combine_runs(config, on_start, print_forgetting)[0]


def combine_runs(
    config: RunConfig,
    on_start: Callable[[Path], None] | None = None,
    on_end: Callable[[Path], None] | None = None,
) -> list[Path]:
    """Combine runs, and write a run folder for each of their tasks; return them. Finished ones are skipped.

    The loss on general text is measured as by job=forgetting.

    Args:
        on_start: called with the folder of each task, before its combination.
        on_end: the same, after it was measured.

    Raises:
        UserError: the runs have other bases, a method cannot be merged, or the data has changed.
    """
    runs = _open_runs(config)
    config = replace(config, weights=[each.weight for each in runs])
    targets = targets_of(runs)
    contexts = [_new_context(config, runs, target) for target in targets]
    combination = Combination(runs, config.combine)
    for target, context in zip(targets, contexts, strict=True):
        folder = context.folder
        with locked_folder(folder) as context.check_folder:
            if on_start is not None:
                on_start(folder)
            if not config.force and run_folder.is_finished(folder):
                log_finished(folder, "combines again")
            else:
                warn_substitutions(context.model_source, context.dataset.source)
                _combine(context, target, combination)
        _measure_language(config, folder)
        write_report(context)
        if on_end is not None:
            on_end(folder)
    if config.combine.interpolate is not None:
        _plot(contexts, combination)
    return [context.folder for context in contexts]


def _plot(contexts: Sequence[RunContext], combination: Combination) -> None:
    """Write the curves of all tasks as a picture in the folder of each."""
    names = [each.config.task.name for each in contexts]
    unique = [name if names.count(name) == 1 else f"{name}, run {n}" for n, name in enumerate(names, start=1)]
    found = [RunResult(each.folder).record["forgetting"] for each in contexts]
    title = _terms(combination)
    for context in contexts:
        write_scale_plot(dict(zip(unique, found, strict=True)), title, context.folder / PICTURE)
    log(f"-> {contexts[0].folder / PICTURE}")


def _open_runs(config: RunConfig) -> list[WeightedRun]:
    """Return the runs and the adapters of other programs with their weights.

    Raises:
        UserError: a run is not finished, or an adapter has another base.
    """
    places = config.runs or []
    weights = config.weights or [1.0] * len(places)
    found = [None if is_foreign_adapter(each, config.out) else RunResult.finished(each) for each in places]
    first = next(run for run in found if run is not None)
    runs = [run or _open_adapter(place, first, config.source) for place, run in zip(places, found, strict=True)]
    return [WeightedRun(run, weight) for run, weight in zip(runs, weights, strict=True)]


def _open_adapter(place: str, first: RunResult, source: str) -> ForeignAdapter:
    """Return an adapter of another program on the base of a run: by its name, or by the content of its checkpoint."""
    folder = hub_adapter("runs", place, source, download_adapter) if is_hub_id(place) else Path(place)
    refuse(*((True, message) for message in foreign_adapter_errors(folder)))
    name, revision = base_of(folder / ADAPTER_FILE)
    model, base = first.config.model, base_source(first)
    if name not in {base.name, model.checkpoint, run_folder.checkpoint_name(asdict(base))}:
        other = find_model(replace(model, checkpoint=name, revision=revision), source)
        wrong = f"runs={place} is an adapter of {name}, {first.folder} of {base.name}; name runs of one base"
        refuse((other.revision != base.revision, wrong))
    return ForeignAdapter(folder, place if is_hub_id(place) else folder.absolute().name, model, base)


def _new_context(config: RunConfig, runs: Sequence[WeightedRun], target: Target) -> RunContext:
    """Read the data of a target; nothing is written yet. The config is that of its run, with another method."""
    run = target.run
    own = with_eval_settings(config, run.config)
    rank = config.combine.extract_rank
    lora = {"_target_": "peft.LoraConfig", **({} if rank is None else {"r": rank})}
    makes_adapter = Combination(runs, config.combine).makes_adapter
    method = replace(
        own.method, name="combine", config=lora if makes_adapter else {"_target_": "peftkit.methods.Untuned"},
        quantization=None, refuses={}, loraplus_lr_ratio=None, paper=PAPER,
        traits=traits_of(lora, {}) if makes_adapter else Traits(trains=False, adapter=False),
    )  # fmt: skip
    chosen = replace(
        config, seed=own.seed, model=own.model, task=own.task, domains=own.domains, train=own.train, method=method
    )
    data = load_scored_examples(config, run)
    sources, recorded = run.record["audit"]["sources"], run.record["run"]["setup"]
    setup = {**execution_setup(chosen, "split" in recorded), "runs": ", ".join(map(_label, runs))}
    heads = [value for run, weight in target.heads for value in (_fingerprint(run), weight)]
    setup["artifacts"] = [*(_fingerprint(each.run) for each in runs), *heads]
    result = new_result(chosen, sources, setup)
    rows = {**run.record["audit"]["rows"], **{name: len(table) for name, table in data.splits.items()}}
    result["audit"] = {**run.record["audit"], "rows": rows}
    return RunContext(chosen, base_source(run), data, run_folder.run_folder(chosen, sources, setup), result)


def _fingerprint(run: RunResult | ForeignAdapter) -> str:
    if isinstance(run, RunResult):
        return artifact_fingerprint("runs", run.folder)
    return fingerprint(run.folder, (".safetensors", ADAPTER_FILE))


def _label(each: WeightedRun) -> str:
    """Return the task and the method of a run, with a hash of its settings but the seed: seeds of an entry share it."""
    if isinstance(each.run, ForeignAdapter):
        return f"{each.run.name}-{_fingerprint(each.run)[:8]}"
    config, record = each.run.config, each.run.record
    settings = run_folder.run_id(replace(config, seed=0), record["audit"]["sources"], _without_artifacts(record))
    return f"{config.task.name}/{config.method.name}-{settings}"


def _terms(combination: Combination) -> str:
    """Return the weighted sum, for the log and the picture."""
    return " ".join(f"{each.weight:+g} {_label(each)}" for each in combination.runs)


def _without_artifacts(record: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in record["run"]["setup"].items() if name != "artifacts"}


def _combine(context: RunContext, target: Target, combination: Combination) -> None:
    """Write the run folder of one target, or record why it failed."""
    config, folder, result = context.config, context.folder, context.result
    where = f"{config.task.name}, {context.model_source.name}, seed {config.seed}"
    log(f"combine {_terms(combination)} on {where} -> {folder}")
    result["meta"]["started"] = run_folder.now()
    with recorded_failure(folder, result, context.check_folder):
        if config.force:
            run_folder.delete_files(folder)
        run_folder.clear_torn(folder)
        run_folder.write_config(folder, config)
        run_folder.write_result(folder, result)
        bundle, found = combination.bundle(target)
        result["combination"] = _describe(combination.runs, target, found)
        _score_and_verify(context, target, bundle, combination)
    log(f"   {describe_scores(result)}")


def _score_and_verify(context: RunContext, target: Target, bundle: TrainingBundle, combination: Combination) -> None:
    config, folder, result, data = context.config, context.folder, context.result, context.dataset
    verify.start_verifier()
    reference = score_reference(config, context.model_source, data.splits, run_tokenizer_source(target.run))
    file = folder / "predictions.parquet"
    try:
        result["scores"], costs = score_splits(config, bundle, data, file, reference)
    except training.NonFiniteScoresError as error:
        given = as_override([each.weight for each in combination.runs])
        raise UserError(f"weights={given} give a model whose scores are NaN or inf; use smaller ones") from error
    if config.task.domain is not None:
        result["domains"] = domain_record(pq.read_table(file), config.task, data.label_names)
    artifact = export_artifact(bundle, folder, context.model_source)
    name = config.task.splits["validation"][0]
    result["gates"] = verify.verify_run(config, bundle, data.splits[name], folder, target.run.label_names)
    total = count_parameters(bundle.model).total
    first = data.splits[name].select(range(min(LATENCY_EXAMPLES, len(data.splits[name]))))
    latencies = measure_latency(config, bundle, reference.add_likelihoods(name, bundle.format.encode(first)))
    result["costs"] = {
        **_summed_costs(result["combination"]["runs"]),
        "head_params": target.run.costs["head_params"],
        "total_params": total,
        "adapter_bytes": run_folder.folder_bytes(artifact),
        **costs,
        **latencies,
    }
    finish_run(context, artifact)


def _describe(runs: Sequence[WeightedRun], target: Target, found: dict[str, Any]) -> dict[str, Any]:
    """Return `combination` of result.json."""
    norms, rest = found["norms"], {name: value for name, value in found.items() if name != "norms"}
    entries = [
        {"folder": _short(each.run), "weight": each.weight, "norm": norm, **_properties(each.run)}
        for each, norm in zip(runs, norms, strict=True)
    ]
    heads = [{"folder": _short(run), "weight": weight} for run, weight in target.heads]
    return {"runs": entries, "heads": heads, **rest}


def _properties(run: RunResult | ForeignAdapter) -> dict[str, Any]:
    """Return the task, the method, the seed and the costs of a run; of an adapter of another program nothing."""
    if isinstance(run, ForeignAdapter):
        return {}
    costs = {name: run.costs.get(name) for name in SUMMED_COSTS}
    return {"task": run.config.task.name, "method": run.config.method.name, "seed": run.config.seed, **costs}


def _short(run: RunResult | ForeignAdapter) -> str:
    """Return <task>/<model>/<method>/seed-<n>-<id> or the name of an adapter, without folders of this machine."""
    if isinstance(run, ForeignAdapter) and is_hub_id(run.name):
        return run.name
    return str(Path(*run.folder.resolve().parts[-4:]))


def _summed_costs(entries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the sums of trained weights and of training time over the runs, each of which counts once."""
    distinct = {entry["folder"]: entry for entry in entries}.values()
    return {name: sum(each.get(name) or 0 for each in distinct) for name in SUMMED_COSTS}


def _measure_language(config: RunConfig, folder: Path) -> None:
    """Measure the general loss of a combination at the requested scales, unless it is recorded already."""
    scales = config.combine.interpolate or SCALES
    found = RunResult(folder).record["forgetting"] or {"curve": [], "text_revision": None}
    is_same_text = found["text_revision"] == documents_fingerprint(read_text(config)[1])
    if not is_same_text or not {*scales} <= {point["scale"] for point in found["curve"]}:
        try:
            measure_forgetting(replace(config, job="forgetting", run=str(folder)), scales)
        except training.NonFiniteScoresError as error:
            wrong = f"a scale of combine.interpolate={as_override(scales)} gives a model whose scores are NaN or inf"
            raise UserError(f"{wrong}; use smaller ones") from error
