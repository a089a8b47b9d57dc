"""Formats: how each kind of task is encoded for each architecture, and how model outputs are decoded."""

from __future__ import annotations

from transformers import PreTrainedTokenizerBase

from peftkit.config import TaskConfig
from peftkit.data.datasets import format_class
from peftkit.data.formats.base import Encoded, Format, Predictions

__all__ = ["Encoded", "Format", "Predictions", "format_of"]


def format_of(
    task: TaskConfig, architecture: str, names: list[str] | None, tokenizer: PreTrainedTokenizerBase
) -> Format:
    """Return the format of a task whose classes are `names` for an encoder, a decoder or a seq2seq model."""
    return format_class(task, architecture)(task, tokenizer, architecture, names)
