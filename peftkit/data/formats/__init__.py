"""Turn a kind of task into the way in which a family of models is asked and answers."""

from __future__ import annotations

from transformers import PreTrainedTokenizerBase

from peftkit.config import TaskConfig
from peftkit.data.formats.base import Answers, Encoded, Format
from peftkit.data.formats.classification import Classes
from peftkit.data.formats.instructions import Instructions
from peftkit.data.formats.language_modeling import Language
from peftkit.data.formats.preferences import REFERENCE, Preferences
from peftkit.data.formats.prompted import Prompted
from peftkit.data.formats.question_answering import Spans
from peftkit.data.formats.retrieval import Pairs
from peftkit.data.formats.text_generation import Texts
from peftkit.data.formats.text_to_text import LabelWords
from peftkit.data.formats.token_classification import Tags

__all__ = [
    "REFERENCE", "Answers", "Classes", "Encoded", "Format", "Instructions", "LabelWords", "Language", "Pairs",
    "Preferences", "Prompted", "Spans", "Tags", "Texts", "format_of",
]  # fmt: skip


def format_of(task: TaskConfig, family: str, names: list[str] | None, tokenizer: PreTrainedTokenizerBase) -> Format:
    """Return how a task whose classes are `names` is put to a family: encoder, decoder or seq2seq."""
    if task.kind == "language_modeling":
        return Language(task, tokenizer, family)
    if task.kind == "token_classification":
        return Tags(task, names or [], tokenizer)
    if task.kind == "question_answering":
        return Spans(task, tokenizer)
    if task.kind in ("causal_lm", "seq2seq"):
        return Texts(task, tokenizer, is_decoder=family == "decoder")
    if task.kind == "instructions":
        return Instructions(task, tokenizer, is_decoder=family == "decoder")
    if task.kind == "retrieval":
        return Pairs(task, tokenizer)
    if task.kind == "preferences":
        return Preferences(task, tokenizer)
    if family == "seq2seq":
        return LabelWords(task, names, tokenizer)
    # GPT-2 has no format for a pair of texts
    return Classes(task, names, tokenizer, separator="\n" if family == "decoder" else None)
