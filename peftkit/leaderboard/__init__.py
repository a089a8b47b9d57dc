"""Turn run folders into results, from which alone every table is made."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from peftkit.schema import INCIDENTAL

TIMED = ("train_seconds", "train_peak_bytes", "tokens_per_second")  # mean something on one machine only
COSTS = ("trainable_params", "head_params", "total_params", "adapter_bytes", *TIMED)


@dataclass(frozen=True)
class Result:
    """One run as it was recorded; `problem` says why its scores do not count."""

    folder: Path
    problem: str | None
    suite: str
    task: str
    model: str
    model_for: str | None  # what the model, or the data, stands in for
    data: str
    data_for: str | None
    method: str
    seed: int
    device: str
    started: str
    settings: dict[str, str]
    rows: dict[str, int]
    scores: dict[str, dict[str, Any]]
    costs: dict[str, float]


@dataclass(frozen=True)
class Broken:
    """A result.json that tells nothing."""

    folder: Path
    problem: str


def collect(folders: Iterable[Path]) -> list[Result | Broken]:
    """Read every result.json below the folders; one that cannot be read, or did not finish, is kept with its problem.

    A run that is there twice (a copy of its folder) counts once, or the copy would pass for another seed.
    """
    found = [_read(file) for file in sorted({file for folder in folders for file in folder.rglob("result.json")})]
    latest: dict[tuple, Result] = {}
    for result in found:
        if isinstance(result, Result):
            kept = latest.setdefault(_identity(result), result)
            if (result.problem is None, result.started) > (kept.problem is None, kept.started):
                latest[_identity(result)] = result
    return [
        replace(r, problem=r.problem or f"the same run as {latest[_identity(r)].folder}, which counts")
        if isinstance(r, Result) and latest[_identity(r)] is not r
        else r
        for r in found
    ]


def _read(file: Path) -> Result | Broken:
    try:
        return _result(file.parent, json.loads(file.read_text(encoding="utf-8")))
    except KeyError as error:
        return Broken(file.parent, f"cannot be read: it lacks {error}")
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        return Broken(file.parent, f"cannot be read: {error}")


def _result(folder: Path, record: dict[str, Any]) -> Result:
    config, meta, sources = record["run"]["config"], record["meta"], record["audit"]["sources"]
    model, data, task = sources["model"], sources["data"], config["task"]
    settings = {name: value for name, value in _flatten(config).items() if name not in INCIDENTAL | {"seed"}}
    # what `main` or `auto` stood for on that day
    settings |= _flatten({"sources.model": {name: model.get(name) for name in ("revision", "pooling")}})
    settings["sources.data.revision"] = str(data.get("revision"))
    settings |= _flatten({"setup": record["run"].get("setup", {})})
    scores = {
        str(name): {"value": float(entry["value"]), "higher_is_better": bool(entry["higher_is_better"])}
        for name, entry in record.get("scores", {}).items()
    }
    wrong = [f"{name} is {entry['value']}" for name, entry in scores.items() if not math.isfinite(entry["value"])]
    problem = None
    if meta["status"] != "finished":
        problem = f"{meta['status']}: {meta.get('reason') or 'not finished'}"
    elif wrong or not scores:
        problem = ", ".join(wrong) or "no scores: the labels are hidden"
    name = str(data["name"])
    if data.get("kind") == "folder":
        name = name.removesuffix(f"/{task['name']}")  # a data_root holds one folder a task
    data_for = data.get("substituted_for") or (task["suite"] if data.get("kind") == "embedded" else None)
    costs = {cost: record.get("costs", {}).get(cost) for cost in COSTS}
    return Result(
        folder=folder,
        problem=problem,
        suite=str(task["suite"]),
        task=str(task["name"]),
        model=str(model["name"]),
        model_for=str(model["substituted_for"]) if model.get("substituted_for") else None,
        data=name,
        data_for=str(data_for) if data_for else None,
        method=str(config["method"]["name"]),
        seed=int(meta["seed"]),
        device=str(meta["device"]),
        started=str(meta.get("started")),
        settings=settings,
        rows={str(split): int(n) for split, n in record["audit"].get("rows", {}).items()},
        scores={} if problem else scores,
        costs={cost: float(value) for cost, value in costs.items() if value is not None},
    )


def _flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value if isinstance(value, str) else json.dumps(value)
    return flat


def source_of(result: Result) -> tuple:
    """Return what must be equal for two results to stand on one board: stand-ins never meet the real thing."""
    return result.suite, result.data, result.data_for, result.model_for is not None


def group_of(result: Result) -> tuple:
    """Return what must be equal for two results to be seeds of one row, but for the number of rows."""
    settings = json.dumps(result.settings, sort_keys=True)
    return *source_of(result), result.task, result.model, result.model_for, result.method, settings


def _identity(result: Result) -> tuple:
    return *group_of(result), tuple(sorted(result.rows.items())), result.seed
