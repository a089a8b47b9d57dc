"""The settings of a recorded run that must be equal for two runs to be seeds of one entry."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from peftkit.config import INCIDENTAL

# minor versions of these may change the trained model; those of other packages are only noted
DECIDING = ("peftkit", "transformers", "peft")
LEFT_OUT = INCIDENTAL | {
    "seed", "trial", "method.refuses", "model.stand_in",  # the last two: messages, and the model of source=offline
    "distill.teacher",  # a path; the set-up has its hash
}  # fmt: skip
PATHS = {"data": ("task.dataset", "task.subset", "task.revision"), "model": ("model.checkpoint",)}


def settings_of(record: Mapping[str, Any], versions: Mapping[str, str]) -> dict[str, str]:
    """Return what determines a result; local files by revision, which is their hash, instead of their path."""
    config, sources = record["run"]["config"], record["audit"]["sources"]
    left_out = {*LEFT_OUT}
    if not (config.get("distill") or {}).get("teacher"):
        left_out.add("distill")
    for part, names in PATHS.items():
        if sources[part].get("kind") == "folder" and sources[part].get("revision"):
            left_out |= {*names}
    is_search = bool((config.get("search") or {}).get("lr_multipliers"))
    if not is_search:
        left_out.add("search")
    # null counts as absent, as in the id of a run, so that keys added later split no entry
    settings = {
        name: value for name, value in flatten(config).items() if value != "null" and not _prefixes(name) & left_out
    }
    if is_search:  # the search chooses the rate, a different one for each task
        settings["train.learning_rate"] = f"around {_middle_rate(config, record.get('search')):g}"
    # the commit of `main` and the pooling of `auto` at the time of the run
    settings |= flatten({"sources.model": {name: sources["model"].get(name) for name in ("revision", "pooling")}})
    settings["sources.data.revision"] = str(sources["data"].get("revision"))
    minor = {name: ".".join(versions[name].split(".")[:2]) for name in DECIDING if name in versions}
    return settings | flatten({"setup": record["run"].get("setup", {}), "versions": minor})


def _prefixes(name: str) -> set[str]:
    parts = name.split(".")
    return {".".join(parts[:n]) for n in range(1, len(parts) + 1)}


def _middle_rate(config: Mapping[str, Any], search: Mapping[str, Any] | None) -> float:
    """Return the learning rate that a search multiplied."""
    if not (search or {}).get("trials"):
        return float(config["train"]["learning_rate"])
    first = float(search["trials"][0]["learning_rate"]) / config["search"]["lr_multipliers"][0]  # type: ignore[index]
    return float(f"{first:.3g}")


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return nested values as one text for each key, as {"train.learning_rate": "0.001"}; nulls are left out."""
    flat: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{name}.")
        elif value is not None:
            flat[prefix + name] = value if isinstance(value, str) else json.dumps(value)
    return flat
