"""Results of version 0.1 in current terms, so that they compare with new runs of equal settings."""

from __future__ import annotations

import dataclasses
from typing import Any

from peftkit.config.run import TaskConfig

RENAMED = {
    "task": {
        "max_train_rows": "max_train_samples", "max_eval_rows": "max_eval_samples", "words": "verbalizer",
        "widths": "matryoshka_dims", "noise": "noise_density", "mean_span": "mean_noise_span_length",
    },
    "model": {"layers": "keep_layers"},
    "search": {"factors": "lr_multipliers", "rows": "samples"},
    "embed": {"width": "truncate_dim"},
    "extend": {"rows": "init", "pad_to": "pad_to_multiple_of"},
    "generate": {
        "target": "num_instructions", "served_model": "endpoint_model", "similarity": "max_rouge_l",
        "words": "instruction_length",
    },
    "distill": {"weight": "alpha"},
}  # fmt: skip
OVERRIDES = {f"{section}.{old}": f"{section}.{new}" for section, keys in RENAMED.items() for old, new in keys.items()}


def in_current_terms(record: dict[str, Any]) -> dict[str, Any]:
    """Return result.json with today's names of keys and values; a record with a schema has them already."""
    config, sources = record["run"]["config"], record["audit"]["sources"]
    if "schema" in record:
        return record
    for section, keys in RENAMED.items():
        if config.get(section):
            config[section] = {keys.get(name, name): value for name, value in config[section].items()}
    for field in dataclasses.fields(TaskConfig):  # keys that were added since, at the value that changes nothing
        if field.default is not dataclasses.MISSING:
            config["task"].setdefault(field.name, field.default)
    for source in (config, *sources.values()):
        for key in ("source", "kind"):
            if source.get(key) == "embedded":
                source[key] = "offline"
    record["run"]["overrides"] = [_override(text) for text in record["run"].get("overrides") or []]
    return record


def _override(text: str) -> str:
    key, equals, value = text.partition("=")
    return f"{OVERRIDES.get(key, key)}{equals}{'offline' if (key, value) == ('source', 'embedded') else value}"
