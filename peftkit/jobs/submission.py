"""The zip of test predictions that the GLUE benchmark's site takes, from finished runs of every GLUE task."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

from peftkit.config import INCIDENTAL, RunConfig, UserError
from peftkit.jobs.submission_files import FILES, invalid_reason, prediction_file
from peftkit.leaderboard.reading import collect
from peftkit.leaderboard.runs import BoardRun
from peftkit.leaderboard.settings import flatten
from peftkit.leaderboard.stats import GLUE, task_score
from peftkit.paths import safe_name
from peftkit.results.console import is_main_process, log

if TYPE_CHECKING:
    from peftkit.data.datasets import TaskDataset


def submission(config: RunConfig) -> None:
    """Predict every test set of GLUE with one run a task, and write the zip.

    Predictions are written to the run folders, so that a second call resumes.

    Raises:
        UserError: a task or its test set is missing, or there are runs of several models or methods.
    """
    chosen = choose_runs(config)
    # imported late, so that missing runs are refused before torch loads
    from peftkit.pipeline.libraries import configure_libraries

    configure_libraries(config.source)
    substituted = {(run.model, run.model_substituted_for) for run in chosen if run.model_substituted_for}
    for model, replaced in sorted(substituted):
        log(f"!! MODEL: {model} (offline) replaces {replaced}; this is a submission of {model}")
    # read all test sets before the first prediction, so that a missing one is refused at once
    tests = {run.folder: read_test_sets(config, run) for run in chosen}
    texts: dict[str, str] = {}
    invalid: dict[str, list[str]] = {}
    for run in chosen:
        for task, data in tests[run.folder].items():
            predictions = predict_test_set(config, run, task, data)
            for file in (file for file in FILES if is_main_process() and file.task == task):
                texts[f"{file.name}.tsv"] = prediction_file(file, run, data, predictions)
                if (reason := invalid_reason(file, data)) is not None:
                    invalid.setdefault(reason, []).append(f"{file.name}.tsv")
    if is_main_process():
        _write(texts, _target(config, chosen, bool(invalid)), invalid)


def choose_runs(config: RunConfig) -> list[BoardRun]:
    """Return a run for each task: those of `runs`, or the best on validation of one model and method.

    Raises:
        UserError: a task has no finished run, or the runs below `out` are of several models or methods.
    """
    return _named_runs(config.runs) if config.runs is not None else _best_runs(config)


def _named_runs(folders: Sequence[str]) -> list[BoardRun]:
    by_task: dict[str, BoardRun] = {}
    for folder in map(Path, folders):
        run = next((r for r in collect([folder]) if r.folder == folder and isinstance(r, BoardRun)), None)
        if run is None or run.suite != "glue" or run.task not in GLUE:
            raise UserError(
                f"runs={folder}: not a run of a GLUE task; set runs= to one run of each of {', '.join(GLUE)}"
            )
        if run.task in by_task:
            raise UserError(f"runs=: two runs of {run.task}, {by_task[run.task].folder} and {folder}; drop one")
        by_task[run.task] = run
    if missing := [task for task in GLUE if task not in by_task]:
        raise UserError(
            f"runs=: no run of {', '.join(missing)}, and a submission has all nine tasks; add one of each, "
            "or drop runs= to use the best of those below out="
        )
    return [by_task[task] for task in GLUE]


def _best_runs(config: RunConfig) -> list[BoardRun]:
    """Return for each task the run with the best validation score, all of one model and method."""
    below = [r for r in collect([Path(config.out)]) if isinstance(r, BoardRun) and r.suite == "glue"]
    below = [run for run in below if run.task in GLUE]
    real = [run for run in below if not run.data_substituted_for]  # generated data only if there is no real data
    matching = [run for run in real or below if _matches(run, config)]
    finished = [run for run in matching if run.problem is None]
    if not finished:
        which = " with these settings" if below else ""
        command = shlex.join(["recipe=lora_glue", *_out(config)])
        raise UserError(
            f"{config.out}: no finished run of a GLUE task{which}; train first: python -m peftkit {command}"
        )
    kinds = list(dict.fromkeys((r.settings.get("model.name", r.model), r.method, r.model) for r in finished))
    if len(kinds) > 1:
        named = ", ".join(f"model={name} method={method} ({model})" for name, method, model in kinds[:6])
        raise UserError(
            f"{config.out} has {named}{', ...' if len(kinds) > 6 else ''}; a submission is of one model and method; "
            "set model= and method=, or name one run a task: runs=[DIR,...]"
        )
    if missing := [task for task in GLUE if task not in {run.task for run in finished}]:
        raise UserError(_missing(config, missing, matching, finished[0]))
    return [_best_of(task, [run for run in finished if run.task == task]) for task in GLUE]


def _out(config: RunConfig) -> list[str]:
    """Return the typed override of out=, where the next submission looks for runs."""
    return [override for override in config.overrides if override.startswith("out=")]


def _matches(run: BoardRun, config: RunConfig) -> bool:
    """Return whether a run has the model, method, seed and settings that were typed."""
    flat = flatten(config.to_dict())
    keys = [override.partition("=")[0].lstrip("+") for override in config.overrides if "=" in override]
    keys = [f"{key}.name" if key in ("model", "method") else key for key in keys]
    if "seed" in keys and run.seed != config.seed:
        return False
    typed = {name for key in keys for name in flat if name == key or name.startswith(f"{key}.")} - INCIDENTAL - {"seed"}
    recorded = {"model.checkpoint": run.audit["sources"]["model"]["name"], **run.settings}
    return all(recorded.get(name, "null") == flat[name] for name in typed)


def _missing(config: RunConfig, missing: Sequence[str], matching: Iterable[BoardRun], like: BoardRun) -> str:
    """Return a message about tasks without a finished run: the reasons, and the command that trains them."""
    problems = {run.task: run.problem for run in matching if run.problem}
    listed = ", ".join(task + (f" ({problems[task]})" if task in problems else "") for task in missing)
    overrides = [each for each in like.overrides if not each.startswith(("task=", "seed=", "out=", "force="))]
    overrides = overrides or [f"model={like.settings.get('model.name', like.model)}", f"method={like.method}"]
    overrides += [f"task={','.join(missing)}", f"seed={like.seed}", *_out(config)]
    return (
        f"{config.out}: no finished run of {like.method} on {listed}, and a submission has all nine tasks; "
        f"train: python -m peftkit {'-m ' if len(missing) > 1 else ''}{shlex.join(overrides)}"
    )


def _best_of(task: str, runs: Sequence[BoardRun]) -> BoardRun:
    example_counts = {
        json.dumps(
            {split: run.examples.get(split) for split in json.loads(run.settings.get("task.splits.validation", "[]"))}
        )
        for run in runs
    }
    if len(example_counts) > 1:
        raise UserError(
            f"the runs of {task} were scored on different examples ({'; '.join(sorted(example_counts))}), so their "
            "scores are not comparable; name one run a task: runs=[DIR,...]"
        )
    best = max(runs, key=lambda run: task_score(run.scores))
    log(f"{task}: {best.folder}, {task_score(best.scores):.4f} on validation, best of {len(runs)}")
    return best


def read_test_sets(config: RunConfig, run: BoardRun) -> dict[str, TaskDataset]:
    """Read the test sets that a run predicts (of MNLI also AX), from the source of its data, or from data_root.

    Raises:
        UserError: a test set is missing.
    """
    tasks = list(dict.fromkeys(file.task for file in FILES if file.trained_on == run.task))
    return {task: _read_test_set(config, run, task) for task in tasks}


def _read_test_set(config: RunConfig, run: BoardRun, task: str) -> TaskDataset:
    from peftkit.data.datasets import load_task_dataset
    from peftkit.pipeline.inference import recorded_config

    trained = recorded_config(run.folder)
    is_offline = run.audit["sources"]["data"]["kind"] == "offline"
    root = None if is_offline else config.data_root or trained.data_root
    splits = [file.split for file in FILES if file.task == task]
    if root is not None and (missing := [split for split in splits if not any(Path(root, task).glob(f"{split}.*"))]):
        files = ", ".join(f"{task}/{split}.parquet" for split in missing)
        raise UserError(f"data_root={root}: the test set {files} is missing; add it, or set data_root=DIR")
    test = replace(
        trained.task, name=task, subset=task, splits={"train": None, "validation": splits}, max_eval_samples=None
    )
    return load_task_dataset(test, root, "offline" if is_offline else config.source)


def predict_test_set(config: RunConfig, run: BoardRun, task: str, data: TaskDataset) -> Path:
    """Return the file with a run's predictions of a test set, in the run's folder; written if missing."""
    from peftkit.pipeline.evaluate import evaluate_splits
    from peftkit.pipeline.inference import load_bundle, recorded_config, with_eval_batch_size
    from peftkit.pipeline.trainers import predictor
    from peftkit.results import run_folder

    predictions, note = (
        run.folder / name for name in (f"predictions-{task}-test.parquet", f"evaluation-{task}-test.json")
    )
    source = {name: getattr(data.source, name) for name in ("kind", "name", "revision")}
    if note.is_file() and json.loads(note.read_text(encoding="utf-8"))["source"] == source:
        log(f"{task}: predicted already, in {run.folder}")
        return predictions
    trained = recorded_config(run.folder)
    log(f"{task}: {sum(map(len, data.splits.values()))} test examples, {run.folder}")
    bundle = load_bundle(trained, run.folder)
    splits = {name: bundle.format.encode(table) for name, table in data.splits.items()}
    with predictor(with_eval_batch_size(config, trained), bundle) as trainer:
        _, costs = evaluate_splits(trained, bundle, trainer, splits, data, predictions)
    if is_main_process():
        run_folder.write_text(note, json.dumps({"source": source, "costs": costs}) + "\n")
    return predictions


def _target(config: RunConfig, chosen: Sequence[BoardRun], is_invalid: bool) -> Path:
    kinds = {(run.model.split("/")[-1], run.method) for run in chosen}
    stem = "-".join(["submission", *next(iter(kinds))] if len(kinds) == 1 else ["submission"])
    file = Path(config.output) if config.output else Path(config.out, f"{safe_name(stem)}.zip")
    return file.with_name(f"not-for-upload-{file.name}") if is_invalid else file


def _write(texts: Mapping[str, str], file: Path, invalid: Mapping[str, Sequence[str]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f".{file.name}.part")
    with ZipFile(part, "w", ZIP_DEFLATED) as archive:
        for name, text in sorted(texts.items()):
            archive.writestr(ZipInfo(name), text, ZIP_DEFLATED)  # no date: equal predictions, equal bytes
    part.replace(file)
    for reason, names in invalid.items():
        log(f"!! {', '.join(names)}: {reason}")
    if invalid:
        log("!! NOT FOR UPLOAD: the format is right, but the scores would be meaningless; the file name warns too")
    log(f"-> {file}")
