"""The files of a GLUE submission, in the format of the benchmark's site."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftkit.config import UserError
from peftkit.leaderboard.runs import BoardRun
from peftkit.results.console import log

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


def _by_name(*labels: str) -> dict[str, str]:
    return {label: label for label in labels}


def _by_number(*labels: str) -> dict[str, str]:
    return {label: str(number) for number, label in enumerate(labels)}


NLI = _by_name("entailment", "neutral", "contradiction")
TWO_WAY = _by_name("entailment", "not_entailment")
FILES = (
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
STSB_MAX = 5.0  # from 0; the site refuses numbers out of range


def prediction_file(file: SubmissionFile, run: BoardRun, data: TaskDataset, predictions: Path) -> str:
    """Return the text of one file of the zip, in the order of the benchmark's own index.

    Raises:
        UserError: the run has other labels than the task, or the examples are not numbered from 0 up.
    """
    import pyarrow.parquet as pq

    names = run.audit["label_names"]
    if file.labels is not None and set(names or ()) != set(file.labels):
        raise UserError(
            f"{run.folder}: has labels {', '.join(names or ['numbers'])}, the benchmark has {', '.join(file.labels)}; "
            f"train task={run.task} with the task's own labels"
        )
    table = pq.read_table(predictions, columns=["id", "split", "prediction"]).to_pylist()
    predicted = {entry["id"]: entry["prediction"] for entry in table if entry["split"] == file.split}
    size = _size(data, file.split)
    if len(predicted) + data.dropped[file.split] != size or not set(predicted) <= set(range(size)):
        raise UserError(
            f"{data.source.name}, {file.split}: column idx does not number the examples from 0 to {size - 1}, as the "
            "benchmark does; number them so"
        )
    lines = [_entry(file, predicted[n], names) if n in predicted else _most_common(file, run) for n in range(size)]
    if len(predicted) < size:
        log(f"!! {file.name}: {size - len(predicted)} examples without text get the most common label of training")
    return "index\tprediction\n" + "".join(f"{number}\t{line}\n" for number, line in enumerate(lines))


def invalid_reason(file: SubmissionFile, data: TaskDataset) -> str | None:
    """Return why the site would refuse a file, or why its score would be meaningless; None if the file is valid."""
    size = _size(data, file.split)
    if data.source.kind == "offline":
        return f"{data.source.name} replaces the benchmark's test set"
    return None if size == file.size else f"there are {size} examples, and {file.size} in the benchmark's test set"


def _size(data: TaskDataset, split: str) -> int:
    return len(data.splits[split]) + data.dropped[split]


def _entry(file: SubmissionFile, prediction: Any, names: Sequence[str]) -> str:
    """Return a prediction in the format of the site."""
    if file.labels is not None:
        return file.labels[names[int(prediction)]]
    if not math.isfinite(prediction):
        raise UserError(f"the run of {file.task} predicts {prediction}; train it with a lower train.learning_rate")
    return f"{min(max(prediction, 0.0), STSB_MAX):.3f}"


def _most_common(file: SubmissionFile, run: BoardRun) -> str:
    """Return the prediction for an example without text: the most common label of training, or the mean."""
    counts = run.audit["label_counts"]["train"]
    if file.labels is None:
        return _entry(file, counts["mean"], [])
    return file.labels[max(run.audit["label_names"], key=lambda name: counts[name])]
