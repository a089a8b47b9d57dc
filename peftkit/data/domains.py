"""The domains of examples: read from a column, left out of training, adapted to without labels."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset, concatenate_datasets

from peftkit.config import Domains, Refusal, TaskConfig, UserError, refusal, refuse
from peftkit.config.label_names import label_name
from peftkit.config.sections import UNLABELED
from peftkit.config.suggestions import listed, nearest, with_hint
from peftkit.data.cells import is_missing, text_of
from peftkit.data.columns import DOMAIN, ROW, parse_cells_of, require_columns

MAX_DOMAINS = 100
OTHERS_SPLIT = "other_domains"  # the validation examples of the domains that are not scored
TARGET_SEED = 0  # the labeled examples of a target are the same for every seed of a comparison
UNLABELED_SPLIT = "unlabeled_target"  # the training examples of the target that are read without their labels


def domain_column(task: TaskConfig, table: Dataset, split: str, kept: np.ndarray) -> dict[str, list[str]]:
    """Return the column of the domains of a prepared table, of the rows for which `kept` (rows,) is true.

    Raises:
        UserError: there is no such column, or a row has none.
    """
    if task.domain is None:
        return {}
    column = task.domain
    require_columns(task, table, [column])
    feature = table.features[column]
    names = feature.names if isinstance(feature, ClassLabel) else None

    def parse(cell: Any) -> str:
        if is_missing(cell):
            return ""
        return names[cell] if names is not None else label_name(cell if isinstance(cell, float) else text_of(cell))

    found = parse_cells_of(task, table, column, split, parse)
    if missing := [row for row, name in zip(table[ROW][:], found, strict=True) if not name]:
        rows = f"{len(missing):,} of {len(table):,} rows, such as row {missing[0]}"
        wrong = f"{task.dataset}: column {column} of {split} is empty in {rows}"
        raise UserError(Refusal(f"{wrong}; write a domain there, such as unknown, or drop task.domain", "~task.domain"))
    return {DOMAIN: [name for name, is_kept in zip(found, kept, strict=True) if is_kept]}


def divide(
    task: TaskConfig, domains: Domains | None, splits: dict[str, Dataset], is_limited: bool = True
) -> tuple[dict[str, Dataset], dict[str, Dataset]]:
    """Return the splits of a task without the domain that is left out, or adapted to its target; and further ones.

    Further ones are the validation examples of other domains, OTHERS_SPLIT, and UNLABELED_SPLIT.

    Args:
        splits: the training split, if any, and validation splits.
        is_limited: whether `task.max_train_samples` applies here, to a run with a target, before labeled examples of
            the target are added.

    Raises:
        UserError: there is one domain or too many, or the chosen one does not occur.
    """
    if task.domain is None:
        return splits, {}
    names = sorted({name for examples in splits.values() for name in examples.unique(DOMAIN)})
    _check_number(task, names)
    chosen = None if domains is None else domains.scored
    if domains is None or chosen is None:
        return splits, {}
    key = "domains.target" if domains.leave_out is None else "domains.leave_out"
    if chosen not in names:
        wrong = f"{key}={chosen}: column {task.domain} has no such domain"
        raise UserError(with_hint(wrong, nearest(chosen, names, f"{key}=")))
    found: dict[str, Dataset] = {}
    further: dict[str, Dataset] = {}
    others = []
    for split, examples in splits.items():
        is_chosen = np.array(examples[DOMAIN][:]) == chosen
        rest, own = (_rows(examples, np.flatnonzero(each)) for each in (~is_chosen, is_chosen))
        if split == task.splits["train"]:
            refuse((len(rest) == 0, f"{key}={chosen}: {split} has no other domain; add examples of others"))
            if domains.target is not None:
                rest, further = _adapted(domains, _drawn(rest, task.max_train_samples if is_limited else None), own)
            found[split] = rest
            continue
        refuse((len(own) == 0, f"{key}={chosen}: {split} has no example of it; choose one of {listed(names)}"))
        found[split] = own
        others.append(rest)
    if sum(map(len, others)):
        further[OTHERS_SPLIT] = _drawn(concatenate_datasets(others), task.max_eval_samples)
    return found, further


def training_examples(examples: Dataset, splits: Mapping[str, Dataset]) -> Dataset:
    """Return labeled training examples, and after them the unlabeled ones of the target, if any."""
    return concatenate_datasets([examples, splits[UNLABELED_SPLIT]]) if UNLABELED_SPLIT in splits else examples


def domain_ids(examples: Dataset) -> tuple[list[str], list[int]]:
    """Return the names of the domains of examples, sorted, and the number of each example's domain in them."""
    names = sorted(examples.unique(DOMAIN))
    return names, [names.index(name) for name in examples[DOMAIN][:]]


def _check_number(task: TaskConfig, names: Sequence[str]) -> None:
    wrong = f"{task.dataset}: column {task.domain} has "
    fixes = "task.domain=COLUMN", "~task.domain"
    if len(names) == 1:
        raise UserError(refusal(f"{wrong}a single domain, {listed(names)}, of which nothing can be compared", *fixes))
    if len(names) > MAX_DOMAINS:
        raise UserError(refusal(f"{wrong}{len(names):,} domains, and at most {MAX_DOMAINS} are scored", *fixes))


def _adapted(domains: Domains, source: Dataset, target: Dataset) -> tuple[Dataset, dict[str, Dataset]]:
    """Return the training examples with the labeled ones of the target, and its others without labels."""
    key, number, available = f"domains.target={domains.target}", domains.target_labels or 0, len(target)
    refuse(
        (
            available == 0,
            refusal(f"{key} has no training example", f"domains.leave_out={domains.target} ~domains.target"),
        ),
        (
            number > available,
            refusal(
                f"domains.target_labels={number}: {domains.target} has {available:,} training examples",
                f"domains.target_labels={available}",
            ),
        ),
    )
    labeled, rest = (_rows(_drawn(target), range(*ends)) for ends in ((0, number), (number, available)))
    examples = concatenate_datasets([source, labeled])
    if domains.objective not in UNLABELED or not len(rest):
        return examples, {}
    hidden = rest.remove_columns("label").add_column("label", [None] * len(rest))
    return examples, {UNLABELED_SPLIT: hidden.select_columns(rest.column_names).cast(rest.features)}


def _drawn(examples: Dataset, limit: int | None = None) -> Dataset:
    return examples.shuffle(seed=TARGET_SEED).select(range(min(limit or len(examples), len(examples))))


def _rows(examples: Dataset, rows: Any) -> Dataset:
    return examples.select(rows).flatten_indices()
