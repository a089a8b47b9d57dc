"""Turn a kind of task into the way in which a family of models is asked and answers."""

from __future__ import annotations

from transformers import PreTrainedTokenizerBase

from peftkit.config import TaskConfig
from peftkit.data.formats.base import Encoded, Format, Predictions
from peftkit.data.formats.classification import SequenceClassificationFormat
from peftkit.data.formats.instructions import InstructionFormat
from peftkit.data.formats.language_modeling import LanguageModelingFormat
from peftkit.data.formats.preferences import REFERENCE_COLUMNS, PreferenceFormat
from peftkit.data.formats.prompted import PromptedFormat
from peftkit.data.formats.question_answering import QuestionAnsweringFormat
from peftkit.data.formats.retrieval import RetrievalFormat
from peftkit.data.formats.text_generation import TextGenerationFormat
from peftkit.data.formats.text_to_text import TextToTextFormat
from peftkit.data.formats.token_classification import TokenClassificationFormat

__all__ = [
    "REFERENCE_COLUMNS", "Predictions", "SequenceClassificationFormat", "Encoded", "Format", "InstructionFormat", "TextToTextFormat", "LanguageModelingFormat", "RetrievalFormat",
    "PreferenceFormat", "PromptedFormat", "QuestionAnsweringFormat", "TokenClassificationFormat", "TextGenerationFormat", "format_of",
]  # fmt: skip


def format_of(task: TaskConfig, family: str, names: list[str] | None, tokenizer: PreTrainedTokenizerBase) -> Format:
    """Return how a task whose classes are `names` is put to a family: encoder, decoder or seq2seq."""
    if task.kind == "language_modeling":
        return LanguageModelingFormat(task, tokenizer, family)
    if task.kind == "token_classification":
        return TokenClassificationFormat(task, names or [], tokenizer)
    if task.kind == "question_answering":
        return QuestionAnsweringFormat(task, tokenizer)
    if task.kind in ("causal_lm", "seq2seq"):
        return TextGenerationFormat(task, tokenizer, is_decoder=family == "decoder")
    if task.kind == "instructions":
        return InstructionFormat(task, tokenizer, is_decoder=family == "decoder")
    if task.kind == "retrieval":
        return RetrievalFormat(task, tokenizer)
    if task.kind == "preferences":
        return PreferenceFormat(task, tokenizer)
    if family == "seq2seq":
        return TextToTextFormat(task, names, tokenizer)
    # GPT-2 has no format for a pair of texts
    return SequenceClassificationFormat(task, names, tokenizer, separator="\n" if family == "decoder" else None)
