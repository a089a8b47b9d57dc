"""Where a run's model and data come from, and what else determines its result."""

from __future__ import annotations

import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from peftkit.config import ModelConfig, RunConfig, UserError
from peftkit.config.source import Source, fingerprint
from peftkit.models.checkpoints import locate
from peftkit.models.embedding_rows import FACTS, WEIGHTS, read_vocabulary
from peftkit.models.load import pooling_of
from peftkit.models.sentence import vector_pooling
from peftkit.pipeline.pretraining import ensure_mini
from peftkit.pipeline.prompting import FOLDER
from peftkit.results.console import log
from peftkit.training import precision_of


def find_model(model: ModelConfig, source: str) -> Source:
    """Decide where the checkpoint comes from; pretrain the offline model if it is not cached."""
    found = locate(model, source)
    if found.kind == "offline" and found.name != "minilm":
        folder = ensure_mini(found.name)
        found = replace(found, revision=folder.name.removeprefix(f"{found.name}-"), folder=str(folder))
    return found


def warn_substitutions(model: Source, data: Source | None = None) -> None:
    """Warn about a substituted model, and about substituted data."""
    for sentence in filter(None, (model.substitution("MODEL"), data and data.substitution("DATA"))):
        log(f"!! {sentence}")


def describe_sources(config: RunConfig, model: Source, data: Source) -> dict[str, Any]:
    """Return where both came from, as the result records it: without the folders of this machine."""
    pooling = (vector_pooling if config.task.kind == "retrieval" else pooling_of)(config.model, model)
    entries = {"model": {**asdict(model), "pooling": pooling}, "data": asdict(data)}
    for entry in entries.values():
        del entry["folder"]
    return entries


def tokenizer_source(vocab: str | None, model: Source) -> Source:
    """Return where the tokenizer comes from: the base, or a folder that job=extend made of this very base.

    Raises:
        UserError: it was made of another.
    """
    if vocab is None:
        return model
    base = read_vocabulary(Path(vocab))
    is_same = base.revision == model.revision and (base.base == model.name or model.kind == "folder")
    if not is_same:
        raise UserError(
            f"vocab={vocab} was made for {base.base} ({base.revision}), this is {model.name} ({model.revision}); "
            "make one for this model with job=extend"
        )
    return Source("folder", vocab, folder=vocab)


def execution_setup(config: RunConfig) -> dict[str, Any]:
    """Return what else than settings and sources determines a result: processes a step, precision."""
    found: dict[str, Any] = {
        "processes": int(os.environ.get("WORLD_SIZE", "1")),
        "precision": precision_of(config.train),
    }
    if config.distill.teacher is not None:
        folders = (Path(config.distill.teacher) / name for name in ("adapter", "model", FOLDER))
        kept = next((folder for folder in folders if folder.is_dir()), None)
        if kept is None:
            raise UserError(
                f"distill.teacher={config.distill.teacher} has no model, as a trial has; use a run without trial=true"
            )
        found["teacher"] = fingerprint(kept, (".safetensors", "prompt.json"))
    return found if config.vocab is None else {**found, "vocab": fingerprint(Path(config.vocab), VOCABULARY_FILES)}


VOCABULARY_FILES = (FACTS, WEIGHTS, "tokenizer.json")  # what decides of a folder of job=extend


def device_name() -> str:
    import torch

    if torch.cuda.is_available():
        return f"cuda: {torch.cuda.get_device_name()} x {torch.cuda.device_count()}"
    cpu = torch.cpu.get_capabilities().get("cpu_name") or "unknown"
    return f"cpu: {cpu}, {os.cpu_count()} cores"
