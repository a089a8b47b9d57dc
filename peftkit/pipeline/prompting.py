"""Turn a run that trains nothing into a model that is asked: its examples, and the folder that keeps them."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from peftkit.config import RunConfig, is_prompted, kind_of
from peftkit.config.source import Source
from peftkit.data.formats import Encoded, Format, format_of
from peftkit.data.formats.few_shot import sample_balanced
from peftkit.data.formats.prompted import PromptedFormat
from peftkit.data.formats.text_generation import TextGenerationFormat
from peftkit.results import run_folder
from peftkit.results.console import log

FOLDER = "prompt"  # of a run that has nothing else to ship


def format_for(
    config: RunConfig,
    names: list[str] | None,
    tokenizer: PreTrainedTokenizerBase,
    shots: tuple[str, ...] = (),
    model: Any = None,
) -> Format:
    """Return how a run's rows are put to its model, behind these examples, in as many tokens as it has room for."""
    if not is_prompted(config):
        return format_of(config.task, config.model.family, names, tokenizer)
    context = None if model is None else getattr(model.config, "max_position_embeddings", None)
    if kind_of(config.task).sequence_label:
        calibrate = bool(config.method.config.get("calibrate"))
        return PromptedFormat(config.task, tokenizer, config.model.family, names, calibrate, shots, context)
    found: Any = format_of(config.task, config.model.family, names, tokenizer)
    return replace(found, shots=shots, context=context)


def head_kind(config: RunConfig) -> str:
    """Return the kind of task whose head the model has: who is asked for classes writes words."""
    if not is_prompted(config) or not kind_of(config.task).sequence_label:
        return config.task.kind
    return "seq2seq" if config.model.family == "seq2seq" else "causal_lm"


def add_shots(config: RunConfig, asked: Format, rows: Dataset, model: Any) -> Format:
    """Return a format that asks the model with examples out of the training rows, which hang on the seed alone."""
    if not is_prompted(config):
        return asked
    number = int(config.method.config.get("shots") or 0)
    assert isinstance(asked, PromptedFormat | TextGenerationFormat)
    drawn = sample_balanced([asked.shot_group(label) for label in rows["label"]], number, config.seed)
    if len(drawn) < number:
        log(f"   {number} examples asked for, {len(drawn)} training rows there")
    shots = tuple(asked.render_shot(dict(rows[row])) for row in drawn)
    return format_for(config, asked.names, asked.tokenizer, shots, model)


def count_shots(config: RunConfig, asked: Format, splits: dict[str, Encoded]) -> dict[str, Any]:
    """Count, for the record, the examples that were asked for, drawn, and left out where a row had no room for them."""
    left_out = {name: encoded.dropped_shots for name, encoded in splits.items()}
    drawn = len(getattr(asked, "shots", ()))
    for name, count in left_out.items():
        if count:
            rows = len(splits[name].has_label)
            log(f"   {count} of {drawn * rows} examples did not fit before the {rows} rows of {name}")
    return {"asked": int(config.method.config.get("shots") or 0), "drawn": drawn, "left_out": left_out}


def save_prompt(asked: Format, source: Source, folder: Path) -> Path:
    """Keep what the model is asked with; the model itself is the base, as it was."""
    artefact = folder / FOLDER
    known = asked if isinstance(asked, PromptedFormat) else None
    told = {
        "base": {name: value for name, value in asdict(source).items() if name != "folder"},
        "prompt": asked.task.template if known is None else known.template,
        "words": None if known is None else known.verbalizer,
        "shots": list(getattr(asked, "shots", ())),
    }
    run_folder.write_text(artefact / "prompt.json", json.dumps(told, indent=1, ensure_ascii=False) + "\n")
    return artefact


def read_shots(folder: Path) -> tuple[str, ...]:
    """Return the examples that a run was asked with."""
    return tuple(json.loads((folder / FOLDER / "prompt.json").read_text())["shots"])
