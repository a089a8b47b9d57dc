"""Extractive question answering: windows of a passage, and the best span over all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Dataset, List, Value, concatenate_datasets
from transformers import PreTrainedTokenizerBase

from peftkit.config import TaskConfig, UserError
from peftkit.data.datasets import ExampleReader
from peftkit.data.formats.base import Encoded, Format, Predictions, hidden_count, label_mask

BEST = 20  # starts and ends that are paired (Devlin et al. 2019, their run_squad.py)
LONGEST = 30  # tokens of an answer, as there
AT_ONCE = 200  # examples per batch of windows in Python lists, which take more memory than a table


class SpanReader(ExampleReader):
    """Reads the answers {text, answer_start} to a question, as SQuAD has them."""

    @property
    def label_feature(self) -> Any:
        return {"text": List(Value("string")), "answer_start": List(Value("int64"))}

    def raw_labels(self, table: Dataset) -> list[Any]:
        return list(self._label_column(table))

    def label_parser(self, table: Dataset, names: list[str] | None, split: str) -> Callable[[Any, Sequence[Any]], Any]:
        return lambda label, texts: _parse_answer(self.task, label, texts[1], split)


@dataclass(frozen=True)
class QuestionAnsweringFormat(Format):
    """Extractive question answering (Devlin et al. 2019, sections 4.2 and 4.3).

    A passage longer than `task.max_length` is split into windows that overlap by `task.stride` tokens. The span of
    [CLS] means no answer; where a tokenizer has no [CLS], that of the end-of-text token after the passage, whose hidden
    state in a decoder depends on the whole text.
    """

    reader = SpanReader
    output_kind = "spans"

    def encode(self, examples: Dataset) -> Encoded:
        """Tokenize; `positions` are the passage of each window, its spans (tokens, 3), and the token of no answer.

        A span is a token of the passage: its index in the window, and its start and end character in the passage.
        """
        is_decoder = not _has_specials(self.tokenizer)
        limit = min(self.task.max_length, self.tokenizer.model_max_length) - is_decoder
        question, passage = self.task.text
        questions, cut = self._questions([text.strip() for text in examples[question]], limit, is_decoder)
        passages, answers = list(examples[passage]), list(examples["label"])
        tables: list[Dataset] = []
        owner: list[np.ndarray] = []
        positions: list[Any] = []
        for first in range(0, len(examples), AT_ONCE):
            part = slice(first, first + AT_ONCE)
            inputs, examples_of, spans = self._windows(
                questions[part], passages[part], answers[part], limit, is_decoder
            )
            tables.append(Dataset.from_dict(inputs))
            owner.append(examples_of + first)
            positions += spans
        table = concatenate_datasets(tables)
        lengths = [len(ids) for ids in table["input_ids"]]
        labels = [None if label is None else list(label["text"]) for label in answers]
        return Encoded(table, lengths, cut, labels, label_mask(examples), np.concatenate(owner), positions)

    def unpad(self, scores: np.ndarray, encoded: Encoded) -> list[np.ndarray]:
        """Return start and end scores (tokens, 2) of each window."""
        return [row[:length].astype(float) for row, length in zip(scores, encoded.lengths, strict=True)]

    def decode(self, scores: list[np.ndarray], encoded: Encoded, texts: list[str] | None = None) -> Predictions:
        """Return the best span's text over all windows of an example; its score, and that of no answer."""
        assert encoded.example_of is not None
        count = len(encoded.has_label)
        best: list[tuple[float, str]] = [(-np.inf, "")] * count
        none = np.full(count, np.inf)
        for row, window, (passage, spans, cls) in zip(encoded.example_of, scores, encoded.positions, strict=True):
            best[row] = max(best[row], _best_span(window, spans, passage))
            none[row] = min(none[row], window[cls].sum())  # no answer needs the least score of all windows
        predictions = [
            "" if self.task.no_answer and nothing >= score else text
            for (score, text), nothing in zip(best, none, strict=True)
        ]
        return Predictions(predictions, [np.array([score, cls]) for (score, _), cls in zip(best, none, strict=True)])

    def describe(self, prediction: Any) -> Any:
        return prediction

    def label_counts(self, encoded: Encoded) -> dict[str, Any]:
        known = [label for label in encoded.labels if label is not None]
        found = {"answered": sum(bool(texts) for texts in known), "no answer": sum(not texts for texts in known)}
        return found | {"windows": len(encoded.lengths)} | hidden_count(encoded)

    def _windows(
        self, questions: list[str], passages: list[str], labels: list[Any], limit: int, is_decoder: bool
    ) -> tuple[dict[str, list], np.ndarray, list[Any]]:
        """Return the columns of some examples' windows, the example of each (windows,), and their positions."""
        out = self.tokenizer(
            questions, passages, truncation="only_second", max_length=limit, stride=self.task.stride or 0,
            return_overflowing_tokens=True, return_offsets_mapping=True,
        )  # fmt: skip
        owner, offsets = np.array(out.pop("overflow_to_sample_mapping")), out.pop("offset_mapping")
        inputs: dict[str, list] = {**out, "start_positions": [], "end_positions": []}
        positions = []
        for number, row in enumerate(owner):
            if is_decoder:
                inputs["input_ids"][number] = [*inputs["input_ids"][number], self.tokenizer.eos_token_id]
                inputs["attention_mask"][number] = [*inputs["attention_mask"][number], 1]
            ids, parts = inputs["input_ids"][number], out.sequence_ids(number)
            cls = self.tokenizer.cls_token_id
            none = ids.index(cls) if cls in ids else len(ids) - 1
            tokens = [(at, *offsets[number][at]) for at, part in enumerate(parts) if part == 1]
            spans = np.array(tokens, dtype=np.int32).reshape(-1, 3)  # a tenth of the memory of Python's integers
            positions.append((passages[row], spans, none))
            start, end = _tokens_of(labels[row], spans) or (none, none)
            inputs["start_positions"].append(start)
            inputs["end_positions"].append(end)
        return inputs, owner, positions

    def _questions(self, questions: list[str], limit: int, is_decoder: bool) -> tuple[list[str], int]:
        """Truncate questions to half of the limit; return them and how many were truncated."""
        end = "\n" if is_decoder else ""
        room = limit // 2 - 3
        if (self.task.stride or 0) >= limit - room - 3:
            raise UserError(
                f"task.stride={self.task.stride} leaves no step between two windows of {limit} tokens "
                "(task.max_length, or the limit of the model), half of which may be the question; "
                f"set task.stride={limit // 4}"
            )
        ids = self.tokenizer(questions, add_special_tokens=False, return_offsets_mapping=True)
        cut, kept = 0, []
        for text, offsets in zip(questions, ids["offset_mapping"], strict=True):
            cut += len(offsets) > room
            kept.append((text[: offsets[room - 1][1]] if len(offsets) > room else text) + end)
        return kept, cut


