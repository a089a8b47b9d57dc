"""job=diff: the examples on which two runs differ, by class, with paired tests."""

from __future__ import annotations

import shutil
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from peftkit.config import RunConfig, UserError
from peftkit.config.console import log
from peftkit.data.columns import SUFFIX
from peftkit.leaderboard.archive import read_parquet
from peftkit.leaderboard.flips import Flips, ScoreDifference, count_flips, score_difference
from peftkit.leaderboard.predictions import in_order, read_run_predictions
from peftkit.leaderboard.rendering import plain
from peftkit.paths import is_file
from peftkit.results.run_folder import PREDICTION_COLUMNS
from peftkit.results.run_result import RunResult

if TYPE_CHECKING:
    import pandas as pd

OUTCOMES = ("both right", "only A right", "only B right", "both wrong")
ADDED = ("label", "prediction_a", "prediction_b", "outcome")  # columns of the table beside id, split and texts
MAX_CLASS = 28  # characters of a class in the terminal
DEFAULT_WIDTH = 120  # without a terminal
SHOWN = 5  # examples of each kind, in the terminal
AGAIN = "train one of them again on the data of the other"
ONE_SEED = (
    "One run each: p and interval are about other examples, not about other seeds;\n"
    "job=leaderboard compares methods over seeds."
)


@dataclass(frozen=True)
class RunDiff:
    """Two runs on the same validation examples."""

    first: RunResult
    second: RunResult
    columns: dict[str, list]  # id, split, the texts, label, prediction_a, prediction_b, outcome; by example
    flips: list[Flips]  # all, then each class; empty where predictions are not right or wrong, as numbers
    difference: ScoreDifference | None  # of the first minus the second; None where the scores cannot be resampled

    def to_pandas(self) -> pd.DataFrame:
        """Return a row for each example."""
        import pandas as pd

        return pd.DataFrame(self.columns)


def diff(config: RunConfig) -> None:
    """Print how two runs differ, and write all examples to `output`.

    Raises:
        UserError: the runs have other tasks, data or examples.
    """
    found = compare_predictions(*(config.runs or ()))
    _print(found)
    sys.stdout.flush()  # before the messages on stderr
    if config.output is None:
        log(f"next: output=FILE.csv writes all {len(found.columns['id']):,} examples with both predictions")
        return
    from datasets import Dataset

    from peftkit.results.tables import write_table

    write_table(Dataset.from_dict(found.columns), Path(config.output))
    log(f"-> {config.output}: {len(found.columns['id']):,} examples")


def compare_predictions(first: str | Path, second: str | Path) -> RunDiff:
    """Compare two finished runs on the validation examples, which are matched by split and id.

    Raises:
        UserError: the runs have other tasks, data or examples.
    """
    runs = RunResult.finished(first), RunResult.finished(second)
    _check_tasks(*runs)
    one, other = (_read_columns(run) for run in runs)
    other = _matched(one, other, runs)
    names, tasks = runs[0].record["audit"].get("label_names"), runs[0].record["run"]["config"]["task"]
    has_label = np.array([label is not None for label in one["label"]])
    right = [_right(each, names) for each in (one, other)]
    flips = []
    if tasks["kind"] != "regression" and right[0] is not None and right[1] is not None and has_label.any():
        labels = [label for label in one["label"] if label is not None]
        classes = {
            name: np.array([label == number for label in labels])
            for number, name in enumerate(names or ())
            if isinstance(labels[0], int)
        }
        flips = count_flips(right[0][has_label], right[1][has_label], classes)
        numbers = 2 * (1 - right[0].astype(int)) + (1 - right[1].astype(int))
        outcomes = [OUTCOMES[n] if known else None for n, known in zip(numbers, has_label, strict=True)]
    else:
        outcomes = [
            "same" if a == b else "different" for a, b in zip(one["prediction"], other["prediction"], strict=True)
        ]
    texts = {name: values for name, values in one.items() if name not in PREDICTION_COLUMNS}
    columns = {
        "id": one["id"],
        "split": one["split"],
        **{f"{name}{SUFFIX}" if name in ADDED else name: values for name, values in texts.items()},
        "label": _named(one, names, "label"),
        "prediction_a": _named(one, names, "prediction"),
        "prediction_b": _named(other, names, "prediction"),
        "outcome": outcomes,
    }
    return RunDiff(*runs, columns, flips, _difference(runs, names))


