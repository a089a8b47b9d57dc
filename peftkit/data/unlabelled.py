"""Turn a corpus into rows of text on disk: documents to train on, and passages of the held-out tenth to measure on."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset, Features, Value
from datasets.exceptions import DatasetGenerationError

from peftkit.data.corpus import corpus_files, documents
from peftkit.schema import Task, UserError
from peftkit.source import Source, fingerprint

COLUMN = "task.text"  # what a user names the column of text with
PASSAGE = 3  # bytes a token of task.max_length
FEATURES = Features({"id": Value("string"), "text": Value("string"), "label": Value("null")})
WORD = re.compile(r"\s*\S+")  # with the space before it


def read_corpus(task: Task, data_root: str | None) -> tuple[Dataset, Dataset, Source]:
    """Return the documents to train on, the passages of the held-out ones, and where they are from.

    Both lie on disk in the cache of `datasets`, so that a corpus may be larger than memory.

    Raises:
        UserError: there is no such corpus, a file of it cannot be read, or it has too few documents to hold any out.
    """
    name = str(Path(data_root) / task.name) if data_root else task.dataset
    files = corpus_files(name)
    source = Source("hub", name, _commit(task)) if files is None else Source("folder", name, _revision(files))
    told: dict[str, Any] = {
        "corpus": name, "column": task.text[0], "sample_by": task.sample_by or "line", "revision": source.revision,
    }  # fmt: skip
    train = _on_disk({**told, "held_out": False, "size": 0})
    held_out = _on_disk({**told, "held_out": True, "size": PASSAGE * task.max_length})
    if not len(held_out) or not len(train):
        hint = " (or task.sample_by=line)" if task.sample_by == "document" else ""
        raise UserError(f"{name} has {len(train)} documents, and a tenth is to be held out; add more text{hint}")
    return train, held_out, source


def in_passages(rows: Dataset, size: int) -> Dataset:
    """Cut documents into passages of at most `size` bytes, between words; their ids are the documents' and a number."""
    return text_rows(
        [
            (f"{name}.{number}", part)
            for name, text in zip(rows["id"], rows["text"], strict=True)
            for number, part in enumerate(passages(text, size))
        ]
    )


def text_rows(texts: Sequence[tuple[str, str]]) -> Dataset:
    """Return texts, each with its id, as rows without labels."""
    columns = {"id": [name for name, _ in texts], "text": [text for _, text in texts], "label": [None] * len(texts)}
    return Dataset.from_dict(columns, features=FEATURES)


def passages(text: str, size: int) -> list[str]:
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
        return text_rows([])
    try:
        found = Dataset.from_generator(_rows, features=FEATURES, gen_kwargs=told)
    except DatasetGenerationError as error:
        if isinstance(error.__cause__, UserError):  # of a file further on
            raise error.__cause__ from None
        raise
    assert isinstance(found, Dataset)
    return found


def _rows(corpus: str, column: str, sample_by: str, revision: str, held_out: bool, size: int) -> Iterator[dict]:
    """Yield one part of a corpus; the revision is there to tell a changed corpus from one that was read before."""
    for number, (text, is_held_out) in enumerate(documents(corpus, column, sample_by, COLUMN, revision)):
        if is_held_out != held_out:
            continue
        for place, part in enumerate(passages(text, size) if size else [text]):
            yield {"id": f"{number}.{place}" if size else str(number), "text": part, "label": None}


def _revision(files: list[Path]) -> str:
    return hashlib.sha256("".join(map(fingerprint, files)).encode()).hexdigest()[:12]


def _commit(task: Task) -> str:
    """Return what the revision means today.

    Raises:
        UserError: the Hub does not answer, or has no such dataset.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    try:
        return str(HfApi().dataset_info(task.dataset, revision=task.revision, timeout=10).sha)
    except (OSError, ValueError, HfHubHTTPError, OfflineModeIsEnabled) as error:
        cause = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(
            f"{task.dataset} is no file or folder here, and the Hub gives no such dataset ({cause}); name a file"
        ) from error
