"""Reading of run folders: every result.json below some folders as recorded runs."""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from peftkit.config import INCIDENTAL
from peftkit.leaderboard.runs import COSTS, RecordedRun, UnreadableRun

DEEP = {"adapter", "model", "checkpoints", "merged", "tensorboard"}  # folders of a run folder, which hold no runs
# other versions of these, but for the patch, may train another model; of the other packages they are noted
DECIDING = ("peftkit", "transformers", "peft")
IN_A_FOLDER = "a folder"  # the data's name: the same files have another path on another machine


def collect(folders: Iterable[Path]) -> list[RecordedRun | UnreadableRun]:
    """Read every result.json below the folders; one that cannot be read, or did not finish, is kept with its problem.

    A run that is there twice (a copy of its folder) counts once, or the copy would pass for another seed. Trials of a
    search are no results: what they found is in the `search` of the runs that they were made for.
    """
    read = (_read(folder) for folder in sorted(_run_folders(folders)))
    found = _named_by_content([result for result in read if result is not None])
    latest: dict[tuple, RecordedRun] = {}
    for result in found:
        if isinstance(result, RecordedRun):
            kept = latest.setdefault(_identity(result), result)
            if (result.problem is None, result.started) > (kept.problem is None, kept.started):
                latest[_identity(result)] = result
    return [
        replace(r, problem=r.problem or f"the same run as {latest[_identity(r)].folder}, which counts")
        if isinstance(r, RecordedRun) and latest[_identity(r)] is not r
        else r
        for r in found
    ]


def version_notes(results: Iterable[RecordedRun | UnreadableRun]) -> list[str]:
    """Return a sentence on the packages of which the seeds of one row have different versions.

    Only those are there that do not keep rows apart: other packages than DECIDING, and their own patches.
    """
    versions: dict[tuple, dict[str, set[str]]] = {}
    for result in results:
        if isinstance(result, RecordedRun) and result.problem is None:
            for package, version in result.versions.items():
                versions.setdefault(result.group, {}).setdefault(package, set()).add(version)
    mixed: dict[str, set[str]] = {}
    for packages in versions.values():
        for package, seen in packages.items():
            if len(seen) > 1:
                mixed.setdefault(package, set()).update(seen)
    named = ", ".join(f"{package} ({', '.join(sorted(seen))})" for package, seen in sorted(mixed.items()))
    return [f"Seeds of one row were run with different versions of {named}."] if named else []


def _run_folders(folders: Iterable[Path]) -> list[Path]:
    """Return every folder that holds a result.json, once, however the folders overlap."""
    found: dict[str, Path] = {}
    for top in folders:
        for place, below, files in os.walk(top):
            if "result.json" in files:
                found.setdefault(os.path.realpath(place), Path(place))
                below[:] = [name for name in below if name not in DEEP]
    return list(found.values())


def _read(folder: Path) -> RecordedRun | UnreadableRun | None:
    """Return a folder's result; None where it is a trial's, or tells of words or data and not of a task."""
    try:
        record = json.loads((folder / "result.json").read_bytes())
        config = record["run"]["config"]
        return None if config.get("trial") or config.get("job") in ("extend", "generate") else _result(folder, record)
    except KeyError as error:
        return UnreadableRun(folder, f"cannot be read: it lacks {error}")
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        return UnreadableRun(folder, f"cannot be read: {error}")


def _result(folder: Path, record: dict[str, Any]) -> RecordedRun:
    config, meta, sources = record["run"]["config"], record["meta"], record["audit"]["sources"]
    model, data, task = sources["model"], sources["data"], config["task"]
    versions = {str(name): str(text) for name, text in (meta.get("versions") or {}).items() if text is not None}
    scores = {
        str(name): {"value": float(entry["value"]), "higher_is_better": bool(entry["higher_is_better"])}
        for name, entry in record.get("scores", {}).items()
    }
    wrong = [f"{name} is {entry['value']}" for name, entry in scores.items() if not math.isfinite(entry["value"])]
    problem = None
    if meta["status"] == "running":
        problem = f"running since {str(meta.get('started'))[:16].replace('T', ' ')} UTC"
    elif meta["status"] != "finished":
        problem = f"{meta['status']}: {meta.get('reason') or 'not finished'}"
    elif wrong or not scores:
        problem = ", ".join(wrong) or "no scores: the labels are hidden"
    data_for = data.get("substituted_for") or (task["suite"] if data.get("kind") == "offline" else None)
    # a suite on disk holds one folder a task, each with its revision among the settings
    is_suite = data.get("kind") == "folder" and task["suite"] != "own"
    search = _search(record)
    costs = {cost: record.get("costs", {}).get(cost) for cost in COSTS}
    return RecordedRun(
        folder=folder,
        problem=problem,
        suite=str(task["suite"]),
        task=_task_name(task, config["model"]),
        model=str(model["name"]),
        model_substituted_for=str(model["substituted_for"]) if model.get("substituted_for") else None,
        data=IN_A_FOLDER if is_suite else str(data["name"]),
        data_substituted_for=str(data_for) if data_for else None,
        method=str(config["method"]["name"]),
        seed=int(meta["seed"]),
        device=str(meta["device"]),
        started=str(meta.get("started")),
        settings=_settings(config, sources, record["run"].get("setup", {}), versions, search),
        rows={str(split): int(n) for split, n in record["audit"].get("rows", {}).items()},
        scores={} if problem else scores,
        costs={cost: float(value) for cost, value in costs.items() if value is not None},
        overrides=[str(word) for word in record["run"].get("overrides") or []],
        versions=versions,
        audit=dict(record["audit"]),
        search=search,
        **{name: _part(record, name) for name in ("gates", "merge", "forgetting", "language", "judged")},
    )


