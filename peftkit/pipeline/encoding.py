"""The examples of a run, read and tokenized once for all runs of a command that have the same."""

from functools import partial
from typing import Any

from datasets import Dataset

from peftkit.config import RunConfig
from peftkit.config.shared import shared
from peftkit.data.datasets import TaskDataset, load_task_dataset
from peftkit.data.formats import Encoded, Format
from peftkit.data.tables import file_versions, local_path


def read_dataset(config: RunConfig) -> TaskDataset:
    """Return the data of a run; it is read again where a file has changed since an earlier run."""
    task, samples = config.task, config.search.samples if config.trial else 0
    arguments = (task, config.data_root, config.source, None, samples, config.calibration.holdout, config.domains)
    key = (arguments, file_versions(local_path(task, config.data_root)))
    return shared(
        "data", key, partial(load_task_dataset, *arguments), lambda data: sum(map(_bytes, data.splits.values()))
    )


def encode(task_format: Format, examples: Dataset) -> Encoded:
    """Return the model inputs of examples that are scored."""
    return shared("scored", (task_format, examples), partial(task_format.encode, examples), _encoded_bytes)


def encode_training(task_format: Format, examples: Dataset, seed: int) -> Encoded:
    """Return the model inputs of examples to train on.

    Those with positions are not kept: only predictions need these, and they take more memory than the inputs.
    """
    key = (task_format, examples, seed if task_format.training_has_noise else None)
    make = partial(task_format.encode_training, examples, seed)
    return shared("trained", key, make, lambda encoded: None if encoded.positions else _encoded_bytes(encoded))


def _encoded_bytes(encoded: Encoded) -> int:
    return _bytes(encoded.inputs)


def _bytes(table: Any) -> int:
    """Return the bytes of a table in memory; language modeling has its blocks on disk."""
    return int(table.data.nbytes) if isinstance(table, Dataset) else 0
