"""Corpora on disk: documents to train on, and passages of the held-out tenth to evaluate on."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from datasets import Dataset, Features, Value
from datasets.exceptions import DatasetGenerationError

from peftkit.config import TaskConfig, UserError, error_summary
from peftkit.config.source import Source, fingerprint
from peftkit.data.corpus import corpus_files, stream_documents
from peftkit.data.examples import SEARCH_SPLIT, ExampleReader, TaskDataset, subset

COLUMN = "task.text"  # what a user names the column of text with
PASSAGE, LONGEST = 3, 480  # bytes of a passage: a token of task.max_length, at most; models read 512 tokens
DOCUMENT = 1 << 14  # bytes; a longer document is several
HOW = 1  # to be raised where documents are cut otherwise: what `datasets` keeps is not asked for again
FEATURES = Features({"id": Value("string"), "text": Value("string"), "label": Value("null")})
WORD = re.compile(r"\s*\S+")  # with the space before it


def passage_size(task: TaskConfig) -> int:
    """Return the bytes of a passage at most, which all tokenizers are asked about alike."""
    return min(PASSAGE * task.max_length, LONGEST)


class CorpusReader(ExampleReader):
    """Reads a corpus: documents to train on, and passages of those that are held out."""

    def load(self, data_root: str | None, source: str, trained_on: str | None, search_samples: int) -> TaskDataset:
        task = self.task
        documents, held_out, origin = read_corpus(task, data_root, trained_on)
        train, (validation,) = str(task.splits["train"]), task.splits["validation"]
        if search_samples:
            rest, apart = self.set_apart(documents, search_samples)
            return TaskDataset({train: rest, SEARCH_SPLIT: self.evaluation_examples(apart)}, None, origin)
        splits = {validation: subset(held_out, task.max_eval_samples)}
        if task.splits["train"] is not None:
            splits[train] = subset(documents, task.max_train_samples)
        return TaskDataset(splits, None, origin, dict.fromkeys(splits, 0))

    def evaluation_examples(self, examples: Dataset) -> Dataset:
        return split_passages(examples, self.task)


def read_corpus(
    task: TaskConfig, data_root: str | None, trained_on: str | None = None
) -> tuple[Dataset, Dataset, Source]:
    """Return the documents to train on, the passages of the held-out ones, and where they are from.

    Nothing of a corpus is held out that no run was trained on: an evaluation takes all of it (`trained_on` is the
    revision of what the run was). Both lie on disk in the cache of `datasets`, so that a corpus may be larger than
    memory.

    Raises:
        UserError: there is no such corpus, a file of it cannot be read, or it has too few documents to hold any out.
    """
    name = str(Path(data_root) / task.name) if data_root else task.dataset
    files = corpus_files(name)
    source = Source("hub", name, _commit(task)) if files is None else Source("folder", name, _revision(files))
    told: dict[str, Any] = {
        "corpus": name, "column": task.text[0], "sample_by": task.sample_by or "line", "revision": source.revision,
        "how": HOW,
    }  # fmt: skip
    if task.splits["train"] is None and trained_on != source.revision:
        return passage_dataset([]), _on_disk({**told, "held_out": None, "size": passage_size(task)}), source
    train = _on_disk({**told, "held_out": False, "size": DOCUMENT})
    held_out = _on_disk({**told, "held_out": True, "size": passage_size(task)})
    if not len(held_out) or not len(train):
        hint = " (or task.sample_by=line)" if task.sample_by == "document" else ""
        raise UserError(f"{name} has {len(train)} documents, and a tenth is to be held out; add more text{hint}")
    return train, held_out, source


def split_passages(rows: Dataset, task: TaskConfig) -> Dataset:
    """Cut documents, in their order, into passages, `task.max_eval_samples` at most."""
    parts = (
        (f"{row['id']}.{number}", part)
        for row in rows
        for number, part in enumerate(cut_passages(row["text"], passage_size(task)))
    )
    return passage_dataset(list(islice(parts, task.max_eval_samples)))


def passage_dataset(texts: Sequence[tuple[str, str]]) -> Dataset:
    """Return texts, each with its id, as rows without labels."""
    columns = {"id": [name for name, _ in texts], "text": [text for _, text in texts], "label": [None] * len(texts)}
    return Dataset.from_dict(columns, features=FEATURES)


def cut_passages(text: str, size: int) -> list[str]:
    """Cut a text between words into parts of at most `size` bytes, or of one word that is longer."""
    found, part, used = [], "", 0
    for word in WORD.findall(text):
        length = len(word.encode())
        if part.strip() and used + length > size:
            found.append(part)
            part, used = "", 0
        part, used = part + word, used + length
    return [*found, part] if part.strip() else found


def _on_disk(told: dict[str, Any]) -> Dataset:
    if next(_rows(**told), None) is None:  # of which from_generator makes an error
        return passage_dataset([])
    try:
        found = Dataset.from_generator(_rows, features=FEATURES, gen_kwargs=told)
    except DatasetGenerationError as error:
        if isinstance(error.__cause__, UserError):  # of a file further on
            raise error.__cause__ from None
        raise
    assert isinstance(found, Dataset)
    return found


def _rows(
    corpus: str, column: str, sample_by: str, revision: str, how: int, held_out: bool | None, size: int
) -> Iterator[dict]:
    """Yield one part of a corpus, or all of it, in parts of at most `size` bytes.

    The revision and `how` are there to tell a changed corpus, or another way of cutting, from what was read before.
    """
    for number, (text, is_held_out) in enumerate(stream_documents(corpus, column, sample_by, COLUMN, revision)):
        if held_out is None or is_held_out == held_out:
            for place, part in enumerate(cut_passages(text, size)):
                yield {"id": f"{number}.{place}", "text": part, "label": None}


def _revision(files: list[Path]) -> str:
    return hashlib.sha256("".join(map(fingerprint, files)).encode()).hexdigest()[:12]


def _commit(task: TaskConfig) -> str:
    """Return what the revision means today.

    Raises:
        UserError: the Hub does not answer, or has no such dataset.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    try:
        return str(HfApi().dataset_info(task.dataset, revision=task.revision, timeout=10).sha)
    except (OSError, ValueError, HfHubHTTPError, OfflineModeIsEnabled) as error:
        raise UserError(
            f"{task.dataset} is no file or folder here, and the Hub gives no such dataset ({error_summary(error)}); "
            "name a file"
        ) from error