OBJECTIVES = {"encoder": "masked words", "decoder": "next token", "seq2seq": "spans"}


def _task_name(task: Mapping[str, Any], model: Mapping[str, Any]) -> str:
    """Name a task, and of language modelling what is asked, too: bits of unlike questions are not to be compared."""
    name = str(task["name"])
    return f"{name}, {OBJECTIVES[model['family']]}" if task.get("kind") == "language_modeling" else name


def _search(record: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what a search found, once its figures are figures.

    Raises:
        KeyError, TypeError, ValueError: they are not.
    """
    found = _part(record, "search")
    for trial in (found or {}).get("trials") or []:
        float(trial["learning_rate"])
    for point in (found or {}).get("curve") or []:
        if not (float(point["epoch"]) > 0 and math.isfinite(float(point["score"]))):
            raise ValueError("a point of search.curve is none")
    return found


def _settings(
    config: Mapping[str, Any],
    sources: Mapping[str, Any],
    setup: Mapping[str, Any],
    versions: Mapping[str, str],
    search: Mapping[str, Any] | None,
) -> dict[str, str]:
    """Return what decides a result; a path is none of it where a revision says what was read from there."""
    left_out = INCIDENTAL | {"seed", "trial"}
    # null counts as absent, as in a run's id: a key of a later version makes no row of its own
    settings = {
        name: value
        for name, value in flatten(config).items()
        if value != "null" and not {name, name.split(".")[0]} & left_out
    }
    if not (config.get("search") or {}).get(
        "lr_multipliers"
    ):  # a run without a search is as one of before there was any
        settings = {name: value for name, value in settings.items() if not name.startswith("search.")}
    else:  # the rate is what the search found, another one for each task
        settings["train.learning_rate"] = _around(config, search)
    if not (config.get("distill") or {}).get("teacher"):
        settings = {name: value for name, value in settings.items() if not name.startswith("distill.")}
    settings.pop("distill.teacher", None)  # a path; the set-up says which one it was
    by_path = {"data": ("task.dataset", "task.subset", "task.revision"), "model": ("model.checkpoint",)}
    for part, names in by_path.items():
        if sources[part].get("kind") == "folder" and sources[part].get("revision"):
            settings = {name: value for name, value in settings.items() if name not in names}
    # what `main` or `auto` stood for on that day
    settings |= flatten({"sources.model": {name: sources["model"].get(name) for name in ("revision", "pooling")}})
    settings["sources.data.revision"] = str(sources["data"].get("revision"))
    decided = {name: ".".join(versions[name].split(".")[:2]) for name in DECIDING if name in versions}
    return settings | flatten({"setup": setup, "versions": decided})


def _around(config: Mapping[str, Any], search: Mapping[str, Any] | None) -> str:
    """Return the rate that a search went around, as it was asked for."""
    asked = config["train"]["learning_rate"]
    if search is not None and search.get("trials"):
        asked = float(f"{float(search['trials'][0]['learning_rate']) / config['search']['lr_multipliers'][0]:.3g}")
    return f"around {float(asked):g}"


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return a config as the settings of a result have it: one text a key, as {"train.learning_rate": "0.001"}."""
    flat: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{name}.")
        elif value is not None:  # null is as if the key were not there, which it was not in earlier versions
            flat[prefix + name] = value if isinstance(value, str) else json.dumps(value)
    return flat


def _part(record: Mapping[str, Any], name: str) -> dict[str, Any] | None:
    value = record.get(name)
    return dict(value) if isinstance(value, dict) else None


def _named_by_content(found: list[RecordedRun | UnreadableRun]) -> list[RecordedRun | UnreadableRun]:
    """Name checkpoints and own data that lie in files alike wherever they lie, and apart where they differ."""
    names = {
        part: _names(
            (str(r.audit["sources"][part]["name"]), str(r.audit["sources"][part]["revision"]))
            for r in found
            if isinstance(r, RecordedRun) and _is_file(r, part)
        )
        for part in ("model", "data")
    }

    def name(result: RecordedRun, part: str, otherwise: str) -> str:
        return names[part][result.audit["sources"][part]["revision"]] if _is_file(result, part) else otherwise

    return [
        replace(r, model=name(r, "model", r.model), data=name(r, "data", r.data)) if isinstance(r, RecordedRun) else r
        for r in found
    ]


def _is_file(result: RecordedRun, part: str) -> bool:
    source = result.audit["sources"][part]
    is_suite = part == "data" and result.data == IN_A_FOLDER
    return source.get("kind") == "folder" and isinstance(source.get("revision"), str) and not is_suite


def _names(read: Iterator[tuple[str, str]]) -> dict[str, str]:
    """Return a name for each revision: the file's own, with the revision where two of one name differ."""
    names: dict[str, str] = {}
    for path, revision in read:
        own = Path(path)  # what a run left is named after the run
        names.setdefault(revision, own.parent.name if own.name in ("model", "merged") and own.parent.name else own.name)
    often = Counter(names.values())
    return {revision: name if often[name] == 1 else f"{name} ({revision})" for revision, name in names.items()}


def _identity(result: RecordedRun) -> tuple:
    return *result.group, tuple(sorted(result.rows.items())), result.seed
