"""The settings of a recorded run that must be equal for two runs to be seeds of one entry, with current key names."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any

from peftkit.config import NON_RESULT_KEYS
from peftkit.config.later_keys import ADDED_LATER
from peftkit.config.sections import OBJECTIVE_KEYS
from peftkit.config.suggestions import RENAMED
from peftkit.config.task import TaskConfig

# minor versions of these may change the trained model; those of other packages are only noted
RESULT_PACKAGES = ("peftkit", "transformers", "peft")
LEFT_OUT = NON_RESULT_KEYS | {
    "seed", "trial", "method.refuses", "model.stand_in",  # the last two: messages, and the model of source=offline
    "distill.teacher",  # a path; the set-up has its hash
}  # fmt: skip
MAX_VALUE = 200  # characters of a setting, which labels entries
PATHS = {"data": ("task.dataset", "task.subset", "task.revision"), "model": ("model.checkpoint",)}


def migrate_v01(record: dict[str, Any]) -> dict[str, Any]:
    """Return result.json with the current names of keys and values, so that results of version 0.1 are comparable.

    A record with a schema has them already.
    """
    config, sources = record["run"]["config"], record["audit"]["sources"]
    if "schema" in record:
        return record
    for old, new in RENAMED.items():
        section, _, name = old.partition(".")
        if name in (config.get(section) or {}):
            config[section][new.rpartition(".")[2]] = config[section].pop(name)
    # keys that were added later, with defaults that change nothing
    added = {field.name: field.default for field in fields(TaskConfig) if field.default is not MISSING}
    config["task"] = added | config["task"]
    for part in (config, *sources.values()):
        part |= {key: "offline" for key in ("source", "kind") if part.get(key) == "embedded"}
    record["run"]["overrides"] = [_override(text) for text in record["run"].get("overrides") or []]
    return record


def _override(text: str) -> str:
    key, equals, value = text.partition("=")
    return RENAMED.get(text) or f"{RENAMED.get(key, key)}{equals}{value}"


def settings_of(record: Mapping[str, Any], versions: Mapping[str, str]) -> dict[str, str]:
    """Return what determines a result; local files by revision, which is their hash, instead of their path."""
    config, sources = record["run"]["config"], record["audit"]["sources"]
    search = config.get("search") or {}
    is_search = any(search.get(name) for name in ("lr_multipliers", "learning_rates", "config"))
    left_out = {*LEFT_OUT, *([] if is_search else ["search"])}
    objective = (config.get("domains") or {}).get("objective")
    left_out |= {f"domains.{key}" for key in {*OBJECTIVE_KEYS.values()} - {OBJECTIVE_KEYS.get(str(objective))}}
    left_out |= set() if (config.get("distill") or {}).get("teacher") else {"distill"}
    left_out |= set() if (config.get("prune") or {}).get("heads") else {"prune"}
    config = {**config, **_together(config, record["run"].get("setup") or {})}
    for part, names in PATHS.items():
        if sources[part].get("kind") == "folder" and sources[part].get("revision"):
            left_out.update(names)
    dropped = tuple(f"{name}." for name in left_out)
    # null counts as absent, as in the id of a run, so that keys added later do not split entries
    settings = {
        name: value for name, value in flatten(config).items() if value != "null" and not f"{name}.".startswith(dropped)
    }
    if is_search:  # the search chooses these, different ones for each task
        is_relative = bool(search.get("lr_multipliers"))
        base = f"around {_base_rate(config, record.get('search')):g}" if is_relative else "searched"
        chosen = (record.get("search") or {}).get("chosen_config") or {}  # of a fitted head, whose C is always searched
        settings |= {"train.learning_rate": base} | {
            f"method.config.{name}": "searched" for name in {**(search.get("config") or {}), **chosen}
        }
    # the commit of `main` and the pooling of `auto` at the time of the run
    settings |= flatten({"sources.model": {name: sources["model"].get(name) for name in ("revision", "pooling")}})
    settings["sources.data.revision"] = str(sources["data"].get("revision"))
    minor = {name: ".".join(versions[name].split(".")[:2]) for name in RESULT_PACKAGES if name in versions}
    setup = dict(record["run"].get("setup") or {})
    setup = {name: value for name, value in setup.items() if name not in ("artifacts", "tasks")}
    if (start := record["audit"].get("start")) is not None:  # by its settings: each seed may start from its own
        setup.pop("start", None)
        settings["start"] = f"{start.get('task') or start['name']} ({start['settings']})"
    settings |= flatten({"setup": setup, "versions": minor})
    return {name: value if len(value) <= MAX_VALUE else _shortened(value) for name, value in settings.items()}


def _together(config: Mapping[str, Any], setup: Mapping[str, Any]) -> dict[str, Any]:
    """Return `tasks` and `multitask` of a config as an entry shows them: names, and values that are not the defaults.

    The names of own tasks do not determine these, so that a hash of all tasks follows.
    """
    tasks = config.get("tasks")
    if not isinstance(tasks, list):
        return {"tasks": None, "multitask": None}
    names = ",".join(str(task["name"]) for task in tasks)
    has_own = any(task["suite"] == "own" for task in tasks)
    default, given = ADDED_LATER["multitask"], config.get("multitask") or {}
    return {
        "tasks": f"{names} ({setup.get('tasks')})" if has_own else names,
        "multitask": {name: value for name, value in given.items() if value != default.get(name)},
    }


def _shortened(value: str) -> str:
    return f"{value[:MAX_VALUE]}... ({hashlib.sha256(value.encode('utf-8', 'replace')).hexdigest()[:8]})"


def _base_rate(config: Mapping[str, Any], search: Mapping[str, Any] | None) -> float:
    """Return the learning rate that a search multiplied; its trials have all multiples, or their range."""
    if not search or not search.get("trials"):
        return float(config["train"]["learning_rate"])
    lowest = min(float(trial["learning_rate"]) for trial in search["trials"])
    return float(f"{lowest / min(config['search']['lr_multipliers']):.3g}")


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return nested values as one text for each key, as {"train.learning_rate": "0.001"}; nulls are omitted."""
    flat: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{name}.")
        elif value is not None:
            flat[prefix + name] = value if isinstance(value, str) else json.dumps(value)
    return flat
