"""Loading of finished runs: recorded config, base, tokenizer and trained weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from peftkit.config import RunConfig, UserError, is_prompted
from peftkit.config.source import Source
from peftkit.methods import load_adapter
from peftkit.models.embedding_rows import grow
from peftkit.models.load import auto_class, load_model, load_tokenizer, round_as
from peftkit.pipeline.build import TrainingBundle
from peftkit.pipeline.prompting import format_for, head_kind, read_shots
from peftkit.pipeline.sources import find_model
from peftkit.results import run_folder


def load_run(folder: str | Path, quantized: bool = True) -> tuple[Any, Any]:
    """Return the model and the tokenizer of a run folder, ready to predict.

    With `quantized=False` the base of a 4-bit run has its dequantized weights, in full precision.
    """
    bundle = load_bundle(recorded_config(Path(folder)), Path(folder), quantized)
    return bundle.model, bundle.tokenizer


def recorded_config(folder: Path) -> RunConfig:
    """Return the config that the folder of a finished run records.

    Raises:
        UserError: there is no result, or the run is not finished.
    """
    result = run_folder.read_result(folder)
    if result is None:
        raise UserError(
            f"{folder} has no result.json; set run= to a run folder such as outputs/glue/mrpc/.../seed-0-..."
        )
    if result["meta"]["status"] != "finished":
        raise UserError(f"{folder} is {result['meta']['status']}: {result['meta']['reason']}; finish that run first")
    return RunConfig.from_config(result["run"]["config"])


def recorded_source(folder: Path) -> Source:
    """Return where a run's base came from."""
    entry = dict(run_folder.read_result(folder)["audit"]["sources"]["model"])  # type: ignore[index]
    entry.pop("pooling")
    return Source(**entry)


def base_source(trained: RunConfig, folder: Path) -> Source:
    """Return where to load a run's base from."""
    source = recorded_source(folder)
    return find_model(trained.model, "offline") if source.kind == "offline" else source


def recorded_label_names(folder: Path) -> list[str] | None:
    """Return the label names of a run, None where it has none."""
    return run_folder.read_result(folder)["audit"]["label_names"]  # type: ignore[index]


def load_bundle(trained: RunConfig, folder: Path, quantized: bool = True) -> TrainingBundle:
    """Load the model of a run, over the same base as in training."""
    names = recorded_label_names(folder)
    if is_prompted(trained):
        return _prompted_bundle(trained, folder, names, quantized)
    if (folder / "model").is_dir():
        source, artifact = Source("folder", str(folder / "model"), folder=str(folder / "model")), None
    else:
        source, artifact = base_source(trained, folder), folder / "adapter"
    tokenizer = load_tokenizer(run_tokenizer_source(trained, folder))
    model: Any
    if artifact is None:
        model = auto_class(trained.model.family, trained.task.kind).from_pretrained(source.name)
    else:
        choice = (trained.model, source, tokenizer, trained.task.kind, names)
        base = load_model(*choice, trained.method.quantization)
        if trained.method.quantization and not quantized:
            base = round_as(load_model(*choice), base)
        if trained.vocab is not None:
            grow(base, artifact)
        model = load_adapter(base, artifact)
    return TrainingBundle(model.eval(), tokenizer, format_for(trained, names, tokenizer))


def _prompted_bundle(trained: RunConfig, folder: Path, names: list[str] | None, quantized: bool) -> TrainingBundle:
    """Load the base, with the few-shot examples of the run."""
    source = base_source(trained, folder)
    tokenizer = load_tokenizer(source)
    bits = trained.method.quantization if quantized else None
    model = load_model(trained.model, source, tokenizer, head_kind(trained), names, bits)
    return TrainingBundle(model.eval(), tokenizer, format_for(trained, names, tokenizer, read_shots(folder), model))


def run_tokenizer_source(trained: RunConfig, folder: Path) -> Source:
    """Return where a run's tokenizer is: in its artifact where it has new tokens or a chat template, or at the base."""
    artifact = folder / ("model" if (folder / "model").is_dir() else "adapter")
    has_own = (
        trained.vocab is not None or trained.task.kind in ("instructions", "preferences") or artifact.name == "model"
    )
    return Source("folder", str(artifact), folder=str(artifact)) if has_own else base_source(trained, folder)


def with_eval_batch_size(config: RunConfig, trained: RunConfig) -> RunConfig:
    """Return the config of the trained run with the evaluation batch size of this command."""
    size = "per_device_eval_batch_size"
    return replace(trained, train=trained.train | ({size: config.train[size]} if size in config.train else {}))


def join_names(names: Sequence[str] | None) -> str:
    return "numbers" if names is None else ", ".join(names)
