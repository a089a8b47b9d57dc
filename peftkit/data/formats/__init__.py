"""Turn a kind of task into the way in which a family of models is asked and answers."""

from __future__ import annotations

from transformers import PreTrainedTokenizerBase

from peftkit.data.formats.classes import Classes
from peftkit.data.formats.format import Answers, Encoded, Format
from peftkit.data.formats.instructions import Instructions
from peftkit.data.formats.label_words import LabelWords
from peftkit.data.formats.language import Language
from peftkit.data.formats.pairs import Pairs
from peftkit.data.formats.preferences import REFERENCE, Preferences
from peftkit.data.formats.prompted import Prompted
from peftkit.data.formats.spans import Spans
from peftkit.data.formats.tags import Tags
from peftkit.data.formats.texts import Texts
from peftkit.schema import Task

__all__ = [
    "REFERENCE", "Answers", "Classes", "Encoded", "Format", "Instructions", "LabelWords", "Language", "Pairs",
    "Preferences", "Prompted", "Spans", "Tags", "Texts", "format_of",
]  # fmt: skip


def format_of(task: Task, family: str, names: list[str] | None, tokenizer: PreTrainedTokenizerBase) -> Format:
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
