"""The zip of test predictions that the GLUE benchmark's site accepts, from finished runs of every GLUE task."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

from peftkit.config import NON_RESULT_KEYS, Refusal, RunConfig, UserError, refuse
from peftkit.config.console import is_main_process, log
from peftkit.leaderboard.reading import collect
from peftkit.leaderboard.runs import BoardRun
from peftkit.leaderboard.settings import flatten
from peftkit.leaderboard.stats import GLUE, task_score
from peftkit.paths import atomic_write, safe_name
from peftkit.results import run_folder
from peftkit.results.run_result import RunResult

if TYPE_CHECKING:
    from peftkit.data.datasets import TaskDataset


@dataclass(frozen=True)
class SubmissionFile:
    """One file of the zip: a header, then an index and a prediction for each example of a test split.

    File names, labels and the range of numbers are those of gluebenchmark.com/faq and of its sample submission. `size`
    is the number of examples in the benchmark's test set. `labels` maps label names to their text in the file;
    None for numbers.
    """

    name: str
    task: str  # of the test split
    split: str
    size: int
    labels: Mapping[str, str] | None
    trained_on: str


def _by_number(*labels: str) -> dict[str, str]:
    return {label: str(number) for number, label in enumerate(labels)}


NLI = {label: label for label in ("entailment", "neutral", "contradiction")}
TWO_WAY = {label: label for label in ("entailment", "not_entailment")}
SUBMISSION_FILES = (
    SubmissionFile("AX", "ax", "test", 1104, NLI, "mnli"),
    SubmissionFile("CoLA", "cola", "test", 1063, _by_number("unacceptable", "acceptable"), "cola"),
    SubmissionFile("MNLI-m", "mnli", "test_matched", 9796, NLI, "mnli"),
    SubmissionFile("MNLI-mm", "mnli", "test_mismatched", 9847, NLI, "mnli"),
    SubmissionFile("MRPC", "mrpc", "test", 1725, _by_number("not_equivalent", "equivalent"), "mrpc"),
    SubmissionFile("QNLI", "qnli", "test", 5463, TWO_WAY, "qnli"),
    SubmissionFile("QQP", "qqp", "test", 390965, _by_number("not_duplicate", "duplicate"), "qqp"),
    SubmissionFile("RTE", "rte", "test", 3000, TWO_WAY, "rte"),
    SubmissionFile("SST-2", "sst2", "test", 1821, _by_number("negative", "positive"), "sst2"),
    SubmissionFile("STS-B", "stsb", "test", 1379, None, "stsb"),
    SubmissionFile("WNLI", "wnli", "test", 146, _by_number("not_entailment", "entailment"), "wnli"),
)  # fmt: skip
STSB_MAX = 5.0  # the range is 0 to 5; the site rejects other numbers


def submission(config: RunConfig) -> None:
    """Predict every test set of GLUE with one run per task, and write the zip.

    Predictions are written to the run folders, so that a second call resumes.

    Raises:
        UserError: a task or its test set is missing, or there are runs of several models or methods.
    """
    chosen = choose_runs(config)
    # imported late, so that missing runs are refused before torch is loaded
    from peftkit.pipeline.libraries import configure_libraries

    configure_libraries(config.source)
    substituted = {(run.model, run.model_substituted_for) for run in chosen if run.model_substituted_for}
    for model, replaced in sorted(substituted):
        log(f"!! MODEL: {model} (offline) replaces {replaced}; this is a submission of {model}")
    runs = {run.task: run for run in chosen}
    tested = {file.task: runs[file.trained_on] for file in SUBMISSION_FILES}
    # read all test sets before the first prediction, so that a missing one is refused immediately
    tests = {task: read_test_set(config, run, task) for task, run in tested.items()}
    predictions = {task: predict_test_set(config, run, task, tests[task]) for task, run in tested.items()}
    if is_main_process():
        texts = {
            file.name: prediction_file(file, tested[file.task], tests[file.task], predictions[file.task])
            for file in SUBMISSION_FILES
        }
        invalid = {file.name: reason for file in SUBMISSION_FILES if (reason := invalid_reason(file, tests[file.task]))}
        _write(config, chosen, texts, invalid)


def choose_runs(config: RunConfig) -> list[BoardRun]:
    """Return a run per task: those of `runs`, or the best on validation of one model and method.

    Raises:
        UserError: a task has no finished run, or the runs below `out` are of several models or methods.
    """
    return _named_runs(config.runs) if config.runs is not None else _best_runs(config)


def _named_runs(folders: Sequence[str]) -> list[BoardRun]:
    by_task: dict[str, BoardRun] = {}
    for folder in map(Path, folders):
        run = next((run for run in _glue_runs(folder) if run.folder == folder), None)
        if run is None:
            raise UserError(
                f"runs={folder}: not a run of a GLUE task; set runs= to one run of each of {', '.join(GLUE)}"
            )
        if (known := by_task.setdefault(run.task, run)) is not run:
            raise UserError(f"runs=: two runs of {run.task}, {known.folder} and {folder}; drop one")
    if missing := [task for task in GLUE if task not in by_task]:
        message = (
            f"runs=: no run of {', '.join(missing)}, and a submission has all nine tasks; add one of each, "
            "or drop runs= to use the best of those below out="
        )
        raise UserError(Refusal(message, "~runs"))
    return [by_task[task] for task in GLUE]


def _best_runs(config: RunConfig) -> list[BoardRun]:
    """Return for each task the run with the best validation score, all of one model and method."""
    below = _glue_runs(Path(config.out))
    real = [run for run in below if not run.data_substituted_for]  # runs on generated data only if there are no others
    matching = [run for run in real or below if _matches(run, config)]
    finished = [run for run in matching if run.problem is None]
    if not finished:
        raise UserError(
            f"{config.out}: no finished run of a GLUE task{' with these settings' if below else ''}; "
            f"train first: python -m peftkit {shlex.join(['recipe=lora_glue', *_out(config)])}"
        )
    kinds = [*dict.fromkeys((r.settings.get("model.name", r.model), r.method, r.model) for r in finished)]
    if len(kinds) > 1:
        named = ", ".join(f"model={name} method={method} ({model})" for name, method, model in kinds[:6])
        raise UserError(
            f"{config.out} has {named}{', ...' if len(kinds) > 6 else ''}; a submission is of one model and method; "
            "set model= and method=, or runs= to one run per task"
        )
    if missing := [task for task in GLUE if task not in {run.task for run in finished}]:
        raise UserError(_missing(config, missing, matching, finished[0]))
    return [_best_of(task, [run for run in finished if run.task == task]) for task in GLUE]


def _glue_runs(folder: Path) -> list[BoardRun]:
    """Return the runs of GLUE tasks below a folder, without cross-validations, which keep no model."""
    runs = [run for run in collect([folder]) if isinstance(run, BoardRun) and "task.folds" not in run.settings]
    return [run for run in runs if run.suite == "glue" and run.task in GLUE]


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
    typed = {name for key in keys for name in flat if name == key or name.startswith(f"{key}.")}
    recorded = {"model.checkpoint": run.audit["sources"]["model"]["name"], **run.settings}
    return all(recorded.get(name, "null") == flat[name] for name in typed - NON_RESULT_KEYS - {"seed"})


def _missing(config: RunConfig, missing: Sequence[str], matching: Sequence[BoardRun], like: BoardRun) -> str:
    """Return a message about tasks without a finished run: the reasons, and the command that trains them."""
    problems = {run.task: run.problem for run in matching if run.problem}
    listed = ", ".join(task + (f" ({problems[task]})" if task in problems else "") for task in missing)
    typed = [each for each in like.overrides if not each.startswith(("task=", "seed=", "out=", "force="))]
    choice = typed or [f"model={like.settings.get('model.name', like.model)}", f"method={like.method}"]
    overrides = [*choice, f"task={','.join(missing)}", f"seed={like.seed}", *_out(config)]
    return (
        f"{config.out}: no finished run of {like.method} on {listed}, and a submission has all nine tasks; "
        f"train: python -m peftkit {'-m ' if len(missing) > 1 else ''}{shlex.join(overrides)}"
    )


def _best_of(task: str, runs: Sequence[BoardRun]) -> BoardRun:
    splits = [json.loads(run.settings.get("task.splits.validation", "[]")) for run in runs]
    counts = {json.dumps({n: run.examples.get(n) for n in names}) for run, names in zip(runs, splits, strict=True)}
    if len(counts) > 1:
        raise UserError(
            f"the runs of {task} were scored on different examples ({'; '.join(sorted(counts))}), so their scores are "
            "not comparable; set runs= to one run per task"
        )
    best = max(runs, key=lambda run: task_score(run.scores))
    log(f"{task}: {best.folder}, {task_score(best.scores):.4f} on validation, best of {len(runs)}")
    return best


def read_test_set(config: RunConfig, run: BoardRun, task: str) -> TaskDataset:
    """Read a test set that a run predicts, from the source of its data, or from data_root.

    Raises:
        UserError: the test set is missing.
    """
    from peftkit.data.datasets import load_task_dataset

    trained, is_offline = RunResult(run.folder).config, run.audit["sources"]["data"]["kind"] == "offline"
    root = None if is_offline else config.data_root or trained.data_root
    splits = [file.split for file in SUBMISSION_FILES if file.task == task]
    if root is not None and (missing := [split for split in splits if not any(Path(root, task).glob(f"{split}.*"))]):
        files = ", ".join(f"{task}/{split}.parquet" for split in missing)
        raise UserError(f"data_root={root}: the test set {files} is missing; add it, or set data_root=DIR")
    test = replace(
        trained.task, name=task, subset=task, splits={"train": None, "validation": splits}, max_eval_samples=None
    )
    return load_task_dataset(test, root, "offline" if is_offline else config.source)


def predict_test_set(config: RunConfig, run: BoardRun, task: str, data: TaskDataset) -> Path:
    """Return the file of a run's predictions for a test set, in the run's folder; it is written if missing."""
    from peftkit.pipeline.artifacts import load_bundle, with_eval_settings
    from peftkit.pipeline.examples import score_splits
    from peftkit.pipeline.main_process import locked_by_main_process

    predictions, note = run.folder / f"predictions-{task}-test.parquet", run.folder / f"evaluation-{task}-test.json"
    source = {name: getattr(data.source, name) for name in ("kind", "name", "revision")}
    with locked_by_main_process(note):
        if note.is_file() and json.loads(note.read_text(encoding="utf-8"))["source"] == source:
            log(f"{task}: predicted already, in {run.folder}")
            return predictions
        log(f"{task}: {sum(map(len, data.splits.values()))} test examples, {run.folder}")
        trained = RunResult(run.folder)
        _, costs = score_splits(with_eval_settings(config, trained.config), load_bundle(trained), data, predictions)
        if is_main_process():
            run_folder.write_text(note, json.dumps({"source": source, "costs": costs}) + "\n")
    return predictions


def prediction_file(file: SubmissionFile, run: BoardRun, data: TaskDataset, predictions: Path) -> str:
    """Return the text of one file of the zip, in the order of the benchmark's own index.

    An example without text gets the most common label of training, or the mean.

    Raises:
        UserError: the labels of run and task differ, or the examples are not numbered from 0.
    """
    import pyarrow.parquet as pq

    names, size = run.audit["label_names"], len(data.splits[file.split]) + data.dropped[file.split]
    table = pq.read_table(predictions, columns=["id", "split", "prediction"]).to_pylist()
    predicted = {entry["id"]: entry["prediction"] for entry in table if entry["split"] == file.split}
    refuse(
        (
            file.labels is not None and set(names or ()) != set(file.labels),
            f"{run.folder}: has labels {', '.join(names or ['numbers'])}, the benchmark has "
            f"{', '.join(file.labels or ())}; train task={run.task} with the task's own labels",
        ),
        (
            len(predicted) + data.dropped[file.split] != size or not set(predicted) <= set(range(size)),
            f"{data.source.name}, {file.split}: column idx does not number the examples from 0 to {size - 1}, as the "
            "benchmark does; renumber them",
        ),
    )
    if len(predicted) < size:
        log(f"!! {file.name}: {size - len(predicted)} examples without text get the most common label of training")
        counts = run.audit["label_counts"]["train"]
        default = counts["mean"] if names is None else max(range(len(names)), key=lambda number: counts[names[number]])
        predicted = dict.fromkeys(range(size), default) | predicted
    lines = [f"{number}\t{_entry(file, predicted[number], names)}\n" for number in range(size)]
    return "index\tprediction\n" + "".join(lines)


def invalid_reason(file: SubmissionFile, data: TaskDataset) -> str | None:
    """Return why the site would reject a file, or why its score would be meaningless; None if the file is valid."""
    size = len(data.splits[file.split]) + data.dropped[file.split]
    if data.source.kind == "offline":
        return f"{data.source.name} replaces the benchmark's test set"
    return None if size == file.size else f"there are {size} examples, and {file.size} in the benchmark's test set"


def _entry(file: SubmissionFile, prediction: Any, names: Sequence[str]) -> str:
    """Return a prediction in the format of the site."""
    if file.labels is not None:
        return file.labels[names[int(prediction)]]
    if not math.isfinite(prediction):
        raise UserError(f"the run of {file.task} predicts {prediction}; train it with a lower train.learning_rate")
    return f"{min(max(prediction, 0.0), STSB_MAX):.3f}"


def _write(config: RunConfig, chosen: Sequence[BoardRun], texts: Mapping[str, str], invalid: Mapping[str, str]) -> None:
    kinds = {(run.model.split("/")[-1], run.method) for run in chosen}
    stem = "-".join(["submission", *next(iter(kinds))] if len(kinds) == 1 else ["submission"])
    file = Path(config.output or Path(config.out, f"{safe_name(stem)}.zip"))
    file = file.with_name(f"not-for-upload-{file.name}") if invalid else file
    with atomic_write(file) as part, ZipFile(part, "w", ZIP_DEFLATED) as archive:
        for name, text in sorted(texts.items()):
            archive.writestr(ZipInfo(f"{name}.tsv"), text, ZIP_DEFLATED)  # no date: equal predictions, equal bytes
    for reason in dict.fromkeys(invalid.values()):
        log(f"!! {', '.join(f'{name}.tsv' for name, each in invalid.items() if each == reason)}: {reason}")
    if invalid:
        log("!! NOT FOR UPLOAD: the format is valid, but the scores would be meaningless; the file name warns too")
    log(f"-> {file}")
