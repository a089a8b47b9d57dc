"""Loading of finished runs: base, tokenizer and trained weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from peftkit.config import RunConfig, is_prompted
from peftkit.config.source import Source
from peftkit.methods import load_adapter
from peftkit.models.embedding_rows import grow
from peftkit.models.load import auto_class, load_model, load_tokenizer, round_as
from peftkit.pipeline.build import TrainingBundle
from peftkit.pipeline.prompting import format_for, head_kind, read_shots
from peftkit.pipeline.sources import find_model
from peftkit.results.run_result import RunResult


def load_run(folder: str | Path, quantized: bool = True) -> tuple[Any, Any]:
    """Return the model and the tokenizer of a run folder, ready to predict.

    With `quantized=False` the base of a 4-bit run has its dequantized weights, in full precision.
    """
    bundle = load_bundle(RunResult.finished(folder), quantized)
    return bundle.model, bundle.tokenizer


def base_source(run: RunResult) -> Source:
    """Return where to load a run's base from."""
    return find_model(run.config.model, "offline") if run.source.kind == "offline" else run.source


def load_bundle(run: RunResult, quantized: bool = True) -> TrainingBundle:
    """Load the model of a run, over the same base as in training; of a prompted run with its few-shot examples."""
    config, names = run.config, run.label_names
    tokenizer = load_tokenizer(run_tokenizer_source(run))
    bits = config.method.quantization
    model: Any
    if (run.folder / "model").is_dir():
        model = auto_class(config.model.family, config.task.kind).from_pretrained(str(run.folder / "model"))
    else:
        choice = (config.model, base_source(run), tokenizer, head_kind(config), names)
        model = load_model(*choice, bits if quantized or not is_prompted(config) else None)
        if not is_prompted(config):
            if bits and not quantized:
                model = round_as(load_model(*choice), model)
            if config.vocab is not None:
                grow(model, run.folder / "adapter")
            model = load_adapter(model, run.folder / "adapter")
    shots = read_shots(run.folder) if is_prompted(config) else ()
    return TrainingBundle(model.eval(), tokenizer, format_for(config, names, tokenizer, shots, model))


def run_tokenizer_source(run: RunResult) -> Source:
    """Return where a run's tokenizer is: in its artifact where it has new tokens or a chat template, or at the base."""
    artifact = run.folder / ("model" if (run.folder / "model").is_dir() else "adapter")
    is_chat = run.config.task.kind in ("instructions", "preferences") and not is_prompted(run.config)
    has_own = run.config.vocab is not None or is_chat or artifact.name == "model"
    return Source("folder", str(artifact), folder=str(artifact)) if has_own else base_source(run)


def with_eval_batch_size(config: RunConfig, trained: RunConfig) -> RunConfig:
    """Return the config of the trained run with the evaluation batch size of this command."""
    size = "per_device_eval_batch_size"
    return replace(trained, train=trained.train | ({size: config.train[size]} if size in config.train else {}))


def join_names(names: Sequence[str] | None) -> str:
    return "numbers" if names is None else ", ".join(names)
