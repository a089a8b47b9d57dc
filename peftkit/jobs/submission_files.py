"""Turn what a run says of a test set into the file that the GLUE benchmark's site reads."""

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
class Sheet:
    """One file of the zip: a header, then an index and an answer for each row of a test split.

    Names, label words and the range of numbers are those of gluebenchmark.com/faq and of its sample submission;
    `rows` is the size of the benchmark's own test set. `words` says what is written for each label, None a number.
    """

    name: str
    task: str  # whose test split it answers
    split: str
    rows: int
    words: Mapping[str, str] | None
    trained_on: str


def _spelt(*labels: str) -> dict[str, str]:
    return {label: label for label in labels}


def _numbered(*labels: str) -> dict[str, str]:
    return {label: str(number) for number, label in enumerate(labels)}


NLI = _spelt("entailment", "neutral", "contradiction")
TWO_WAY = _spelt("entailment", "not_entailment")
SHEETS = (
    Sheet("AX", "ax", "test", 1104, NLI, "mnli"),
    Sheet("CoLA", "cola", "test", 1063, _numbered("unacceptable", "acceptable"), "cola"),
    Sheet("MNLI-m", "mnli", "test_matched", 9796, NLI, "mnli"),
    Sheet("MNLI-mm", "mnli", "test_mismatched", 9847, NLI, "mnli"),
    Sheet("MRPC", "mrpc", "test", 1725, _numbered("not_equivalent", "equivalent"), "mrpc"),
    Sheet("QNLI", "qnli", "test", 5463, TWO_WAY, "qnli"),
    Sheet("QQP", "qqp", "test", 390965, _numbered("not_duplicate", "duplicate"), "qqp"),
    Sheet("RTE", "rte", "test", 3000, TWO_WAY, "rte"),
    Sheet("SST-2", "sst2", "test", 1821, _numbered("negative", "positive"), "sst2"),
    Sheet("STS-B", "stsb", "test", 1379, None, "stsb"),
    Sheet("WNLI", "wnli", "test", 146, _numbered("not_entailment", "entailment"), "wnli"),
)  # fmt: skip
MOST = 5.0  # of STS-B, whose least is 0; the site refuses a number beyond


def text_of(sheet: Sheet, result: BoardRun, rows: TaskDataset, predictions: Path) -> str:
    """Return one file of the zip, rows in the order of the benchmark's own index.

    Raises:
        UserError: the run tells other labels apart than the task's, or rows are not numbered from 0 up.
    """
    import pyarrow.parquet as pq

    names, words = result.audit["label_names"], sheet.words
    if words is not None and set(names or ()) != set(words):
        raise UserError(
            f"{result.folder} tells {', '.join(names or ['numbers'])} apart, the benchmark {', '.join(words)}; "
            f"train task={result.task} with its own task.labels"
        )
    table = pq.read_table(predictions, columns=["id", "split", "prediction"]).to_pylist()
    said = {row["id"]: row["prediction"] for row in table if row["split"] == sheet.split}
    size = _size(rows, sheet.split)
    if len(said) + rows.dropped[sheet.split] != size or not set(said) <= set(range(size)):
        raise UserError(
            f"the rows of {rows.source.name}, {sheet.split}, are not numbered 0 to {size - 1} in their column idx, by "
            "which the benchmark knows them; number them so"
        )
    lines = [_word(sheet, said[n], names) if n in said else _usual(sheet, result) for n in range(size)]
    if len(said) < size:
        log(f"!! {sheet.name}: {size - len(said)} rows have no text; they are given the answer most common in training")
    return "index\tprediction\n" + "".join(f"{number}\t{line}\n" for number, line in enumerate(lines))


def _size(rows: TaskDataset, split: str) -> int:
    return len(rows.splits[split]) + rows.dropped[split]


def _word(sheet: Sheet, prediction: Any, names: Sequence[str]) -> str:
    """Return an answer as the site reads it."""
    if sheet.words is not None:
        return sheet.words[names[int(prediction)]]
    if not math.isfinite(prediction):
        raise UserError(
            f"the run of {sheet.task} answers {prediction}; train it again with a lower train.learning_rate"
        )
    return f"{min(max(prediction, 0.0), MOST):.3f}"


def _usual(sheet: Sheet, result: BoardRun) -> str:
    """Return what a row without text is given: the label most common in training, or the mean."""
    counts = result.audit["label_counts"]["train"]
    if sheet.words is None:
        return _word(sheet, counts["mean"], [])
    return sheet.words[max(result.audit["label_names"], key=lambda name: counts[name])]


def doubt_of(sheet: Sheet, rows: TaskDataset) -> str | None:
    """Return why the site would not take a file, or its score would mean nothing."""
    size = _size(rows, sheet.split)
    if rows.source.kind == "offline":
        return f"{rows.source.name} stands in for the benchmark's test set"
    return None if size == sheet.rows else f"there are {size} rows, and {sheet.rows} in the benchmark's test set"
