"""Extractive question answering: windows of a passage, and the best span over all of them."""

from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from datasets import Dataset, Features, List, Value, concatenate_datasets

from peftkit.config import UserError, refusal
from peftkit.config.progress import advance
from peftkit.data.arrow_columns import arrow_column, cells_of, list_lengths
from peftkit.data.cells import parse_cells
from peftkit.data.columns import ID, ROW, require_columns, text_columns
from peftkit.data.datasets import ExampleReader
from peftkit.data.formats.base import Encoded, Format, Predictions, frequent_answer, hidden_count, label_mask
from peftkit.data.squad import AnswerParser, answer_texts, truth

MAX_CANDIDATES = 20  # best starts and ends, of which all pairs are scored (Devlin et al. 2019, their run_squad.py)
MAX_ANSWER_TOKENS = 30  # as in run_squad.py
BATCH_EXAMPLES = 200  # per batch of windows in Python lists, which take more memory than a table


class SpanReader(ExampleReader):
    """Reads the answers to a question and their positions, as SQuAD has them."""

    @property
    def label_feature(self) -> Any:
        return {"text": List(Value("string")), "answer_start": List(Value("int64"))}

    def read(self, table: Dataset, names: list[str] | None, split: str) -> tuple[Dataset, int]:
        """Return the examples with answers {text, answer_start}; a column is_impossible overrides their answers."""
        columns, column = text_columns(self.task), str(self.task.label)
        require_columns(self.task, table, columns)
        if column not in table.column_names:
            return super().read(table, names, split)
        is_impossible = table["is_impossible"] if "is_impossible" in table.column_names else [None] * len(table)
        parser = AnswerParser(split, column, allows_none=bool(self.task.no_answer))
        _, passages = (cells_of(self.parse_column(table, name, split)) for name in columns)
        place = f"{self.task.dataset}: column {column} of {split}"
        cells = parse_cells(table[column][:], answer_texts, place, table[ROW])
        answers = [
            parser.parse(cell, passage, str(number), truth(impossible))
            for cell, passage, number, impossible in zip(cells, passages, table[ID][:], is_impossible, strict=True)
        ]
        parser.log_counts()
        features = Features({column: self.label_feature})
        parsed = Dataset.from_dict({column: answers}, features=features)
        return super().read(concatenate_datasets([table.remove_columns(column), parsed], axis=1), names, split)

    def raw_labels(self, table: Dataset, split: str) -> list[Any]:
        return self.parse_labels(table, split, lambda cell: cell)


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
        # without special tokens between a pair of texts, the texts are separated by a line break
        is_decoder = not any(self.tokenizer("a", "b", return_special_tokens_mask=True)["special_tokens_mask"])
        limit = min(self.task.max_length, self.tokenizer.model_max_length) - is_decoder
        question_column, passage_column = text_columns(self.task)
        questions, truncated = self._questions([text.strip() for text in examples[question_column]], limit, is_decoder)
        passages, answers = examples[passage_column][:], examples["label"][:]
        parts: list[tuple[Dataset, np.ndarray, list[Any]]] = []
        for first in range(0, len(examples), BATCH_EXAMPLES):
            part = slice(first, first + BATCH_EXAMPLES)
            inputs, rows, positions = self._windows(questions[part], passages[part], answers[part], limit, is_decoder)
            parts.append((Dataset.from_dict(inputs), rows + first, positions))
            advance(len(questions[part]))
        tables, examples_of, all_positions = zip(*parts, strict=True)
        table = concatenate_datasets(list(tables))
        return Encoded(
            table,
            list_lengths(arrow_column(table, "input_ids")),
            truncated,
            [None if label is None else list(label["text"]) for label in answers],
            label_mask(examples),
            np.concatenate(examples_of),
            list(chain.from_iterable(all_positions)),
        )

    def unpad(self, scores: np.ndarray, encoded: Encoded) -> list[np.ndarray]:
        """Return start and end scores (tokens, 2) of each window."""
        return [row[:length].astype(float) for row, length in zip(scores, encoded.lengths, strict=True)]

    def decode(self, scores: list[np.ndarray], encoded: Encoded, texts: list[str] | None = None) -> Predictions:
        """Return the best span's text over all windows of an example; its score, and that of no answer."""
        assert encoded.example_of is not None
        count = len(encoded.has_label)
        best: list[tuple[float, str]] = [(-np.inf, "")] * count
        no_answer = np.full(count, np.inf)
        for row, window, (passage, spans, cls) in zip(encoded.example_of, scores, encoded.positions, strict=True):
            best[row] = max(best[row], _best_span(window, spans, passage))
            no_answer[row] = min(no_answer[row], window[cls].sum())  # "no answer" has its lowest score over all windows
        predictions = [
            "" if self.task.no_answer and null_score >= score else text
            for (score, text), null_score in zip(best, no_answer, strict=True)
        ]
        return Predictions(
            predictions, [np.array([score, cls]) for (score, _), cls in zip(best, no_answer, strict=True)]
        )

    def label_counts(self, encoded: Encoded) -> dict[str, Any]:
        known = [label for label in encoded.labels if label is not None]
        return {
            "answered": sum(bool(texts) for texts in known),
            "no answer": sum(not texts for texts in known),
            "windows": len(encoded.lengths),
            **hidden_count(encoded),
            **frequent_answer(texts[0] if texts else "" for texts in known),
        }

    def _windows(
        self, questions: list[str], passages: list[str], labels: list[Any], limit: int, is_decoder: bool
    ) -> tuple[dict[str, list], np.ndarray, list[Any]]:
        """Return the columns of some examples' windows, the example of each (windows,), and their positions."""
        out = self.tokenizer(
            questions, passages, truncation="only_second", max_length=limit, stride=self.task.stride or 0,
            return_overflowing_tokens=True, return_offsets_mapping=True,
        )  # fmt: skip
        example_of, offsets = np.array(out.pop("overflow_to_sample_mapping")), out.pop("offset_mapping")
        positions, targets = [], []
        for number, row in enumerate(example_of):
            if is_decoder:
                out["input_ids"][number].append(self.end_id)
                out["attention_mask"][number].append(1)
            ids, cls = out["input_ids"][number], self.tokenizer.cls_token_id
            no_answer = ids.index(cls) if cls in ids else len(ids) - 1
            tokens = [(at, *offsets[number][at]) for at, part in enumerate(out.sequence_ids(number)) if part == 1]
            spans = np.array(tokens, dtype=np.int32).reshape(-1, 3)  # a tenth of the memory of Python's integers
            positions.append((passages[row], spans, no_answer))
            targets.append(_tokens_of(labels[row], spans) or (no_answer, no_answer))
        starts, ends = zip(*targets, strict=True)
        return {**out, "start_positions": list(starts), "end_positions": list(ends)}, example_of, positions

    def _questions(self, questions: list[str], limit: int, is_decoder: bool) -> tuple[list[str], int]:
        """Truncate questions to half of the limit; return them and how many were truncated."""
        end, longest = "\n" if is_decoder else "", limit // 2 - 3
        if (self.task.stride or 0) >= limit - longest - 3:
            wrong = (
                f"task.stride={self.task.stride} is too large an overlap of windows of {limit} tokens "
                "(task.max_length, or the limit of the model), half of which may be the question"
            )
            raise UserError(refusal(wrong, f"task.stride={limit // 4}", verb="set"))
        offsets = self.tokenizer(questions, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        kept = [
            (text[: spans[longest - 1][1]] if len(spans) > longest else text) + end
            for text, spans in zip(questions, offsets, strict=True)
        ]
        return kept, sum(len(spans) > longest for spans in offsets)


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
    """Return the score and the text of the best span of at most MAX_ANSWER_TOKENS tokens in a window (tokens, 2)."""
    if not len(spans):
        return -np.inf, ""
    scores = scores[spans[0][0] :][: len(spans)]
    starts, ends = np.argsort(-scores, axis=0, kind="stable")[:MAX_CANDIDATES].T
    lengths = ends - starts[:, None]  # every start with every end
    sums = np.where((lengths >= 0) & (lengths < MAX_ANSWER_TOKENS), scores[starts, :1] + scores[ends, 1], -np.inf)
    start, end = np.unravel_index(sums.argmax(), sums.shape)
    if sums[start, end] == -np.inf:
        return -np.inf, ""
    return float(sums[start, end]), passage[spans[starts[start]][1] : spans[ends[end]][2]].strip()