def _parse_answer(task: TaskConfig, label: Any, passage: str, split: str) -> dict[str, list]:
    """Return the answers {text, answer_start} to a question; a plain text is searched in the passage."""
    if isinstance(label, str):
        label = {"text": [label] if label.strip() else []}
    texts = label.get("text") if isinstance(label, Mapping) else None
    if texts is None:
        raise UserError(
            f"column {task.label} of {split} has {label!r:.60}; "
            'write answers as SQuAD does: {"text": ["a word"], "answer_start": [17]}'
        )
    starts = label.get("answer_start")
    texts = [texts] if isinstance(texts, str) else list(texts)
    if starts is None or starts == []:
        starts = [passage.find(text) for text in texts]
    starts = [starts] if isinstance(starts, int) else list(starts)
    if len(starts) != len(texts):
        raise UserError(
            f"an answer of {split} has {len(texts)} texts and {len(starts)} starts; write one start for each text"
        )
    if not texts and not task.no_answer:
        raise UserError(
            f"a question of {split} has no answer, and task.no_answer=false; set task.no_answer=true, or remove it"
        )
    for text, start in zip(texts, starts, strict=True):
        if start < 0:
            raise UserError(f"the answer {text!r:.60} of {split} is not in its passage; copy it from there")
        if passage[start : start + len(text)] != text:
            raise UserError(
                f"the answer {text!r:.60} of {split} is not at character {start} of its passage; "
                "count answer_start in characters from 0, as SQuAD does"
            )
    return {"text": texts, "answer_start": starts}


def _has_specials(tokenizer: PreTrainedTokenizerBase) -> bool:
    return any(tokenizer("a", "b", return_special_tokens_mask=True)["special_tokens_mask"])


def _tokens_of(label: dict[str, Any] | None, spans: np.ndarray) -> tuple[int, int] | None:
    """Return the first and the last token of the first answer; None where the window lacks part of it."""
    if label is None or not label["text"] or not len(spans):
        return None
    start = label["answer_start"][0]
    end = start + len(label["text"][0])
    if start < spans[0][1] or end > spans[-1][2]:
        return None
    tokens, lefts, rights = spans.T
    inside = tokens[(lefts < end) & (rights > start)]
    return (int(inside[0]), int(inside[-1])) if len(inside) else None


def _best_span(scores: np.ndarray, spans: np.ndarray, passage: str) -> tuple[float, str]:
    """Return the score and the text of the best span of at most LONGEST tokens in a window (tokens, 2)."""
    if not len(spans):
        return -np.inf, ""
    first = spans[0][0]
    starts, ends = scores[first : first + len(spans)].T
    best = (-np.inf, "")
    for start in np.argsort(-starts, kind="stable")[:BEST]:
        for end in np.argsort(-ends, kind="stable")[:BEST]:
            score = float(starts[start] + ends[end])
            if start <= end < start + LONGEST and score > best[0]:
                best = (score, passage[spans[start][1] : spans[end][2]].strip())
    return best
