"""Reading of recorded runs: every result.json below folders and in archives, as `BoardRun`s."""

import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

from peftkit.config.checks.values import value_of
from peftkit.config.errors import error_summary
from peftkit.config.jobs import WITHOUT_SCORES
from peftkit.config.kinds import KINDS
from peftkit.config.record_schema import MAX_NAME, MAX_NUMBER, check_record, check_size
from peftkit.leaderboard.archive import archived_runs, read_text
from peftkit.leaderboard.costs import COSTS
from peftkit.leaderboard.runs import SKIPPED, BoardRun, UnreadableRun
from peftkit.leaderboard.settings import migrate_v01, settings_of
from peftkit.paths import UNLISTED, is_file, walk

INSIDE_A_RUN = {"adapter", "model", "checkpoints", "merged", "tensorboard"}  # folders of a run folder
IN_A_FOLDER = "a folder"  # name of local data, whose path differs between machines
MAX_REASON = 1000  # characters of why a run failed
SECTIONS = (
    "search",
    "cross_validation",
    "gates",
    "merge",
    "forgetting",
    "language",
    "judged",
    "domains",
)  # of result.json, kept unchanged


def collect(paths: Iterable[Path]) -> list[BoardRun | UnreadableRun]:
    """Read every run below these folders, in these archives, and of these result.json files.

    A run that cannot be read, or did not finish, is kept with its problem. Copies of a run are counted once, not as
    further seeds. Trials of a search are not results: their scores are in the `search` of the runs they belong to.
    """
    read = [run for folder in sorted(run_folders(paths)) if (run := _read(folder)) is not None]
    unreadable = [run for run in read if isinstance(run, UnreadableRun)]
    runs = _named_by_content([run for run in read if isinstance(run, BoardRun)])
    # the latest is counted, of equal ones the first
    order = sorted(enumerate(runs), key=lambda pair: (pair[1].problem is None, pair[1].started, -pair[0]))
    counted = {run.identity: run for _, run in order}
    runs = [
        run
        if run.problem is not None or (kept := counted[run.identity]) is run
        else replace(run, problem=f"the same run as {kept.folder}, which counts")
        for run in runs
    ]
    return sorted([*runs, *unreadable], key=lambda run: run.folder)


def run_folders(paths: Iterable[Path]) -> list[Path]:
    """Return each folder with a result.json once, also where the paths overlap, and the paths of archived runs.

    A folder that cannot be listed is among them, so that the board shows it.
    """
    folders: dict[str, Path] = {}
    for path in paths:
        if path.suffix == ".parquet" and is_file(path):
            folders |= {os.path.realpath(folder): folder for folder in archived_runs(path)}
        for folder, names, below in walk(path.parent if path.name == "result.json" else path):
            if "result.json" in names or names == UNLISTED:
                folders.setdefault(os.path.realpath(folder), folder)
                below[:] = [name for name in below if name not in INSIDE_A_RUN]
    return list(folders.values())


def version_notes(runs: Iterable[BoardRun | UnreadableRun]) -> list[str]:
    """Return a note on packages whose versions differ between seeds of one entry."""
    counted = [run for run in runs if isinstance(run, BoardRun) and run.problem is None]
    versions = {(run.group, package, version) for run in counted for package, version in run.versions.items()}
    numbers = Counter((group, package) for group, package, _ in versions)
    mixed = {(package, version) for group, package, version in versions if numbers[group, package] > 1}
    named = ", ".join(
        f"{package} ({', '.join(version for _, version in pairs)})"
        for package, pairs in groupby(sorted(mixed), key=itemgetter(0))
    )
    return [f"Seeds of one entry ran with different versions of {named}."] if named else []


def _read(folder: Path) -> BoardRun | UnreadableRun | None:
    """Return the run of a folder; None for a trial, a fold, several tasks and for other jobs."""
    try:
        text = read_text(folder, "result.json")
        if text is None:
            raise ValueError("result.json is missing")
        record = json.loads(text)
        check_size(record)
        if value_of(record, "run.config.task.fold") is not None:
            return None
        if value_of(record, "run.config.trial") or value_of(record, "run.config.job") in WITHOUT_SCORES:
            return None
        check_record(record)
        if isinstance(record.get("tasks"), dict) and record["meta"]["status"] == "finished":
            return None  # the run of each task is in a folder of its own
        return _parse(folder, migrate_v01(record))
    except Exception as error:  # whatever is wrong in a file concerns its run only
        missing = " is missing" if isinstance(error, KeyError) else ""
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error_summary(error)
        return UnreadableRun(folder, f"broken: {reason[:MAX_NAME]}{missing}")


