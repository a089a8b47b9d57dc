"""Prompting without training: the prompts of tasks, and classes and numbers by likelihood of their verbalizers."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from datasets import Dataset

from peftkit.config import TaskConfig, UserError, nearest
from peftkit.config.label_names import boolean_hint, label_name
from peftkit.data.columns import text_columns
from peftkit.data.formats.base import Encoded, Format, Predictions, continuations, fill_template, label_mask
from peftkit.data.formats.classification import (
    fill_columns,
    label_array,
    pad_verbalizer,
    similarity_scores,
    text_to_text_template,
)

NLI_VERBALIZER = {"entailment": "True", "neutral": "Neither", "contradiction": "False", "not_entailment": "False"}


@dataclass(frozen=True)
class PromptTemplate:
    """A template of the columns, and the verbalizer: a word for each label, or for some numbers of a regression."""

    text: str
    verbalizer: dict[str, str]


# sst2 and cola: Gao et al. 2021 (LM-BFF), table 1, whose mask is near the end; entailment: Brown et al. 2020, appendix
# G (RTE, ANLI). The others use its format, since a decoder answers at the end. The verbalizer of STS-B has
# the ends of its range, between which scores are interpolated (Gao et al. 2021, section 4.2).
PROMPTS = {
    "sst2": PromptTemplate("{sentence} It was", {"negative": "terrible", "positive": "great"}),
    "cola": PromptTemplate("{sentence} This is", {"unacceptable": "incorrect", "acceptable": "correct"}),
    "mrpc": PromptTemplate(
        "{sentence1}\n{sentence2}\nquestion: Do both sentences say the same? Yes or No?\nanswer:",
        {"not_equivalent": "No", "equivalent": "Yes"},
    ),
    "qqp": PromptTemplate(
        "{question1}\n{question2}\nquestion: Do both questions ask the same? Yes or No?\nanswer:",
        {"not_duplicate": "No", "duplicate": "Yes"},
    ),
    "stsb": PromptTemplate(
        "{sentence1}\n{sentence2}\nquestion: Do both sentences say the same? Yes or No?\nanswer:",
        {"0": "No", "5": "Yes"},
    ),
    "mnli": PromptTemplate("{premise}\nquestion: {hypothesis} True, False, or Neither?\nanswer:", NLI_VERBALIZER),
    "ax": PromptTemplate("{premise}\nquestion: {hypothesis} True, False, or Neither?\nanswer:", NLI_VERBALIZER),
    "qnli": PromptTemplate(
        "{sentence}\nquestion: {question} Is the answer there? Yes or No?\nanswer:",
        {"entailment": "Yes", "not_entailment": "No"},
    ),
    "rte": PromptTemplate("{sentence1}\nquestion: {sentence2} True or False?\nanswer:", NLI_VERBALIZER),
    "wnli": PromptTemplate("{sentence1}\nquestion: {sentence2} True or False?\nanswer:", NLI_VERBALIZER),
}


@dataclass(frozen=True)
class PromptedFormat(Format):
    """Classes and numbers from a prompted language model without training (Brown et al. 2020, section 2).

    A decoder reads `task.prompt`; an encoder-decoder its text-to-text template unless that is set. The score of a
    label is the mean log-likelihood of the tokens of its verbalizer; with `calibrate`, the log-likelihood minus that
    after the last words of the prompt only (section 2.4). A number is the average of those with a verbalizer, weighted
    by their likelihoods (Gao et al. 2021, section 4.2).
    """

    calibrate: bool = False
    output_kind = "verbalizer"

    @cached_property
    def prompt(self) -> PromptTemplate:
        """The template, and the text of each label, or of some numbers."""
        if self.is_decoder:
            return prompt_template(self.task, self.names)
        default = self.names if self.names is not None else [f"{value:.1f}" for value in similarity_scores()]
        words = verbalizer_of(self.task, self.names, {name: name for name in default})
        return PromptTemplate(self.task.prompt or text_to_text_template(self.task), words)

    @cached_property
    def values(self) -> np.ndarray:
        """The class ids or numbers (labels,) of the verbalizer."""
        numbers = map(float, self.prompt.verbalizer) if self.names is None else range(len(self.names))
        return np.array(list(numbers))

    @cached_property
    def verbalizer_ids(self) -> np.ndarray:
        """The token ids (labels, tokens) of the verbalizer, padded with -100."""
        words = list(self.prompt.verbalizer.values())
        if repeated := next((word for word in words if words.count(word) > 1), None):
            labels = ", ".join(label for label, word in self.prompt.verbalizer.items() if word == repeated)
            raise UserError(f"task.verbalizer has {repeated!r} for {labels}; set task.verbalizer to words that differ")
        return pad_verbalizer({word: self._word_ids(word) for word in words}, self.tokenizer, "task.verbalizer")

    def shot_group(self, label: Any) -> int:
        """Return the index of the value nearest to a label."""
        return int(np.abs(self.values - label).argmin())

    def render_shot(self, row: dict[str, Any]) -> str:
        """Return an example with its answer as a few-shot example."""
        word = list(self.prompt.verbalizer.values())[self.shot_group(row["label"])]
        texts = zip(self.task.text, (row[column] for column in text_columns(self.task)), strict=True)
        return f"{fill_template(self.prompt.text, dict(texts))} {word}"

    def encode(self, examples: Dataset) -> Encoded:
        """Tokenize at most `task.max_length` tokens of each prompt, with as many few-shot examples before it as fit.

        Truncation removes the start of a decoder's prompt, and the end of an encoder-decoder's. With `calibrate`, one
        more input has the last words of the prompt only.
        """
        texts = fill_columns(self.prompt.text, self.task, examples)
        answer_tokens = self.verbalizer_ids.shape[1] if self.is_decoder else 0
        limit = min(self.task.max_length, self.context_length - answer_tokens)
        whole = self.tokenizer(texts, verbose=False)["input_ids"] if texts else []
        inputs, dropped = self.with_shots([self._truncate(list(ids), limit) for ids in whole], answer_tokens)
        if self.calibrate:
            # the prompt after its last column; the end-of-text token where that is empty
            text = self.prompt.text.rpartition("}")[2].strip()
            inputs.append((self.tokenizer(text)["input_ids"] if text else []) or [self.end_id])
        table = Dataset.from_dict({"input_ids": inputs, "attention_mask": [[1] * len(ids) for ids in inputs]})
        return Encoded(
            table,
            [len(ids) for ids in inputs],
            sum(len(ids) > limit for ids in whole),
            label_array(examples),
            label_mask(examples),
            dropped_shots=dropped,
        )

    def decode(self, scores: list[np.ndarray], encoded: Encoded, texts: list[str] | None = None) -> Predictions:
        logps = np.stack(scores).astype(float)
        logps = logps[:-1] - logps[-1] if self.calibrate else logps / (self.verbalizer_ids >= 0).sum(axis=-1)
        if self.names is not None:
            return Predictions(self.values[logps.argmax(axis=-1)], list(logps))
        shares = np.exp(logps - logps.max(axis=-1, keepdims=True))
        return Predictions(shares @ self.values / shares.sum(axis=-1), list(logps))

    def _truncate(self, ids: list[int], limit: int) -> list[int]:
        if len(ids) <= limit:
            return ids
        lead = ids[:1] if ids[0] == self.tokenizer.bos_token_id else []
        # an encoder-decoder reads an end-of-text token
        return lead + ids[len(lead) - limit :] if self.is_decoder else [*ids[: limit - 1], ids[-1]]

    def _word_ids(self, word: str) -> list[int]:
        if not self.is_decoder:
            return list(self.tokenizer(text_target=word)["input_ids"])
        return continuations(self.tokenizer, [f" {word}"])[0]


def prompt_template(task: TaskConfig, names: list[str] | None) -> PromptTemplate:
    """Return the prompt of a decoder: `task.prompt`, else that of the GLUE task, else the columns with their names.

    The word of a label is that of `task.verbalizer`, else that of the GLUE prompt, else its name. Whitespace at the end
    of the prompt is removed, since the word starts with a space.
    """
    columns = "".join(f"{column}: {{{column}}}\n" for column in task.text)
    default = PromptTemplate(f"{columns}{task.label}:", {})
    known = PROMPTS.get(task.name, default) if task.suite == "glue" else default
    text = (task.prompt or "").rstrip() or known.text
    return PromptTemplate(text, verbalizer_of(task, names, known.verbalizer))


def verbalizer_of(task: TaskConfig, names: list[str] | None, default: dict[str, str]) -> dict[str, str]:
    """Return the word of each label; of a regression only the numbers that have one.

    Raises:
        UserError: `task.verbalizer` has an unknown label.
    """
    configured = {label_name(label): str(word) for label, word in (task.verbalizer or {}).items()}
    if names is None:
        return configured or default
    for label in configured.keys() - {*names}:
        hint = boolean_hint(task.verbalizer or {}) or nearest(label, names)
        raise UserError(f"task.verbalizer: the data has no label {label}{hint}")
    return {name: configured.get(name) or default.get(name) or name.replace("_", " ") for name in names}


def sample_balanced(groups: Sequence[int], number: int, seed: int) -> list[int]:
    """Return the indices (number,) of a sample with equally many examples of each group, ordered by the seed.

    Each round takes one example of each group with examples left, so that any last rounds are balanced too.
    """
    random = np.random.default_rng(seed)
    labels = np.asarray(groups)
    left = [random.permutation(np.flatnonzero(labels == label)).tolist() for label in np.unique(labels)]
    sampled: list[int] = []
    while len(sampled) < number and any(left):
        sampled += [left[group].pop() for group in random.permutation(len(left)) if left[group]]
    return sampled[:number][::-1]  # prompts drop the first ones where they don't fit: those of the incomplete round
