"""Turn finished runs of every GLUE task into the zip of test answers that the benchmark's site takes."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

from peftkit.config import INCIDENTAL, RunConfig, UserError
from peftkit.jobs.submission_files import SHEETS, doubt_of, text_of
from peftkit.leaderboard.reading import collect
from peftkit.leaderboard.runs import BoardRun
from peftkit.leaderboard.settings import flatten
from peftkit.leaderboard.stats import GLUE, task_score
from peftkit.paths import safe_name
from peftkit.results.console import is_main_process, log

if TYPE_CHECKING:
    from peftkit.data.datasets import TaskDataset


def submission(run: RunConfig) -> None:
    """Answer every test set of GLUE with one run a task, and write the zip.

    What a run says of a test set is kept in its folder, so that a second call goes on where the first one stopped.

    Raises:
        UserError: a task or its test set is missing, or there are runs of several models or methods.
    """
    chosen = choose_runs(run)
    # only now: what is missing is answered before torch loads
    from peftkit.pipeline.libraries import configure_libraries

    configure_libraries(run.source)
    for model, asked in sorted(
        {(result.model, result.model_substituted_for) for result in chosen if result.model_substituted_for}
    ):
        log(f"!! MODEL: {model} (offline) stands in for {asked}; this is a submission of {model}")
    # all test sets before the first answer: one that is missing should not show after hours
    tests = {result.folder: read_test_sets(run, result) for result in chosen}
    texts: dict[str, str] = {}
    doubts: dict[str, list[str]] = {}
    for result in chosen:
        for task, rows in tests[result.folder].items():
            file = answer_test_set(run, result, task, rows)
            for sheet in (sheet for sheet in SHEETS if is_main_process() and sheet.task == task):
                texts[f"{sheet.name}.tsv"] = text_of(sheet, result, rows, file)
                if (doubt := doubt_of(sheet, rows)) is not None:
                    doubts.setdefault(doubt, []).append(f"{sheet.name}.tsv")
    if is_main_process():
        _write(texts, _target(run, chosen, bool(doubts)), doubts)


def choose_runs(run: RunConfig) -> list[BoardRun]:
    """Return a run of each task: those of `runs`, or of one model and method those with the best validation scores.

    Raises:
        UserError: a task has no finished run, or the runs under `out` leave open whose submission it is to be.
    """
    return _named(run.runs) if run.runs is not None else _best(run)


def _named(folders: Sequence[str]) -> list[BoardRun]:
    """Return the runs that the user names, one a task."""
    found: dict[str, BoardRun] = {}
    for folder in map(Path, folders):
        result = next((r for r in collect([folder]) if r.folder == folder and isinstance(r, BoardRun)), None)
        if result is None or result.suite != "glue" or result.task not in GLUE:
            raise UserError(f"{folder} is no run of a GLUE task; name in runs= one run of each of {', '.join(GLUE)}")
        if result.task in found:
            raise UserError(
                f"runs= names two runs of {result.task}, {found[result.task].folder} and {folder}; drop one"
            )
        found[result.task] = result
    if missing := [task for task in GLUE if task not in found]:
        raise UserError(
            f"a submission has all nine tasks, and runs= names no run of {', '.join(missing)}; add one of each, "
            "or drop runs= to have the best of those under out= chosen"
        )
    return [found[task] for task in GLUE]


def _best(run: RunConfig) -> list[BoardRun]:
    """Return of each task the run with the best validation score; the user has chosen one model and method."""
    out = [word for word in run.overrides if word.startswith("out=")]  # where what is trained will be looked for
    read = [r for r in collect([Path(run.out)]) if isinstance(r, BoardRun) and r.suite == "glue" and r.task in GLUE]
    real = [r for r in read if not r.data_substituted_for]  # beside which what stands in for GLUE is no run of it
    there = [r for r in real or read if _fits(r, run)]
    done = [r for r in there if r.problem is None]
    if not done:
        asked = " that fits" if read else ""
        raise UserError(
            f"{run.out} holds no finished run of a GLUE task{asked}; "
            f"train first: python -m peftkit {shlex.join(['recipe=lora_glue', *out])}"
        )
    kinds = list(dict.fromkeys((r.settings.get("model.name", r.model), r.method, r.model) for r in done))
    if len(kinds) > 1:
        named = ", ".join(f"model={name} method={method} ({model})" for name, method, model in kinds[:6])
        raise UserError(
            f"a submission is of one model and method, and {run.out} holds {named}{', ...' if len(kinds) > 6 else ''}; "
            "say which with model= and method=, or name one run a task: runs=[DIR,...]"
        )
    if missing := [task for task in GLUE if task not in {r.task for r in done}]:
        raise UserError(_missing(run, missing, there, done[0], out))
    return [_best_of(task, [r for r in done if r.task == task]) for task in GLUE]


def _fits(result: BoardRun, run: RunConfig) -> bool:
    """Tell whether a run has the model, method, seed and settings that were typed."""
    flat = flatten(run.to_dict())
    keys = [word.partition("=")[0].lstrip("+") for word in run.overrides if "=" in word]
    keys = [f"{key}.name" if key in ("model", "method") else key for key in keys]
    if "seed" in keys and result.seed != run.seed:
        return False
    typed = {name for key in keys for name in flat if name == key or name.startswith(f"{key}.")} - INCIDENTAL - {"seed"}
    had = {"model.checkpoint": result.audit["sources"]["model"]["name"], **result.settings}
    return all(had.get(name, "null") == flat[name] for name in typed)


def _missing(
    run: RunConfig, missing: Sequence[str], there: Iterable[BoardRun], like: BoardRun, out: Sequence[str]
) -> str:
    """Return the sentence about tasks without a finished run: why, and the command that makes them."""
    why = {r.task: r.problem for r in there if r.problem}
    named = ", ".join(task + (f" ({why[task]})" if task in why else "") for task in missing)
    words = [word for word in like.overrides if not word.startswith(("task=", "seed=", "out=", "force="))]
    words = words or [f"model={like.settings.get('model.name', like.model)}", f"method={like.method}"]
    words += [f"task={','.join(missing)}", f"seed={like.seed}", *out]
    return (
        f"a submission has all nine tasks, and {run.out} holds no finished run of {like.method} on {named}; "
        f"train: python -m peftkit {'-m ' if len(missing) > 1 else ''}{shlex.join(words)}"
    )


def _best_of(task: str, results: Sequence[BoardRun]) -> BoardRun:
    scored = {
        json.dumps({s: r.examples.get(s) for s in json.loads(r.settings.get("task.splits.validation", "[]"))})
        for r in results
    }
    if len(scored) > 1:
        raise UserError(
            f"the runs of {task} were scored on different rows ({'; '.join(sorted(scored))}), so none is the best of "
            "them; name one run a task: runs=[DIR,...]"
        )
    best = max(results, key=lambda r: task_score(r.scores))
    log(f"{task}: {best.folder}, {task_score(best.scores):.4f} on validation, best of {len(results)}")
    return best


def read_test_sets(run: RunConfig, result: BoardRun) -> dict[str, TaskDataset]:
    """Read the test sets that a run answers, MNLI's AX too, from where its data came from, or from data_root.

    Raises:
        UserError: a test set is not there.
    """
    tasks = list(dict.fromkeys(sheet.task for sheet in SHEETS if sheet.trained_on == result.task))
    return {task: _read_test_set(run, result, task) for task in tasks}


def _read_test_set(run: RunConfig, result: BoardRun, task: str) -> TaskDataset:
    from peftkit.data.datasets import load_task_dataset
    from peftkit.pipeline.inference import recorded_config

    trained = recorded_config(result.folder)
    is_embedded = result.audit["sources"]["data"]["kind"] == "offline"
    root = None if is_embedded else run.data_root or trained.data_root
    splits = [sheet.split for sheet in SHEETS if sheet.task == task]
    if root is not None and (lost := [split for split in splits if not any(Path(root, task).glob(f"{split}.*"))]):
        files = ", ".join(f"{task}/{split}.parquet" for split in lost)
        raise UserError(f"data_root={root} lacks the test set {files}; put it there, or say data_root=DIR")
    test = replace(
        trained.task, name=task, subset=task, splits={"train": None, "validation": splits}, max_eval_samples=None
    )
    return load_task_dataset(test, root, "offline" if is_embedded else run.source)


def answer_test_set(run: RunConfig, result: BoardRun, task: str, rows: TaskDataset) -> Path:
    """Return the file, in the run's folder, of what it says of a test set; it is made where it is not there yet."""
    from peftkit.pipeline.evaluate import evaluate_splits
    from peftkit.pipeline.inference import load_bundle, recorded_config
    from peftkit.pipeline.trainers import predictor
    from peftkit.results import run_folder

    file, note = (result.folder / name for name in (f"predictions-{task}-test.parquet", f"evaluation-{task}-test.json"))
    source = {name: getattr(rows.source, name) for name in ("kind", "name", "revision")}
    if note.is_file() and json.loads(note.read_text())["source"] == source:
        log(f"{task}: answered already, in {result.folder}")
        return file
    trained = recorded_config(result.folder)
    log(f"{task}: {sum(map(len, rows.splits.values()))} test rows, {result.folder}")
    parts = load_bundle(trained, result.folder)
    size = {"per_device_eval_batch_size": run.train["per_device_eval_batch_size"]}
    splits = {name: parts.format.encode(table) for name, table in rows.splits.items()}
    with predictor(replace(trained, train=trained.train | size), parts) as trainer:
        _, costs = evaluate_splits(trained, parts, trainer, splits, rows, file)
    if is_main_process():
        run_folder.write_text(note, json.dumps({"source": source, "costs": costs}) + "\n")
    return file


def _target(run: RunConfig, chosen: Sequence[BoardRun], is_doubtful: bool) -> Path:
    kinds = {(result.model.split("/")[-1], result.method) for result in chosen}
    stem = "-".join(["submission", *next(iter(kinds))] if len(kinds) == 1 else ["submission"])
    file = Path(run.output) if run.output else Path(run.out, f"{safe_name(stem)}.zip")
    return file.with_name(f"not-for-upload-{file.name}") if is_doubtful else file


def _write(texts: Mapping[str, str], file: Path, doubts: Mapping[str, Sequence[str]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f".{file.name}.part")
    with ZipFile(part, "w", ZIP_DEFLATED) as packed:
        for name, text in sorted(texts.items()):
            packed.writestr(ZipInfo(name), text, ZIP_DEFLATED)  # without a date: the same answers, the same bytes
    part.replace(file)
    for doubt, names in doubts.items():
        log(f"!! {', '.join(names)}: {doubt}")
    if doubts:
        log("!! THIS IS NO REAL SUBMISSION: its form is right, its scores would say nothing; its name says so too")
    log(f"-> {file}")
