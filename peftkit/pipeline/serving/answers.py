"""Answers of loaded runs to examples of requests: parsed one by one, computed in batches of similar lengths."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Dataset

from peftkit import training
from peftkit.config import UserError, error_summary, is_text
from peftkit.config.console import log
from peftkit.config.suggestions import listed
from peftkit.data.cells import CellError, describe, text_of
from peftkit.data.columns import text_columns
from peftkit.data.conversations import parse_unanswered, unanswered_conversations
from peftkit.data.datasets import example_reader
from peftkit.data.formats import Encoded
from peftkit.data.formats.preferences import PreferenceFormat
from peftkit.data.turns import has_prompt
from peftkit.pipeline.confidence import has_confidence, label_probabilities
from peftkit.pipeline.evaluate import RowPrediction, decode_scores, decoding_of, described
from peftkit.pipeline.inputs import text_examples
from peftkit.pipeline.serving.runs import ServedRun

CHARACTERS = 2048  # of an example on average, at most, in a batch of full size
BATCH_COST = 512  # characters of padding that take as long as one more batch, measured with MiniLM on a CPU


@dataclass(frozen=True)
class Example:
    """An example of a request.

    Args:
        cells: its texts, words or turns, in the order of the run's columns.
        size: its length in characters.
    """

    run: ServedRun
    cells: tuple[Any, ...]
    size: int

    @property
    def is_empty(self) -> bool:
        """Whether it has no text, so that it gets no prediction."""
        if self.run.config.task.kind == "instructions":
            return not (has_prompt(self.cells[0]) if self.run.config.task.label is None else any(self.cells))
        return not all(self.cells)


class ServerError(UserError):
    """An example failed by no fault of the request."""


Answer = dict[str, Any] | UserError


def parse_example(run: ServedRun, values: Any, place: str) -> Example:
    """Return an example of JSON values by column.

    Args:
        place: in the request, for messages.

    Raises:
        UserError: a column is missing or unknown, or its value is no text (words and turns: no list of them).
    """
    if not isinstance(values, Mapping):
        raise UserError(f"{place}: {describe(values)}, not an object with {listed(run.columns)}")
    is_instruction = run.config.task.kind == "instructions"  # may have no input
    needed = run.columns[:1] if is_instruction else run.columns
    if missing := [name for name in needed if name not in values]:
        raise UserError(f"{place} lacks {listed(missing)}")
    if unknown := [name for name in values if name not in run.columns]:
        raise UserError(f"{place}: {listed(unknown)} is unknown; run {run.name} reads {listed(run.columns)}")
    if is_instruction:
        values = {**dict.fromkeys(run.columns[1:], ""), **values}
    cells = tuple(_parse_cell(run, values[name], f"{place}.{name}") for name in run.columns)
    return Example(run, cells, sum(_characters(values[name]) for name in run.columns))


def _characters(value: Any) -> int:
    """Return the characters of a text, or those of words or turns with the JSON around them."""
    return len(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def _parse_cell(run: ServedRun, value: Any, place: str) -> Any:
    if not isinstance(value, str | list):
        raise UserError(f"{place}: {describe(value)}, not a text")
    if not is_text(json.dumps(value, ensure_ascii=False)):
        raise UserError(f"{place} has a surrogate without its pair, which is no character")
    try:
        return _parser(run)(value)
    except CellError as error:
        raise UserError(f"{place}: {error}") from error


def _parser(run: ServedRun) -> Callable[[Any], Any]:
    """Return the function that reads a cell, as job=predict does."""
    task = run.config.task
    if task.kind != "instructions":
        return example_reader(task).parse_text  # type: ignore[no-any-return]
    return text_of if task.label is not None else parse_unanswered


def answer_batches(examples: Sequence[Example], size: int) -> Iterator[tuple[list[int], Sequence[Answer]]]:
    """Compute the answers of examples in batches; yield the places of each batch with their answers or errors.

    Where a batch fails, its examples are computed one by one, so that one of them does not fail the others.

    Args:
        size: of a batch, in examples.
    """
    for places in _batches(examples, size):
        batch = [examples[place] for place in places]
        try:
            yield places, answer_batch(batch)
        except Exception:
            yield places, [_answer_alone(example) for example in batch]


def answer_batch(examples: Sequence[Example]) -> list[dict[str, Any]]:
    """Return the answers of examples that share a batch: those of one run, or of runs with one mixed model."""
    of_run: dict[str, list[int]] = {}
    for place, example in enumerate(examples):
        of_run.setdefault(example.run.name, []).append(place)
    runs = {name: examples[places[0]].run for name, places in of_run.items()}
    encoded = {name: _encode(runs[name], [examples[place] for place in places]) for name, places in of_run.items()}
    mixed, scores = next(iter(runs.values())).mixed, {}
    if mixed is not None:
        scores = mixed.scores({name: each for name, each in encoded.items() if each is not None}, len(examples))
    answers: list[dict[str, Any]] = [{}] * len(examples)
    for name, places in of_run.items():
        own = [examples[place] for place in places]
        found = _predict(runs[name], own, encoded[name], scores.get(name))
        truncated = _truncated(runs[name], own, encoded[name])
        for place, answer, is_cut in zip(places, _with_confidence(runs[name], found), truncated, strict=True):
            answers[place] = {**answer, "truncated": is_cut}
    return answers


def empty_answer(run: ServedRun) -> dict[str, Any]:
    """Return the answer to an example without text, which has no prediction."""
    fields = ["prediction", "scores", *(["confidence", "probabilities"] if has_confidence(run.run) else [])]
    return {**dict.fromkeys(fields), "truncated": False}


def _batches(examples: Sequence[Example], size: int) -> Iterator[list[int]]:
    """Yield the places of examples that are computed together: of one model, and of similar lengths."""
    groups: dict[Any, list[int]] = {}
    for place, example in enumerate(examples):
        run = example.run
        groups.setdefault(run.name if run.mixed is None else id(run.mixed), []).append(place)
    for places in groups.values():
        generation = examples[places[0]].run.config.task.generation or {}
        if generation.get("do_sample"):  # random numbers differ by the place in a batch
            yield from ([place] for place in places)
            continue
        places.sort(key=lambda place: -examples[place].size)
        first = 0
        for count in batch_counts([examples[place].size for place in places], size):
            yield places[first : first + count]
            first += count


def batch_counts(sizes: Sequence[int], most: int) -> list[int]:
    """Return how many examples each batch has, such that padding and the cost of a batch take the least time.

    Args:
        sizes: of the examples in characters, the longest first.
        most: examples of a batch.
    """
    best: list[tuple[float, int]] = [(0, 0)]  # of the first n examples: their cost, and the start of the last batch
    for end in range(1, len(sizes) + 1):
        starts = range(max(0, end - most), end)
        costs = [
            (best[start][0] + BATCH_COST + sizes[start] * (end - start), start)
            for start in starts
            if start == end - 1 or sizes[start] * (end - start) <= most * CHARACTERS
        ]
        best.append(min(costs))
    counts, end = [], len(sizes)
    while end:
        counts.append(end - best[end][1])
        end = best[end][1]
    return counts[::-1]


def _encode(run: ServedRun, examples: Sequence[Example]) -> Encoded | None:
    """Return the model inputs of examples; None for a prompt that is only answered."""
    task = run.config.task
    if task.kind == "preferences":
        return None
    columns = [list(cells) for cells in zip(*(example.cells for example in examples), strict=True)]
    if task.kind == "instructions":
        table = Dataset.from_dict(dict(zip(text_columns(task), columns, strict=True)))
        return run.bundle.format.encode(unanswered_conversations(task, table, "examples")[0])
    return run.bundle.format.encode(text_examples(task, columns, range(len(examples))))


def _predict(
    run: ServedRun, examples: Sequence[Example], encoded: Encoded | None, scores: np.ndarray | None
) -> list[RowPrediction]:
    """Return the prediction of each example, as job=predict has them."""
    if encoded is None:
        return [(text, None) for text in _continued(run, [example.cells[0] for example in examples])]
    if scores is None:
        scores = training.batch_scores(run.trainer, encoded.inputs)
    return described(run.bundle.format, decode_scores(run.bundle, run.trainer, encoded, scores)[0])


def _continued(run: ServedRun, prompts: Sequence[Any]) -> list[str]:
    """Return the text that the model generates after each prompt."""
    form, tokenizer = run.bundle.format, run.bundle.tokenizer
    assert isinstance(form, PreferenceFormat)
    decoding = decoding_of(run.bundle, run.trainer.args.seed)
    generated, _ = training.generate_answers(run.trainer, form.prompts(prompts), decoding)
    return [text.strip() for text in tokenizer.batch_decode(generated, skip_special_tokens=True)]


def _with_confidence(run: ServedRun, found: Sequence[RowPrediction]) -> list[dict[str, Any]]:
    """Return predictions as objects, of a classifier with its probabilities, and without those below the threshold."""
    answers = [{"prediction": prediction, "scores": scores} for prediction, scores in found]
    if not has_confidence(run.run):
        return answers
    known = np.array([scores for _, scores in found], float)
    for answer, shares, confidence in zip(answers, *label_probabilities(run.run, known), strict=True):
        answer |= {"confidence": confidence, "probabilities": dict(zip(run.run.label_names or (), shares, strict=True))}
        if run.threshold is not None:
            answer["suggestion"] = answer["prediction"]
            answer["prediction"] = answer["prediction"] if confidence >= run.threshold else None
    return answers


def _truncated(run: ServedRun, examples: Sequence[Example], encoded: Encoded | None) -> list[bool]:
    """Return which examples were truncated; the counts of formats are those of a whole split."""
    if encoded is None or not encoded.truncated:
        return [False] * len(examples)
    alone = [encoded] if len(examples) == 1 else [_encode(run, [example]) for example in examples]
    return [each is not None and each.truncated > 0 for each in alone]


def _answer_alone(example: Example) -> Answer:
    """Return the answer of an example of a failed batch, or its error."""
    try:
        return answer_batch([example])[0]
    except UserError as error:
        return error
    except Exception as error:
        log(f"!! {example.run.name}: {type(error).__name__}: {error_summary(error)}")
        return ServerError(f"run {example.run.name} failed on this example; its log has the reason")
