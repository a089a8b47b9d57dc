"""The base class of formats, with the model inputs of a split and the predictions from model outputs."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from datasets import Dataset
from transformers import DataCollatorWithPadding, PreTrainedTokenizerBase

from peftkit.config import TaskConfig, UserError, refusal
from peftkit.config.decoding import MAX_NEW_TOKENS
from peftkit.config.record_schema import FREQUENT_ANSWER, MAX_NAME
from peftkit.config.templates import parse_template
from peftkit.data.arrow_columns import arrow_column
from peftkit.data.batches import padding_multiple
from peftkit.data.datasets import ExampleReader, format_class

SHOT_SEPARATOR = "\n\n"  # after each few-shot example (Brown et al. 2020, section 2.4: one or two line breaks)
ANCHOR = "answer:"  # precedes a text to find its tokens: many tokenizers encode the first word of a text differently


@dataclass(frozen=True)
class Encoded:
    """Model inputs of one split, with the labels and counts for metrics and audits.

    Args:
        inputs: one entry for each model input; a long example may have several.
        lengths: (inputs,) tokens of each input after truncation.
        truncated: the number of truncated examples.
        labels: (examples,) labels as the metrics read them; -1, NaN or None where the label is hidden.
        has_label: (examples,) False where the label is hidden.
        example_of: (inputs,) the example of each input; None where each example is one input.
        positions: data of each input for `decode`, documented by the `encode` of each format.
        answer_formats: (examples,) of instructions, the expected `AnswerFormat`.
        dropped_shots: few-shot examples that did not fit, over the whole split.
        domains: the names of the domains whose numbers are among the inputs.
    """

    inputs: Dataset
    lengths: Sequence[int] | np.ndarray
    truncated: int
    labels: Any
    has_label: np.ndarray
    example_of: np.ndarray | None = None
    positions: list[Any] = field(default_factory=list)
    answer_formats: list[Any] = field(default_factory=list)
    dropped_shots: int = 0
    domains: list[str] = field(default_factory=list)

    @property
    def tokens(self) -> int:
        """The tokens of all inputs."""
        return int(np.sum(self.lengths, dtype=np.int64))


@dataclass(frozen=True)
class Predictions:
    """The prediction for each example, with the type of the labels, and the scores that it was computed from.

    Args:
        predictions: (examples,) values of the same type as the labels.
        scores: an array for each example, which may be empty.
        likelihoods: of generative models, nats (examples,) of the labels and their tokens, 0 where hidden.
        follows_format: (examples,) of instructions, 1 where an answer has the format of its references, else 0.
        has_ended: of generated texts, False where the length limit ended them.
    """

    predictions: Any
    scores: list[np.ndarray]
    likelihoods: tuple[np.ndarray, np.ndarray] | None = None
    follows_format: np.ndarray | None = None
    has_ended: list[bool] | None = None


@dataclass(frozen=True)
class Format(ABC):
    """How the examples of one kind of task are encoded for one architecture, and how its outputs are decoded.

    The record of a kind (config/kinds.py) names its format classes. Subclasses define `encode` and `decode`, and
    override what differs: `output_kind` selects how outputs become scores (logits, verbalizer, spans, likelihoods,
    masked, preferences or embeddings); `reader` reads the examples of the kind from tables; `collator_class` pads
    batches. `shots` are whole examples before each prompt, as many as fit. `score_thresholds` are the scores from which
    each of several labels is predicted, by default 0, a probability of 0.5.
    """

    task: TaskConfig
    tokenizer: PreTrainedTokenizerBase
    architecture: str = "encoder"
    names: list[str] | None = None
    shots: tuple[str, ...] = ()
    score_thresholds: tuple[float, ...] | None = None
    reader: ClassVar[type[ExampleReader]] = ExampleReader
    collator_class: ClassVar[Callable[..., Any]] = DataCollatorWithPadding
    training_has_noise: ClassVar[bool] = False  # whether the seed changes the inputs of training
    stop_text: ClassVar[str] = ""  # ends a generated answer after few-shot examples

    @property
    def is_decoder(self) -> bool:
        return self.architecture == "decoder"

    @property
    def output_kind(self) -> str:
        return "logits"

    @property
    def verbalizer_ids(self) -> np.ndarray | None:
        """The token ids (labels, tokens) that a text-to-text model chooses between, padded with -100."""
        return None

    @property
    def max_new_tokens(self) -> int | None:
        """The most tokens that are generated for an answer; None where the scores give the prediction."""
        return None

    @property
    def reserved(self) -> int:
        """The tokens of a context that prompts leave free: those that a decoder generates take positions too."""
        return (self.max_new_tokens or 0) if self.is_decoder else 0

    @property
    def context_length(self) -> int:
        """The maximum number of prompt and answer tokens."""
        return self.tokenizer.model_max_length

    @abstractmethod
    def encode(self, examples: Dataset) -> Encoded:
        """Return the model inputs of examples."""

    def encode_training(self, examples: Dataset, seed: int) -> Encoded:
        """Encode the examples to train on; formats that pack or corrupt text override this."""
        return self.encode(examples)

    @property
    def end_id(self) -> int:
        """The id of the end-of-text token.

        Raises:
            UserError: the tokenizer has none.
        """
        if self.tokenizer.eos_token_id is None:
            raise UserError(
                "the tokenizer has no end-of-text token, which ends a text or an answer; set eos_token in its "
                "tokenizer_config.json to one of its tokens"
            )
        return int(self.tokenizer.eos_token_id)  # type: ignore[arg-type]

    def collator(self) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
        """Return a function that pads examples and returns a batch."""
        multiple = padding_multiple(self.context_length)
        return self.collator_class(self.tokenizer, pad_to_multiple_of=multiple)  # type: ignore[no-any-return]

    def unpad(self, scores: np.ndarray, encoded: Encoded) -> list[np.ndarray]:
        """Return the scores of each input without those of padding."""
        return list(scores)

    @abstractmethod
    def decode(self, scores: list[np.ndarray], encoded: Encoded, texts: list[str] | None = None) -> Predictions:
        """Return the predictions; `texts` holds the generated text of each example."""

    def check_answers(self, predictions: Predictions, has_ended: Sequence[bool], encoded: Encoded) -> Predictions:
        """Return the predictions, with `follows_format` where the kind checks the format of answers."""
        return predictions

    def describe(self, prediction: Any) -> Any:
        """Return a prediction as in a file of labels: a class name, a Python number, or a text."""
        if self.names is not None:
            return self.names[int(prediction)]
        return prediction.item() if isinstance(prediction, np.generic) else prediction

    def recorded(self, values: Any) -> list[Any]:
        """Return labels or predictions (examples, ...) as predictions.parquet has them."""
        return values.tolist() if isinstance(values, np.ndarray) else list(values)

    def label_counts(self, encoded: Encoded) -> dict[str, Any]:
        """Return counts of each class; of numbers their range and mean."""
        known = encoded.labels[encoded.has_label]
        if self.names is None:
            counts = {"minimum": known.min(), "maximum": known.max(), "mean": known.mean()} if len(known) else {}
            return {name: float(count) for name, count in counts.items()} | hidden_count(encoded)
        return {name: int((known == number).sum()) for number, name in enumerate(self.names)} | hidden_count(encoded)

    def max_prompt_tokens(self, max_new_tokens: int, key: str | None = None) -> int:
        """Return the maximum number of prompt tokens before an answer of `max_new_tokens`.

        Args:
            key: by which a user sets it; None: that of the command line.

        Raises:
            UserError: no token is left for a prompt.
        """
        limit = min(self.task.max_length, self.context_length - max_new_tokens)
        if limit < 1:
            if key is None:
                key = "task.max_target_length" if max_new_tokens <= self.task.target_length else MAX_NEW_TOKENS
            wrong = f"{key}={max_new_tokens} leaves no tokens for a prompt of the model's {self.context_length}"
            raise UserError(refusal(wrong, f"{key}={max(1, self.context_length // 2)}", verb="set"))
        return limit

    def with_shots(self, prompts: Sequence[list[int]], max_new_tokens: int) -> tuple[list[list[int]], int]:
        """Return the prompts with few-shot examples, and the total number that did not fit."""
        texts = [f"{shot}{SHOT_SEPARATOR}" for shot in self.shots]
        shots = self.tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []
        limit, bos = self.context_length - max_new_tokens, self.tokenizer.bos_token_id
        filled = [prepend_shots(shots, ids, limit, bos) for ids in prompts]
        return [ids for ids, _ in filled], sum(dropped for _, dropped in filled)


def format_of(
    task: TaskConfig, architecture: str, names: list[str] | None, tokenizer: PreTrainedTokenizerBase
) -> Format:
    """Return the format of a task whose classes are `names` for an encoder, a decoder or a seq2seq model."""
    return format_class(task, architecture)(task, tokenizer, architecture, names)


def hidden_count(encoded: Encoded) -> dict[str, int]:
    """Return the number of hidden labels; empty where no label is hidden."""
    hidden = int((~encoded.has_label).sum())
    return {"hidden": hidden} if hidden else {}


def frequent_answer(answers: Iterable[str]) -> dict[str, str]:
    """Return the most frequent of several answers, which boards use as a baseline; empty where none occurs twice."""
    counts = Counter(text for text in answers if len(text) <= MAX_NAME).most_common(1)
    return {FREQUENT_ANSWER: counts[0][0]} if counts and counts[0][1] > 1 else {}


def label_mask(examples: Dataset) -> np.ndarray:
    """Return which examples have a label (examples,)."""
    return arrow_column(examples, "label").is_valid().to_numpy()  # type: ignore[no-any-return]


def fill_template(template: str, values: Mapping[str, str]) -> str:
    """Return a template filled with texts without their outer whitespace; it has no whitespace at its end.

    An empty text does not leave the whitespace on both of its sides.
    """
    filled, follows_gap = "", False
    for literal, name in parse_template(template):
        filled += literal.lstrip() if follows_gap and (not filled or filled[-1].isspace()) else literal
        if name is not None:
            value = values[name].strip()
            filled, follows_gap = filled + value, not value
    return filled.rstrip()


def answer_separator(template: str | None) -> str:
    """Return what separates a prompt from its answer: whitespace at the template's end, else a space.

    It belongs to the tokens of the answer, as everywhere in a text: a line break without a template, whose columns line
    breaks separate.
    """
    return "\n" if template is None else template[len(template.rstrip()) :] or " "


def continuations(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """Return the tokens of texts that continue another text."""
    if not texts:
        return []
    before, *wholes = tokenizer([ANCHOR, *(f"{ANCHOR}{text}" for text in texts)], add_special_tokens=False)["input_ids"]
    return [
        list(whole[len(before) :])
        if whole[: len(before)] == before
        else list(tokenizer(text, add_special_tokens=False)["input_ids"])
        for text, whole in zip(texts, wholes, strict=True)
    ]


def tokenize(tokenizer: PreTrainedTokenizerBase, texts: Sequence[list[str]], max_length: int) -> dict[str, Any]:
    """Tokenize and mark truncated examples; only those are tokenized a second time."""
    out = dict(tokenizer(*texts, verbose=False))
    limit = min(max_length, tokenizer.model_max_length)
    out["truncated"] = [len(ids) > limit for ids in out["input_ids"]]
    for index in np.flatnonzero(out["truncated"]):
        short = tokenizer(*(column[index] for column in texts), truncation=True, max_length=limit)
        for key, ids in short.items():
            out[key][index] = ids
    return out


def prepend_shots(
    shots: Sequence[list[int]], question: list[int], limit: int, bos: int | None
) -> tuple[list[int], int]:
    """Return the question after the last examples that fit into `limit` tokens with it, and the number dropped.

    `bos` is the beginning-of-text token, None where the tokenizer has none.
    """
    lead = 1 if bos is not None and question[:1] == [bos] else 0
    # of the last examples, the tokens of 1, 2, ... of them: as many fit as there are sums within the limit
    sizes = np.cumsum([len(shot) for shot in reversed(shots)])
    dropped = int((sizes > limit - len(question)).sum())
    kept = [token for shot in shots[dropped:] for token in shot]
    return [*question[:lead], *kept, *question[lead:]], dropped
