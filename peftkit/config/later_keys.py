"""Keys and sections that the configs of earlier run folders lack, with the values that those runs had."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from peftkit.config.sections import Combine, Filter, Push

ADDED_LATER: dict[str, Any] = {  # keys and sections that the configs of earlier run folders lack
    **dict.fromkeys(("collator", "allow_code", "delete", "format", "start", "tasks", "threads", "weights", "workers")),
    "calibration": {"holdout": None, "thresholds": None},
    "ood": {"shuffle": False},
    "plan": {"memory_gb": None, "measure": False},
    "bench": {"variants": [], "baseline": "trainer", "seeds": 1, "slow_seeds": 1, "ladder_seeds": 0},
    "cache_features": False, "sequential_seeds": False,
    "domains": {
        **dict.fromkeys(("leave_out", "target", "target_labels", "objective")), "max_lambda": 0.1, "step_size": 0.01,
    },
    "filter": {each.name: None for each in dataclasses.fields(Filter)},
    "predict": {"abstain": None, "target_accuracy": None},
    "chat": {"system": None},
    "combine": {each.name: None for each in dataclasses.fields(Combine)},
    "prune": {"heads": None, "samples": 256},
    "export": {"with_base": False, "samples": 200, "int8": False, "gguf_type": None},
    "repo": None,
    "push": {**{each.name: None for each in dataclasses.fields(Push)}, "private": True, "dry_run": False},
    "serve": {
        "host": "127.0.0.1", "port": 8000, "max_batch_delay": 0.003, "max_characters": 20000, "max_examples": 64,
        "max_bytes": 2**20, "max_queue": 256, "timeout": 10.0,
    },
    "multitask": {
        "adapter": "shared", "mixing": "proportional", "limit": None, "temperature": None, "batches": "homogeneous",
        "normalize_loss": True, "weights": None, "tags": None,
    },
}  # fmt: skip

ADDED_TO_SECTIONS: dict[str, dict[str, Any]] = {
    "search": dict.fromkeys(("learning_rates", "config", "halving_factor")),
    "calibration": ADDED_LATER["calibration"],
    "domains": ADDED_LATER["domains"],
    "multitask": ADDED_LATER["multitask"],
    "generate": {"generation": {}},
    "export": ADDED_LATER["export"],
}


def with_later_keys(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config of a run folder with the keys that earlier versions did not have.

    Raises:
        KeyError, TypeError: it lacks a section, or one is not a mapping.
    """
    found = {**ADDED_LATER, **config}
    for name, added in ADDED_TO_SECTIONS.items():
        found[name] = {**added, **found[name]}
    return found
