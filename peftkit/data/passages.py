"""Corpora on disk: documents to train on, and passages of the held-out tenth to evaluate on."""

import hashlib
import re
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from datasets import Dataset, Features, Value
from datasets.exceptions import DatasetGenerationError

from peftkit.config import TaskConfig, UserError
from peftkit.config.source import Source, fingerprint
from peftkit.data.datasets import SEARCH_SPLIT, ExampleReader, TaskDataset, subset
from peftkit.data.streaming import corpus_files, stream_documents
from peftkit.data.tables import dataset_commit

BYTES_PER_TOKEN = 3  # of a passage, for each token of task.max_length
MAX_PASSAGE_BYTES = 480  # models read 512 tokens
MAX_DOCUMENT_BYTES = 1 << 14  # a longer document is split
VERSION = 1  # of the splitting of documents; a change invalidates the cache of `datasets`
FEATURES = Features({"id": Value("string"), "text": Value("string"), "label": Value("null")})
WORD = re.compile(r"\s*\S+")  # with the space before it


def passage_size(task: TaskConfig) -> int:
    """Return the maximum bytes of a passage, the same for all tokenizers."""
    return min(BYTES_PER_TOKEN * task.max_length, MAX_PASSAGE_BYTES)


class CorpusReader(ExampleReader):
    """Reads a corpus: documents to train on, and passages of the held-out ones."""

    def load(self, data_root: str | None, source: str, trained_on: str | None, search_samples: int) -> TaskDataset:
        """Read the corpus into the cache of `datasets` on disk, so that it may be larger than memory.

        An evaluation on a corpus that the run was not trained on uses all of it (`trained_on` is the revision of the
        training corpus).

        Raises:
            UserError: the corpus does not exist, cannot be read, or has too few documents for a held-out tenth.
        """
        task = self.task
        train, (validation,) = task.splits["train"], task.splits["validation"]
        name = str(Path(data_root) / task.name) if data_root else task.dataset
        if (files := corpus_files(name)) is None:
            origin = Source("hub", name, dataset_commit(task))
        else:
            origin = Source("folder", name, hashlib.sha256("".join(map(fingerprint, files)).encode()).hexdigest()[:12])
        arguments: dict[str, Any] = {
            "corpus": name, "column": task.text[0], "sample_by": task.sample_by or "line", "revision": origin.revision,
            "version": VERSION,
        }  # fmt: skip
        is_other_corpus = train is None and trained_on != origin.revision
        held_out = _cached({**arguments, "held_out": None if is_other_corpus else True, "size": passage_size(task)})
        splits = {validation: subset(held_out, task.max_eval_samples)}
        if is_other_corpus:
            return TaskDataset(splits, None, origin, {validation: 0})
        documents = _cached({**arguments, "held_out": False, "size": MAX_DOCUMENT_BYTES})
        if not len(held_out) or not len(documents):
            hint = " (or task.sample_by=line)" if task.sample_by == "document" else ""
            raise UserError(f"{name} has {len(documents)} documents, too few for a held-out tenth; add more text{hint}")
        if search_samples:
            rest, search_holdout = self.hold_out(documents, search_samples)
            return TaskDataset({str(train): rest, SEARCH_SPLIT: self.evaluation_examples(search_holdout)}, None, origin)
        if train is not None:
            splits[train] = subset(documents, task.max_train_samples)
        return TaskDataset(splits, None, origin, dict.fromkeys(splits, 0))

    def evaluation_examples(self, examples: Dataset) -> Dataset:
        return split_passages(examples, self.task)


def split_passages(documents: Dataset, task: TaskConfig) -> Dataset:
    """Cut documents in order into passages, at most `task.max_eval_samples`."""
    parts = (
        (f"{document['id']}.{number}", part)
        for document in documents
        for number, part in enumerate(cut_passages(document["text"], passage_size(task)))
    )
    return passage_dataset(list(islice(parts, task.max_eval_samples)))


def passage_dataset(texts: Sequence[tuple[str, str]]) -> Dataset:
    """Return (id, text) pairs as examples without labels."""
    return Dataset.from_dict(
        {"id": [name for name, _ in texts], "text": [text for _, text in texts], "label": [None] * len(texts)},
        features=FEATURES,
    )


def cut_passages(text: str, size: int) -> list[str]:
    """Cut a text between words into parts of at most `size` bytes; a longer word is a part of its own."""
    parts, part, used = [], "", 0
    for word in WORD.findall(text):
        length = len(word.encode())
        if part.strip() and used + length > size:
            parts.append(part)
            part, used = "", 0
        part, used = part + word, used + length
    return [*parts, part] if part.strip() else parts


def _cached(arguments: dict[str, Any]) -> Dataset:
    """Return the passages that `_passages` yields, from the cache of `datasets` where it has them."""
    if next(_passages(**arguments), None) is None:  # from_generator raises where there is nothing
        return passage_dataset([])
    try:
        return Dataset.from_generator(_passages, features=FEATURES, gen_kwargs=arguments)  # type: ignore[return-value]
    except DatasetGenerationError as error:
        cause = error.__cause__
        raise (cause if isinstance(cause, UserError) else error) from None  # a later file cannot be read


def _passages(
    corpus: str, column: str, sample_by: str, revision: str, version: int, held_out: bool | None, size: int
) -> Iterator[dict]:
    """Yield one part of a corpus, or all of it, in passages of at most `size` bytes.

    `revision` and `version` are part of the fingerprint in the cache of `datasets`.
    """
    for number, (text, is_held_out) in enumerate(stream_documents(corpus, column, sample_by, "task.text", revision)):
        if held_out is None or is_held_out == held_out:
            for index, part in enumerate(cut_passages(text, size)):
                yield {"id": f"{number}.{index}", "text": part, "label": None}
