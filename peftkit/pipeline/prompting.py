"""Runs that train nothing: prompts with few-shot examples, and the folder that stores them."""

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

FOLDER = "prompt"  # the artifact of a run that trains nothing


def format_for(
    config: RunConfig,
    names: list[str] | None,
    tokenizer: PreTrainedTokenizerBase,
    shots: tuple[str, ...] = (),
    model: Any = None,
) -> Format:
    """Return the format of a run; of a prompted run with these few-shot examples, within the model's context."""
    if not is_prompted(config):
        return format_of(config.task, config.model.family, names, tokenizer)
    context = None if model is None else getattr(model.config, "max_position_embeddings", None)
    if kind_of(config.task).sequence_label:
        calibrate = bool(config.method.config.get("calibrate"))
        return PromptedFormat(config.task, tokenizer, config.model.family, names, calibrate, shots, context)
    found: Any = format_of(config.task, config.model.family, names, tokenizer)
    return replace(found, shots=shots, context=context)


def head_kind(config: RunConfig) -> str:
    """Return the kind of task whose head is loaded: a prompted classifier has a language model head."""
    if not is_prompted(config) or not kind_of(config.task).sequence_label:
        return config.task.kind
    return "seq2seq" if config.model.family == "seq2seq" else "causal_lm"


def add_shots(config: RunConfig, task_format: Format, rows: Dataset, model: Any) -> Format:
    """Return the format with few-shot examples of the training split, which depend on the seed alone."""
    if not is_prompted(config):
        return task_format
    number = int(config.method.config.get("shots") or 0)
    assert isinstance(task_format, PromptedFormat | TextGenerationFormat)
    drawn = sample_balanced([task_format.shot_group(label) for label in rows["label"]], number, config.seed)
    if len(drawn) < number:
        log(f"   shots={number}, but only {len(drawn)} training examples are available")
    shots = tuple(task_format.render_shot(dict(rows[row])) for row in drawn)
    return format_for(config, task_format.names, task_format.tokenizer, shots, model)


def count_shots(config: RunConfig, task_format: Format, splits: dict[str, Encoded]) -> dict[str, Any]:
    """Return the number of few-shot examples requested, drawn, and left out where the prompt had no room for them."""
    left_out = {name: encoded.dropped_shots for name, encoded in splits.items()}
    drawn = len(getattr(task_format, "shots", ()))
    for name, count in left_out.items():
        if count:
            rows = len(splits[name].has_label)
            log(f"   {count} of {drawn * rows} few-shot examples did not fit into the {rows} prompts of {name}")
    return {"requested": int(config.method.config.get("shots") or 0), "drawn": drawn, "left_out": left_out}


def save_prompt(task_format: Format, source: Source, folder: Path) -> Path:
    """Save the prompt and its few-shot examples; the model itself is the unchanged base."""
    artifact = folder / FOLDER
    known = task_format if isinstance(task_format, PromptedFormat) else None
    record = {
        "base": {name: value for name, value in asdict(source).items() if name != "folder"},
        "prompt": task_format.task.template if known is None else known.template,
        "verbalizer": None if known is None else known.verbalizer,
        "shots": list(getattr(task_format, "shots", ())),
    }
    run_folder.write_text(artifact / "prompt.json", json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    return artifact


def read_shots(folder: Path) -> tuple[str, ...]:
    """Return the few-shot examples of a run."""
    return tuple(json.loads((folder / FOLDER / "prompt.json").read_text(encoding="utf-8"))["shots"])
