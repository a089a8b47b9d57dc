"""Models of finished runs: their base, which may be the model of another run, and their trained weights."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig

from peftkit.config import ModelConfig, RunConfig, UserError, error_summary, is_prompted, kind_of, refuse
from peftkit.config.console import log
from peftkit.config.progress import stage
from peftkit.config.shipped_files import WEIGHTS, damaged_file, recorded_files
from peftkit.config.source import ADAPTER_FILE, Source
from peftkit.config.start import base_of
from peftkit.data.formats import Format
from peftkit.methods import Steering, load_adapter
from peftkit.models.checkpoints import checkpoint_path, locate
from peftkit.models.embedding_rows import add_new_rows
from peftkit.models.heads import loading_class
from peftkit.models.load import auto_class, load_model
from peftkit.models.quantization import copy_dequantized
from peftkit.paths import sync
from peftkit.pipeline.build import TrainingBundle, format_for, head_kind, instantiate_method
from peftkit.pipeline.export import WHOLE_BASE, has_base
from peftkit.pipeline.foreign_adapters import merge_foreign_adapter
from peftkit.pipeline.main_process import write_once
from peftkit.pipeline.merged import write_merged
from peftkit.pipeline.sources import PROMPT_FOLDER, converted_checkpoint, ensure_mini, run_tokenizer
from peftkit.pipeline.steering import load_steering
from peftkit.results.loading_code import BASE
from peftkit.results.run_folder import SCRATCH
from peftkit.results.run_result import RunResult


def read_shots(folder: Path) -> tuple[str, ...]:
    """Return the few-shot examples of a prompted run, no examples for other runs."""
    file = folder / PROMPT_FOLDER / "prompt.json"
    return tuple(json.loads(file.read_text(encoding="utf-8"))["shots"]) if file.is_file() else ()


def find_model(model: ModelConfig, source: str) -> Source:
    """Return the source of the checkpoint; pretrain the offline model if it is not cached.

    An adapter is merged into its base once; the source is the merged checkpoint.
    """
    found = locate(model, source)
    if found.folder is not None and Path(found.folder).is_file():
        return replace(found, folder=str(converted_checkpoint(Path(found.folder), str(found.revision))))
    if found.kind == "offline" and found.folder is None:
        folder = ensure_mini(found.name)
        return replace(found, revision=folder.name.removeprefix(f"{found.name}-"), folder=str(folder))
    if found.kind == "folder" and (of := Path(str(found.folder)).absolute()).name in WEIGHTS:
        refuse((wrong := damaged_file(of.parent, recorded_files(of.parent), WEIGHTS), f"{wrong}; train the run again"))
    if found.kind != "folder" or not (adapter := Path(str(found.folder)) / ADAPTER_FILE).is_file():
        return found
    if (run := RunResult(adapter.parent.absolute().parent)).exists:
        merged = merged_folder(run)
    else:
        name, revision = base_of(adapter)
        base = replace(model, checkpoint=name, revision=revision)
        merged = merge_foreign_adapter(adapter.parent, base, find_model(base, source))
    return locate(replace(model, checkpoint=str(merged)), source)


def load_run(folder: Path) -> tuple[Any, Any]:
    """Return the model and the tokenizer of a run folder, ready to predict."""
    bundle = load_bundle(RunResult.finished(folder))
    return bundle.model, bundle.tokenizer


def base_source(run: RunResult) -> Source:
    """Return where to load a run's base from.

    Raises:
        UserError: its folder is missing.
    """
    if run.source.kind == "folder" and not Path(run.source.name).exists():
        raise UserError(f"{run.folder} was trained on the checkpoint {run.source.name}, which is missing; restore it")
    is_file = run.source.kind == "folder" and Path(run.config.model.checkpoint).is_file()  # converted, in the cache
    return find_model(run.config.model, "offline") if is_file or run.source.kind == "offline" else run.source


def find_base(run: RunResult) -> str:
    """Return the folder, or the Hub id, of a run's base: stored beside its adapter, or where it was trained.

    Raises:
        UserError: its folder is missing.
    """
    stored = run.folder / "adapter" / BASE
    return str(stored) if has_base(stored.parent) else checkpoint_path(base_source(run))


@stage("storing the base")
def store_base(run: RunResult) -> None:
    """Save the base of a run's adapter in adapter/base, in full precision, from where transformers loads it.

    What makes it whole, `WHOLE_BASE`, gets its name last, so that a process that is killed leaves none.
    """
    folder, scratch = run.folder / "adapter" / BASE, run.folder / SCRATCH
    config = (folder / "config.json").read_text(encoding="utf-8")
    with torch.random.fork_rng():  # the head of the base is newly initialized, and replaced by that of the adapter
        tokenizer = run_tokenizer(run.config, run_tokenizer_source(run), base_source(run))
        load_base(run, tokenizer, quantized=False).save_pretrained(scratch)
    (scratch / "config.json").write_text(config, encoding="utf-8")
    for file in sorted(scratch.iterdir(), key=lambda file: file.name in WHOLE_BASE):
        sync(file)
        file.replace(folder / file.name)
    scratch.rmdir()


@stage("loading the run")
def load_bundle(run: RunResult, quantized: bool = True) -> TrainingBundle:
    """Load the model of a run on the base of its training; of a prompted run with its few-shot examples.

    With `quantized=False` the base of a 4-bit run has the dequantized weights, in full precision.

    Raises:
        UserError: the run folder is damaged, or its base is missing.
    """
    run.check_files(*WEIGHTS)
    with _named_errors(run.folder):
        return _load_bundle(run, quantized)


def load_with(run: RunResult, config: RunConfig) -> TrainingBundle:
    """Load the model of a run with the format of another config, such as one with other generation settings."""
    bundle = load_bundle(run)
    bundle.format = run_format(run, config, bundle.tokenizer)
    return bundle


@contextmanager
def _named_errors(folder: Path) -> Iterator[None]:
    """Turn an error of a library that loads a damaged or foreign run folder into one that names the folder."""
    try:
        yield
    except (UserError, torch.OutOfMemoryError):
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, SafetensorError) as error:
        raise UserError(f"{folder} cannot be loaded: {error_summary(error)}; train the run again") from error


def _load_bundle(run: RunResult, quantized: bool) -> TrainingBundle:
    config = run.config
    has_weights = (run.folder / "model").is_dir() or (run.folder / "adapter" / ADAPTER_FILE).is_file()
    if not has_weights and not is_prompted(config):
        raise UserError(f"{run.folder} has neither model/ nor adapter/{ADAPTER_FILE}; train it again with force=true")
    tokens_of = run_tokenizer_source(run)
    tokenizer = run_tokenizer(config, tokens_of, tokens_of if config.method.traits.has_own_model else base_source(run))
    if (run.folder / "model").is_dir():
        auto, trained = auto_class(config.model.family, config.task.kind), str(run.folder / "model")
        model, found = loading_class(auto, AutoConfig.from_pretrained(trained)).from_pretrained(
            trained, trust_remote_code=False, use_safetensors=True, output_loading_info=True
        )
        if missing := sorted(found["missing_keys"]):
            raise UserError(f"{trained} lacks weights: {', '.join(missing[:3])}; train the run again")
    else:
        model = load_base(run, tokenizer, quantized)
        if config.vocab is not None:
            add_new_rows(model, run.folder / "adapter")
        if not is_prompted(config):
            model = load_adapter(model, run.folder / "adapter")
    model.eval()
    vars(model.config).pop("auto_map", None)  # names a file beside the checkpoint that was read
    bundle = TrainingBundle(model, tokenizer, run_format(run, config, tokenizer))
    restore_steering(bundle, config, run.folder / PROMPT_FOLDER)
    return bundle


def restore_steering(bundle: TrainingBundle, config: RunConfig, folder: Path) -> None:
    """Add the saved vector of a run to its model's states, where its method has one."""
    method = instantiate_method(config.method.config) if is_prompted(config) else None
    if isinstance(method, Steering) and (steering := load_steering(folder, method, bundle.model)) is not None:
        steering.attach(bundle.model)
        bundle.steering = steering