def _parse(folder: Path, record: dict[str, Any]) -> BoardRun:
    config, meta, audit = record["run"]["config"], record["meta"], _with_train(record)
    model, data, task = audit["sources"]["model"], audit["sources"]["data"], config["task"]
    sections = {name: record[name] if isinstance(record.get(name), dict) else None for name in SECTIONS}
    _check_curve(sections["search"] or {})
    versions = {str(name): str(text) for name, text in (meta.get("versions") or {}).items() if text is not None}
    scores = {
        name: {"value": float(score["value"]), "higher_is_better": score["higher_is_better"]}
        for name, score in (record.get("scores") or {}).items()
    }
    problem = _problem(meta, scores)
    data_for = data.get("substituted_for") or (task["suite"] if data.get("kind") == "offline" else None)
    # a suite on disk has one folder per task, each with its revision among the settings
    is_suite = data.get("kind") == "folder" and task["suite"] != "own"
    return BoardRun(
        folder=folder,
        problem=problem,
        suite=task["suite"],
        task=_task_name(task, config["model"]),
        model=model["name"],
        model_substituted_for=model.get("substituted_for") or None,
        data=IN_A_FOLDER if is_suite else data["name"],
        data_substituted_for=data_for or None,
        method=config["method"]["name"],
        seed=meta["seed"],
        device=meta["device"],
        started=str(meta.get("started"))[:MAX_NAME],
        settings=settings_of(record, versions),
        examples=dict(audit.get("rows") or {}),
        scores={} if problem else scores,
        costs=_costs(record.get("costs") or {}),
        overrides=list(record["run"].get("overrides") or []),
        versions=versions,
        audit=audit,
        **sections,
    )


def _with_train(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the audit of a result with the name train for the training split, which other data names otherwise."""
    audit, own = dict(record["audit"]), value_of(record, "run.config.task.splits.train")
    for name in ("rows", "dropped", "truncated", "label_counts"):
        if isinstance(counts := audit.get(name), Mapping):
            audit[name] = {"train" if split == own else split: each for split, each in counts.items()}
    return audit


def _problem(meta: Mapping[str, Any], scores: Mapping[str, Mapping[str, float]]) -> str | None:
    """Return why a run's scores are not valid, or None."""
    if meta["status"] == "running":
        return f"running since {str(meta.get('started'))[:16].replace('T', ' ')} UTC"
    if meta["status"] == SKIPPED:
        return f"{SKIPPED}: {str(meta.get('reason'))[:MAX_REASON]}"
    if meta["status"] != "finished":
        return f"{meta['status']}: {str(meta.get('reason') or 'not finished')[:MAX_REASON]}"
    if not scores:
        return "no scores: the labels are hidden"
    diverged = [f"{n} is {each['value']}" for n, each in scores.items() if not abs(each["value"]) < MAX_NUMBER]
    return ", ".join(diverged) or None


def _task_name(task: Mapping[str, Any], model: Mapping[str, Any]) -> str:
    """Return the name of a task; for language modeling with its objective: bits are comparable only within one."""
    kind = KINDS.get(str(task.get("kind")))
    objective = kind.objectives.get(str(model.get("family"))) if kind is not None else None
    return ", ".join(filter(None, (str(task["name"]), objective)))


def _costs(recorded: Mapping[str, Any]) -> dict[str, float]:
    """Return the known costs that were measured.

    Raises:
        ValueError: one is not a number of 0 or more.
    """
    costs = {cost: recorded[cost] for cost in COSTS if recorded.get(cost) is not None}
    for cost, value in costs.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or value < 0 or MAX_NUMBER < value < math.inf:
            raise ValueError(f"costs.{cost}: expected a number of 0 or more, below 1e100")
    return {cost: float(value) for cost, value in costs.items() if math.isfinite(value)}


def _check_curve(search: Mapping[str, Any]) -> None:
    """Check the points from which the time to a score is computed.

    Raises:
        ValueError: a point has no epoch above 0, or no finite score.
    """
    for point in search.get("curve") or []:
        if not (0 < point["epoch"] < math.inf and math.isfinite(point["score"])):
            raise ValueError("search.curve has a point without epoch or score")


def _named_by_content(runs: list[BoardRun]) -> list[BoardRun]:
    """Name models and data in local files by their content: equal content has equal names in any folder.

    A name is the file's own, with the revision where files of one name differ.
    """
    for part in ("model", "data"):
        sources = [_local_source(run, part) for run in runs]
        names: dict[str, Any] = {}
        for source in filter(None, sources):
            path = Path(str(source["name"]))  # a model in a run folder is named after the run
            is_of_run = path.name in ("model", "merged") and path.parent.name
            names.setdefault(source["revision"], path.parent.name if is_of_run else path.name)
        counts = Counter(names.values())
        names = {revision: name if counts[name] == 1 else f"{name} ({revision})" for revision, name in names.items()}
        pairs = zip(runs, sources, strict=True)
        runs = [replace(run, **{part: names[s["revision"]]}) if s is not None else run for run, s in pairs]
    return runs


def _local_source(run: BoardRun, part: str) -> dict[str, str] | None:
    source = run.audit["sources"][part]
    is_suite = part == "data" and run.data == IN_A_FOLDER
    is_known = source.get("kind") == "folder" and isinstance(source.get("revision"), str)
    return source if is_known and not is_suite else None
