"""Loading of a task's labeled examples by the reader of its kind, with counts of dropped examples."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import Any, ClassVar

from datasets import Dataset, Features, Value

from peftkit.config import Domains, TaskConfig, UserError, kind_of, label_columns, refusal
from peftkit.config.checks.columns import has_only_training_split, missing_split
from peftkit.config.console import assume, log_assumptions
from peftkit.config.progress import stage
from peftkit.config.source import Source
from peftkit.data import arrow_columns as arrow
from peftkit.data.arrow_columns import Cells
from peftkit.data.cells import text_of
from peftkit.data.class_weights import given_weights
from peftkit.data.columns import ID, parse_cells_of, prepare_table, require_columns, text_columns
from peftkit.data.domains import divide, domain_column
from peftkit.data.folds import fold_of
from peftkit.data.sanity import check_examples, check_texts
from peftkit.data.tables import read_tables

SEARCH_SPLIT = "search_holdout"  # the training examples that trials of a search are scored on
CALIBRATION_SPLIT = "calibration_holdout"  # the training examples that a temperature is fitted on
FOLD_SPLIT = "out_of_fold"  # the training examples of the fold that is scored
SUBSET_SEED = 0  # the examples of max_train_samples are the same for every seed of a comparison
VALIDATION_SHARE = 0.1  # share of train that becomes validation where the user's data has no other split


@dataclass(frozen=True)
class TaskDataset:
    """The examples of a task: `splits` hold the columns id, those of `text_columns(task)`, and label.

    A label is an index into `label_names` (classification), a list of them (one for each word of the text,
    which then is a list of words), a float (regression), {text, answer_start} (question answering) or a text; it is
    None where it is hidden; every training example has one. `dropped` counts each split's examples without text, and
    the training split's without label; `remarks` are logged with the next message. `is_split` where the validation
    split is a part of the training split, as the data has no other.
    """

    splits: dict[str, Dataset]
    label_names: list[str] | None
    source: Source
    dropped: dict[str, int] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    is_split: bool = False


@stage("reading the data")
def load_task_dataset(
    task: TaskConfig,
    data_root: str | None,
    source: str,
    trained_on: str | None = None,
    search_samples: int = 0,
    calibration: float | None = None,
    domains: Domains | None = None,
) -> TaskDataset:
    """Read the splits that the task names; drop and count examples without text or label; map labels to ids.

    A tenth of train becomes the validation split where the user's data has no other split; an evaluation of a run that
    was trained on other data (`trained_on` is its revision) uses all of train. With `search_samples`, that many
    training examples become SEARCH_SPLIT, the others are trained on, and no validation split is read. A share
    `calibration` of the training examples becomes CALIBRATION_SPLIT first; a trial neither trains nor is scored on it.
    With `domains`, a domain is left out of the training split, or labels of it are hidden, and it alone is scored.
    With `task.folds`, the validation split of the data is not read, and a fold of train becomes FOLD_SPLIT.

    Raises:
        UserError: a file cannot be read, a column or a split is missing, or a label is unknown.
    """
    reader = replace(example_reader(task), calibration=calibration, domains=domains)
    data = reader.load(data_root, source, trained_on, search_samples)
    log_assumptions(waiting=False)
    for remark in data.remarks:
        assume(remark)
    return data


def example_reader(task: TaskConfig) -> ExampleReader:
    """Return the reader of a task's examples, which is the same for every architecture."""
    return format_class(task, next(iter(kind_of(task).formats))).reader(task)  # type: ignore[no-any-return]


def format_class(task: TaskConfig, architecture: str) -> Any:
    """Return the `Format` class that the record of the task's kind names for an architecture."""
    module, name = kind_of(task).formats[architecture].split(":")
    return getattr(import_module(f"peftkit.data.formats.{module}"), name)