def _check_tasks(first: RunResult, second: RunResult) -> None:
    """Check that two runs answer the same question.

    Raises:
        UserError: their tasks or labels differ, or one is a trial.
    """
    for run in (first, second):
        if run.record["run"]["config"].get("trial"):
            raise UserError(f"{run.folder} is a trial, scored on training examples; name a run")
    names = [f"{each.record['run']['config']['task']['name']}" for each in (first, second)]
    kinds = [each.record["run"]["config"]["task"].get("kind") for each in (first, second)]
    if names[0] != names[1] or kinds[0] != kinds[1]:
        raise UserError(
            f"runs=: {first.folder} is a run of {names[0]}, {second.folder} of {names[1]}; name two runs of one task"
        )
    labels = [each.record["audit"].get("label_names") for each in (first, second)]
    if labels[0] != labels[1]:
        raise UserError(f"runs=: {first.folder} has the labels {labels[0]}, {second.folder} {labels[1]}; {AGAIN}")


def _read_columns(run: RunResult) -> dict[str, list]:
    """Return the columns of a run's predictions, as values of Python.

    Raises:
        UserError: there are none, or they cannot be read.
    """
    file = run.folder / "predictions.parquet"
    if not is_file(file):
        raise UserError(f"{run.folder} contains no predictions.parquet; train the run again with force=true")
    try:
        columns = dict(read_parquet(file).to_pydict())
        if missing := [name for name in ("id", "split", "label", "prediction") if name not in columns]:
            raise ValueError(f"no column {missing[0]}")
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read: {error}; train the run again with force=true") from error
    return columns


def _matched(one: dict[str, list], other: dict[str, list], runs: Sequence[RunResult]) -> dict[str, list]:
    """Return the columns of the second run in the order of the first.

    Raises:
        UserError: the examples, their labels or their texts differ, or the data differ and no texts are recorded.
    """
    order = {key: number for number, key in enumerate(_keys(other))}
    keys = _keys(one)
    if {*keys} != order.keys():
        counts = f"{len(keys):,} and {len(order):,}, {len(order.keys() & {*keys}):,} of them the same"
        raise UserError(
            f"runs=: they were scored on other validation examples ({counts}); {AGAIN}, with the same "
            "task.dataset, task.splits and task.max_eval_samples"
        )
    other = {name: [values[order[key]] for key in keys] for name, values in other.items()}
    texts = [name for name in one if name not in PREDICTION_COLUMNS and name in other]
    for name in ("label", *texts):
        different = next(
            (n for n, pair in enumerate(zip(one[name], other[name], strict=True)) if pair[0] != pair[1]), None
        )
        if different is not None:
            raise UserError(f"runs=: the {name} of example {one['id'][different]} differs between them; {AGAIN}")
    revisions = [run.record["audit"]["sources"]["data"].get("revision") for run in runs]
    if revisions[0] != revisions[1]:
        if not texts:
            raise UserError(f"runs=: their data differ (revisions {revisions[0]} and {revisions[1]}); {AGAIN}")
        log("the runs were trained on other data; their validation examples are the same")
    return other


def _keys(columns: dict[str, list]) -> list[tuple]:
    """Return what identifies each example: split, id, and its number among those with the same."""
    seen: Counter[tuple] = Counter()
    keys = []
    for pair in zip(columns["split"], map(str, columns["id"]), strict=True):
        keys.append((*pair, seen[pair]))
        seen[pair] += 1
    return keys


def _right(columns: dict[str, list], names: list[str] | None) -> np.ndarray | None:
    """Return (examples,) whether each prediction equals its label, or one of its references; None of numbers."""
    prediction = columns["prediction"][0]
    if isinstance(prediction, float) or (isinstance(prediction, int) and names is None):
        return None
    return np.array([_equals(*pair) for pair in zip(columns["label"], columns["prediction"], strict=True)])