def load_base(run: RunResult, tokenizer: Any, quantized: bool = True) -> Any:
    """Load the base of a run's training below a newly initialized head; `quantized` is that of `load_bundle`."""
    settings = run.config.method.quantization
    choice = (run.config.model, base_source(run), tokenizer, head_kind(run.config), run.label_names)
    model = load_model(*choice, settings)
    return copy_dequantized(load_model(*choice), model) if settings and not quantized else model


def run_format(run: RunResult, config: RunConfig, tokenizer: Any) -> Format:
    """Return the format of a config with the labels of a run, their thresholds and its few-shot examples."""
    found = format_for(config, run.label_names, tokenizer, read_shots(run.folder))
    thresholds = run.score_thresholds
    return found if thresholds is None else replace(found, score_thresholds=thresholds)


def merged_folder(run: RunResult) -> Path:
    """Return the folder of the whole model of a run; an adapter is merged once.

    Raises:
        UserError: it cannot be merged.
    """
    merged = run.folder / "merged"
    if (run.folder / "model").is_dir():
        return run.folder / "model"

    def merge() -> None:
        log(f"the adapter of {run.folder} is merged into its base, in {merged}")
        try:
            write_merged(run, load_bundle(run, quantized=False), merged)
        except UserError as error:
            raise UserError(f"the adapter of {run.folder} cannot be merged: {error}") from error

    write_once(merged, (merged / "config.json").is_file, merge)
    return merged


def run_tokenizer_source(run: RunResult) -> Source:
    """Return where a run's tokenizer is: in its artifact if it has new tokens or a chat template, else at the base."""
    artifact = run.folder / ("model" if (run.folder / "model").is_dir() else "adapter")
    has_own = artifact.name == "model" or run.config.vocab is not None or kind_of(run.config.task).chat_template
    if is_prompted(run.config) or not has_own:
        return base_source(run)
    return Source("folder", str(artifact), folder=str(artifact))


EVAL_SETTINGS = ("per_device_eval_batch_size", "bf16")  # of `train`, that commands for a finished run may set


def with_eval_settings(config: RunConfig, trained: RunConfig) -> RunConfig:
    """Return the config of the trained run with the evaluation batch size and the precision of this command."""
    chosen = {name: config.train[name] for name in EVAL_SETTINGS if name in config.train}
    precision = {"fp16": False} if "bf16" in chosen else {}
    return replace(trained, train={**trained.train, **precision, **chosen})


def with_generation(config: RunConfig, trained: RunConfig) -> RunConfig:
    """Return the config of the trained run with the generation settings of this command over its own, and its seed.

    The seed is that of the run, if this command sets none.
    """
    settings = with_settings(trained.task.generation, config.task.generation)
    seed = config.seed if "seed" in typed_keys(config.overrides) else trained.seed
    return replace(trained, seed=seed, task=replace(trained.task, generation=settings))


def with_settings(settings: dict[str, Any] | None, others: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return generation settings with others over them, of which None removes one."""
    found = {name: value for name, value in {**(settings or {}), **(others or {})}.items() if value is not None}
    return found or None


def typed_keys(overrides: Sequence[str]) -> list[str]:
    """Return the keys of overrides."""
    return [override.lstrip("+").partition("=")[0] for override in overrides]