@dataclass(frozen=True)
class ExampleReader:
    """How the examples of a kind of task are read; this class itself reads texts with a text as label.

    A format class names its reader. Subclasses override what differs: labels, texts, and how examples are split.
    """

    task: TaskConfig
    calibration: float | None = None  # share of the training examples that becomes CALIBRATION_SPLIT
    domains: Domains | None = None
    complete: ClassVar[str] = "both text and label; check task.text and task.label"  # what every example needs

    @property
    def label_feature(self) -> Any:
        """The type of the labels in `datasets`, also where all are hidden."""
        return Value("string")

    def feature_of(self, labels: Sequence[Any]) -> Any:
        """Return the type of these labels."""
        return self.label_feature

    def label_names(self, tables: Mapping[str, Dataset]) -> list[str] | None:
        """Return the names of the classes; None where the kind has none."""
        return None

    def raw_labels(self, table: Dataset, split: str) -> list[Any]:
        """Return the labels of the table, None where a label is missing or hidden."""
        return self.parse_labels(table, split, lambda label: text_of(label) or None)

    def label_parser(self, table: Dataset, names: list[str] | None, split: str) -> Callable[[Any], Any]:
        """Return a function from a raw label to the label.

        Raises (when called):
            UserError: the label is unknown, or not a number.
        """
        return lambda label: label

    def final_labels(
        self, labels: Sequence[Any], texts: Sequence[Cells], parse: Callable[[Any], Any], split: str
    ) -> list[Any]:
        """Return the labels of examples from the raw ones; a subclass checks that each fits its texts."""
        return [None if label is None else parse(label) for label in labels]

    def parse_text(self, cell: Any) -> Any:
        """Return the text of a cell; empty where it is missing.

        Raises:
            CellError: the cell has a type that is not read.
        """
        return text_of(cell)

    def combine_texts(self, texts: Sequence[Cells], split: str) -> Sequence[Cells]:
        """Return the columns of the texts; an empty text drops its example."""
        return texts

    def parse_column(self, table: Dataset, column: str, split: str) -> Cells:
        """Return the texts of a column."""
        texts = arrow.texts_of(table, column) if type(self).parse_text is ExampleReader.parse_text else None
        return parse_cells_of(self.task, table, column, split, self.parse_text) if texts is None else texts

    def parse_labels(self, table: Dataset, split: str, parse: Callable[[Any], Any]) -> list[Any]:
        """Return the parsed labels of a table, None for each example where it has no label column."""
        label = str(self.task.label)
        if label not in table.column_names:
            return [None] * len(table)
        return parse_cells_of(self.task, table, label, split, parse)

    def read(self, table: Dataset, names: list[str] | None, split: str) -> tuple[Dataset, int]:
        """Return the examples with text (and label, in the training split), and the number of dropped ones."""
        columns, task = text_columns(self.task), self.task
        is_train = split == task.splits["train"] and task.label is not None
        require_columns(task, table, columns + (label_columns(task) if is_train else []))
        parse = self.label_parser(table, names, split)
        labels = self.raw_labels(table, split)
        texts = self.combine_texts([self.parse_column(table, column, split) for column in columns], split)
        kept = arrow.is_complete(texts, labels if is_train else None)
        ids = arrow.inferred(arrow.select(arrow.arrow_column(table, ID), kept))
        *texts, labels = (arrow.select(column, kept) for column in (*texts, labels))
        if is_train:
            check_texts(task, texts, labels)
        labels = self.final_labels(labels, texts, parse, split)
        if not labels:
            raise UserError(f"no example of task={task.name} has {self.complete}")
        cells = {"id": ids, **dict(zip(columns, texts, strict=True)), "label": labels}
        examples = Dataset.from_dict(cells | domain_column(task, table, split, kept))
        features = Features({**examples.features, "label": self.feature_of(labels)})
        return examples if features == examples.features else examples.cast(features), len(table) - len(labels)

    @property
    def is_stratified(self) -> bool:
        """Whether `split` keeps the shares of the labels."""
        return False

    def split(self, examples: Dataset, size: float, use: str = "validation") -> tuple[Dataset, Dataset]:
        """Split off a number or a share of examples for a use, which is logged; the same for every seed."""
        parts = examples.train_test_split(test_size=size, seed=SUBSET_SEED)
        return parts["train"], parts["test"]

    def search_split(self, examples: Dataset, number: int, limit: int) -> tuple[Dataset, Dataset]:
        """Return at most `limit` examples to train on, and `number` others; the former equal those of `subset`."""
        shuffled = examples.shuffle(seed=SUBSET_SEED)
        held_out = shuffled.select(range(limit, limit + number))
        return shuffled.select(range(limit)).flatten_indices(), held_out.flatten_indices()

    def evaluation_examples(self, examples: Dataset) -> Dataset:
        """Return training examples in the form that is evaluated."""
        return examples

    def load(self, data_root: str | None, source: str, trained_on: str | None, search_samples: int) -> TaskDataset:
        """Read the splits of the task; the arguments are those of `load_task_dataset`."""
        task = self.task
        tables, origin = read_tables(task, data_root, source)
        train, validation = task.splits["train"], list(task.splits["validation"])
        # an evaluation needs the class names in the training split, but not its examples
        names_from = train or "train"
        wanted = [name for name in (train, *validation) if name]
        tables = {
            name: prepare_table(task, table, f"{origin.name}, {name}") if name in (names_from, *wanted) else table
            for name, table in tables.items()
        }
        if message := missing_split(task, list(tables), origin.name):
            raise UserError(message)
        has_only_train = has_only_training_split(task, list(tables))
        names = self.label_names({name: tables[name] for name in (names_from, *validation) if name in tables})
        given_weights(task, names or [])
        if task.folds is not None and train is not None:
            return self.read_folds(tables[train], names, origin, search_samples)
        if has_only_train and (train is not None or origin.revision == trained_on):
            splits, dropped = self.read_single_table(tables[names_from], names, wanted)
        else:
            tables = {"validation": tables[names_from]} if has_only_train else tables
            read = {name: tables[name] for name in wanted[: 1 if search_samples else None]}
            splits, dropped = self.read_all(read, names)
        limits = {name: task.max_train_samples if name == train else task.max_eval_samples for name in wanted}
        splits, others = divide(task, self.domains, splits, is_limited=not search_samples)
        if self.domains is not None and self.domains.target is not None and train is not None:
            limits[train] = None  # `divide` has applied it
        if search_samples:
            rest, held_out = self.hold_out(splits[str(train)], search_samples)
            found = {str(train): rest, SEARCH_SPLIT: held_out, **others}
            return TaskDataset(found, names, origin, dropped, is_split=has_only_train)
        remarks = [] if train is None else check_examples(task, splits, names, may_overlap=has_only_train)
        limited = {name: subset(splits[name], limit) for name, limit in limits.items()} | others
        if self.calibration is not None and train is not None:
            limited[train], limited[CALIBRATION_SPLIT] = self.split(limited[train], self.calibration, "calibration")
        return TaskDataset(limited, names, origin, dropped, tuple(remarks), has_only_train and train is not None)

    def read_all(
        self, tables: Mapping[str, Dataset], names: list[str] | None
    ) -> tuple[dict[str, Dataset], dict[str, int]]:
        """Return the examples of each table, and how many were dropped."""
        read = {name: self.read(table, names, name) for name, table in tables.items()}
        return {name: each for name, (each, _) in read.items()}, {name: dropped for name, (_, dropped) in read.items()}

    def read_single_table(
        self, table: Dataset, names: list[str] | None, wanted: Sequence[str]
    ) -> tuple[dict[str, Dataset], dict[str, int]]:
        """Return the splits of a table without a validation split, a tenth of which becomes one."""
        if len(table) < 2:
            raise UserError(f"{self.task.dataset}: one example cannot be both train and validation; add examples")
        *train, validation = wanted
        rest, held_out = self.split(table, VALIDATION_SHARE)
        return self.read_all({**dict.fromkeys(train, rest), validation: held_out}, names)

    def read_folds(self, table: Dataset, names: list[str] | None, origin: Source, search_samples: int) -> TaskDataset:
        """Return the examples of a fold as FOLD_SPLIT and the others as the training split; without `task.fold` all."""
        task, train = self.task, str(self.task.splits["train"])
        examples, dropped = self.read(table, names, train)
        examples, counts = subset(examples, task.max_train_samples), {train: dropped}
        remarks = tuple(check_examples(task, {train: examples}, names, may_overlap=True))
        is_stratified = self.is_stratified and kind_of(task).sequence_label
        if task.fold is None:
            how = "stratified by label" if is_stratified else "drawn at random (KFold), not stratified"
            assume(f"the {task.folds} folds of {len(examples):,} examples are {how}")
            return TaskDataset({train: examples}, names, origin, counts, remarks)
        labels = examples["label"][:] if is_stratified else None
        scored = fold_of(len(examples), labels, int(task.folds or 0), task.fold, SUBSET_SEED)
        others = sorted({*range(len(examples))} - {*scored})
        rest, held_out = (examples.select(rows).flatten_indices() for rows in (others, scored))
        if search_samples:
            rest, held_out = self.hold_out(rest, search_samples)
        found = {train: rest, SEARCH_SPLIT if search_samples else FOLD_SPLIT: held_out}
        return TaskDataset(found, names, origin, counts)

    def hold_out(self, examples: Dataset, number: int) -> tuple[Dataset, Dataset]:
        """Return the training examples of a trial of a search, and `number` others to score it on.

        Neither has any of those that the run holds out for its calibration.
        """
        limit = self.task.max_train_samples
        if self.calibration is not None:
            whole = subset(examples, limit)
            held = {*self.split(whole, self.calibration, "calibration")[1]["id"]}
            limit = None if limit is None else len(whole) - len(held)
            examples = examples.select([row for row, each in enumerate(examples["id"]) if each not in held])
        remaining = len(examples) - number
        if remaining < number / 4:
            wrong = f"search.samples={number} of {len(examples)} training examples leaves too few to train on"
            raise UserError(refusal(wrong, f"search.samples={len(examples) // 4}", verb="set"))
        return self.search_split(examples, number, min(limit or remaining, remaining))


def subset(examples: Dataset, limit: int | None) -> Dataset:
    """Return `limit` examples, the same for every seed."""
    if limit is None or limit >= len(examples):
        return examples
    return examples.shuffle(seed=SUBSET_SEED).select(range(limit)).flatten_indices()
