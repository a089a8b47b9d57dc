"""Turn a question and a passage into windows of token ids, and start and end scores into a span of the passage."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from peftkit.data.collate import padded
from peftkit.data.formats.format import Answers, Encoded, labelled
from peftkit.schema import Task, UserError

BEST = 20  # starts and ends that are paired (Devlin et al. 2019, their run_squad.py)
LONGEST = 30  # tokens of an answer, as there


@dataclass(frozen=True)
class Spans:
    """Extractive question answering (Devlin et al. 2019, sections 4.2 and 4.3).

    A passage that is longer than `task.max_length` is read in windows that share `task.stride` tokens. No answer is
    the span of [CLS]; where a tokenizer has none, of the end-of-text token after the passage, which a decoder too
    has read everything at.
    """

    task: Task
    tokenizer: PreTrainedTokenizerBase
    names = None
    reads = "spans"
    words = None
    writes = None

    def encode(self, rows: Dataset) -> Encoded:
        """Tokenise; `places` are each window's passage, where its tokens are in it, and the token of no answer."""
        is_decoder = not _has_specials(self.tokenizer)
        limit = min(self.task.max_length, self.tokenizer.model_max_length) - is_decoder
        question, passage = self.task.text
        questions, cut = self._questions([text.strip() for text in rows[question]], limit, is_decoder)
        out = self.tokenizer(
            questions, list(rows[passage]), truncation="only_second", max_length=limit, stride=self.task.stride or 0,
            return_overflowing_tokens=True, return_offsets_mapping=True,
        )  # fmt: skip
        owner, offsets = np.array(out.pop("overflow_to_sample_mapping")), out.pop("offset_mapping")
        inputs: dict[str, list] = {**out, "start_positions": [], "end_positions": []}
        places = []
        for number, row in enumerate(owner):
            if is_decoder:
                inputs["input_ids"][number] = [*inputs["input_ids"][number], self.tokenizer.eos_token_id]
                inputs["attention_mask"][number] = [*inputs["attention_mask"][number], 1]
            ids, parts = inputs["input_ids"][number], out.sequence_ids(number)
            cls = self.tokenizer.cls_token_id
            none = ids.index(cls) if cls in ids else len(ids) - 1
            spans = [(at, *offsets[number][at]) for at, part in enumerate(parts) if part == 1]
            places.append((rows[int(row)][passage], spans, none))
            start, end = _tokens_of(rows[int(row)]["label"], spans) or (none, none)
            inputs["start_positions"].append(start)
            inputs["end_positions"].append(end)
        lengths = [len(ids) for ids in inputs["input_ids"]]
        labels = [None if label is None else list(label["text"]) for label in rows["label"]]
        return Encoded(Dataset.from_dict(inputs), lengths, cut, labels, labelled(rows), owner, places)

    def collator(self) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
        return padded(self.tokenizer)

    def cut(self, scores: np.ndarray, encoded: Encoded) -> list[np.ndarray]:
        """Return start and end scores (tokens, 2) of each window."""
        return [row[:length].astype(float) for row, length in zip(scores, encoded.lengths, strict=True)]

    def answer(self, scores: list[np.ndarray], encoded: Encoded, texts: list[str] | None = None) -> Answers:
        """Return the best span's text over all windows of an example; its score, and that of no answer."""
        assert encoded.owner is not None
        count = len(encoded.has_label)
        best: list[tuple[float, str]] = [(-np.inf, "")] * count
        none = np.full(count, np.inf)
        for row, window, (passage, spans, cls) in zip(encoded.owner, scores, encoded.places, strict=True):
            best[row] = max(best[row], _best_span(window, spans, passage))
            none[row] = min(none[row], window[cls].sum())  # every window must say that there is none
        predictions = [
            "" if self.task.no_answer and nothing >= score else text
            for (score, text), nothing in zip(best, none, strict=True)
        ]
        return Answers(predictions, [np.array([score, cls]) for (score, _), cls in zip(best, none, strict=True)])

    def told(self, prediction: Any) -> Any:
        return prediction

    def counts(self, encoded: Encoded) -> dict[str, Any]:
        known = [label for label in encoded.labels if label is not None]
        found = {"answered": sum(bool(texts) for texts in known), "no answer": sum(not texts for texts in known)}
        hidden = int((~encoded.has_label).sum())
        return found | {"windows": len(encoded.lengths)} | ({"hidden": hidden} if hidden else {})

    def _questions(self, questions: list[str], limit: int, is_decoder: bool) -> tuple[list[str], int]:
        """Cut questions to half of the room, so that a passage has the other; return them and how many were cut."""
        end = "\n" if is_decoder else ""
        room = limit // 2 - 3
        if (self.task.stride or 0) >= limit - room - 3:
            raise UserError(
                f"task.stride={self.task.stride} leaves no step between two windows of task.max_length="
                f"{self.task.max_length} tokens, half of which may be the question's; try task.stride={limit // 4}"
            )
        ids = self.tokenizer(questions, add_special_tokens=False, return_offsets_mapping=True)
        cut, kept = 0, []
        for text, offsets in zip(questions, ids["offset_mapping"], strict=True):
            cut += len(offsets) > room
            kept.append((text[: offsets[room - 1][1]] if len(offsets) > room else text) + end)
        return kept, cut


def _has_specials(tokenizer: PreTrainedTokenizerBase) -> bool:
    return any(tokenizer("a", "b", return_special_tokens_mask=True)["special_tokens_mask"])


def _tokens_of(label: dict[str, Any] | None, spans: list[tuple[int, int, int]]) -> tuple[int, int] | None:
    """Return the first and the last token of the first answer; None where this window does not hold all of it."""
    if label is None or not label["text"] or not spans:
        return None
    start = label["answer_start"][0]
    end = start + len(label["text"][0])
    if start < spans[0][1] or end > spans[-1][2]:
        return None
    inside = [at for at, left, right in spans if left < end and right > start]
    return (inside[0], inside[-1]) if inside else None


def _best_span(scores: np.ndarray, spans: list[tuple[int, int, int]], passage: str) -> tuple[float, str]:
    """Return the score and the text of the best span of at most LONGEST tokens in a window (tokens, 2)."""
    if not spans:
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