def _equals(label: Any, prediction: Any) -> bool:
    if isinstance(prediction, str):
        references = label if isinstance(label, list) else [label]
        return prediction.strip() in [str(each).strip() for each in references]
    return bool(label == prediction)


def _named(columns: dict[str, list], names: list[str] | None, column: str) -> list:
    """Return a column with the names of classes, where they are known, for their ids."""
    if f"{column}_name" in columns:
        return columns[f"{column}_name"]
    known = dict(enumerate(names or ()))
    return [known.get(value, value) if isinstance(value, int) else value for value in columns[column]]


def _difference(runs: Sequence[RunResult], names: list[str] | None) -> ScoreDifference | None:
    read = read_run_predictions([run.folder for run in runs])
    if read[0] is None or read[1] is None or (second := in_order(read[1], read[0])) is None:
        return None
    scores = [run.record["scores"] for run in runs]
    return score_difference(scores, (read[0], second), len(names) if names else None)


def _print(found: RunDiff) -> None:
    """Print the runs, the counts with their tests, the difference of the scores, and a few examples."""
    for label, run in (("A", found.first), ("B", found.second)):
        scores = ", ".join(f"{name} {value:.3f}" for name, value in run.scores.items())
        print(plain(f"{label}  {run.folder}"), plain(f"   {scores}"), sep="\n")
    print()
    if found.flips:
        _print_flips(found.flips)
    else:
        counts = Counter(found.columns["outcome"])
        print(f"{counts['different']:,} of {len(found.columns['id']):,} predictions differ")
    print(_difference_text(found.difference))
    print(ONE_SEED)
    _print_examples(found)


def _print_flips(flips: Sequence[Flips]) -> None:
    width = min(max(len(each.name) for each in flips), MAX_CLASS)
    columns = ("examples", "both right", "only A", "only B", "both wrong", "p")
    print(f"{'':{width}}  {'  '.join(columns[:-1])}       p")
    for each in (*flips[1:], flips[0]):
        counts = (each.examples, each.both, each.only_first, each.only_second, each.neither)
        cells = [f"{count:>{len(name)},}" for count, name in zip(counts, columns[:-1], strict=True)]
        name = each.name if len(each.name) <= width else f"{each.name[: width - 3]}..."
        print(plain(f"{name:<{width}}  {'  '.join(cells)}  {_p_text(each.p):>6}"))
    several = f", with Holm's correction for the {len(flips) - 1} classes" if len(flips) > 2 else ""
    print(f"p: exact McNemar test of only A against only B{several}")
    print()


def _p_text(p: float) -> str:
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def _difference_text(found: ScoreDifference | None) -> str:
    if found is None:
        return "The scores cannot be resampled, so their difference is not tested."
    low, high = found.interval
    names = " and ".join([", ".join(found.metrics[:-1]), found.metrics[-1]] if found.metrics[1:] else found.metrics)
    score = f"mean of {names}" if found.metrics[1:] else names
    p = f"p = {_p_text(found.p)}".replace("= <", "< ")
    return f"{score}: A - B = {found.difference:+.4f}\n95 % interval {low:+.4f} to {high:+.4f}, {p} ({found.test})"


def _print_examples(found: RunDiff) -> None:
    """Print the first examples that only one run has right, one line each on a terminal."""
    columns = found.columns
    texts = [name for name in columns if name not in ("id", "split", *ADDED)]
    limit = shutil.get_terminal_size().columns if sys.stdout.isatty() else DEFAULT_WIDTH
    for outcome in OUTCOMES[1:3] if found.flips else ("different",):
        numbers = [n for n, each in enumerate(columns["outcome"]) if each == outcome]
        if not numbers:
            continue
        print(f"\n{outcome}: {len(numbers):,}" + (f", the first {SHOWN}" if len(numbers) > SHOWN else ""))
        for n in numbers[:SHOWN]:
            answers = f"A {columns['prediction_a'][n]}, B {columns['prediction_b'][n]}"
            text = " | ".join(str(columns[name][n]) for name in texts)
            line = plain(f"  {columns['id'][n]}  label {columns['label'][n]}, {answers}  {text}".rstrip())
            print(line if len(line) <= limit else f"{line[: limit - 3]}...")
