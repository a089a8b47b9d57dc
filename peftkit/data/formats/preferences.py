"""Preferences: a prompt with a chosen and a rejected answer, scored by the margin of their rewards."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import eq, lt
from typing import Any

import numpy as np
from datasets import Dataset

from peftkit.config import TaskConfig, UserError, refusal
from peftkit.config.console import assume
from peftkit.config.progress import advance
from peftkit.config.quoting import typed
from peftkit.data.arrow_columns import Cells
from peftkit.data.batches import padding_multiple
from peftkit.data.cells import text_of
from peftkit.data.columns import require_columns, text_columns
from peftkit.data.conversations import encode_prompt, encode_with_answer, ensure_chat_template
from peftkit.data.datasets import SUBSET_SEED, ExampleReader, subset
from peftkit.data.formats.base import Encoded, Format, Predictions, answer_separator, continuations, fill_template
from peftkit.data.turns import Turn, as_turn, parse_turns

REFERENCE_COLUMNS = ("ref_chosen_logps", "ref_rejected_logps")  # log-likelihoods of the reference, under TRL's names
SCORES = ("score", "rating", "reward")  # words in the names of columns that rate an answer
Prompt = str | list[Turn]


class PreferenceReader(ExampleReader):
    """Reads a prompt and two answers; splits keep all pairs of a prompt together."""

    complete = "a prompt and two different answers; check task.text=[prompt,chosen,rejected]"

    def read(self, table: Dataset, names: list[str] | None, split: str) -> tuple[Dataset, int]:
        check_order(self.task, table, split)
        return super().read(table, names, split)

    def parse_text(self, cell: Any) -> Any:
        """Return the text or the turns in a cell."""
        return parse_prompt(cell)

    def combine_texts(self, texts: Sequence[Cells], split: str) -> Sequence[Cells]:
        pairs = [combine_preference(each, split) for each in zip(*texts, strict=True)]
        kept = [[""] * len(pair) if pair[1].strip() == pair[2].strip() else pair for pair in pairs]
        return [list(column) for column in zip(*kept, strict=True)] or texts

    def split(self, examples: Dataset, size: float, use: str = "validation") -> tuple[Dataset, Dataset]:
        """Split off a number of examples, or a share below 1, rounded up to whole prompts.

        Raises:
            UserError: there is only one prompt.
        """
        prompt_column = text_columns(self.task)[0]
        require_columns(self.task, examples, [prompt_column])
        numbers: dict[str, int] = {}
        keys = (json.dumps(prompt, sort_keys=True, default=str) for prompt in examples[prompt_column])
        groups = np.array([numbers.setdefault(key, len(numbers)) for key in keys])
        if len(numbers) < 2:
            raise UserError(
                "all examples have one prompt, which cannot be both train and validation; add other prompts"
            )
        order = np.random.default_rng(SUBSET_SEED).permutation(len(numbers))
        totals = np.cumsum(np.bincount(groups)[order])
        count = int(np.searchsorted(totals, size * len(examples) if size < 1 else size)) + 1
        is_held_out = np.isin(groups, order[: min(count, len(numbers) - 1)])
        return examples.select(np.flatnonzero(~is_held_out)), examples.select(np.flatnonzero(is_held_out))

    def search_split(self, examples: Dataset, number: int, limit: int) -> tuple[Dataset, Dataset]:
        rest, held_out = self.split(examples, number)
        return subset(rest, limit), held_out


@dataclass(frozen=True)
class PreferenceFormat(Format):
    """Direct preference optimization (Rafailov et al. 2023): which of two answers to a prompt is better.

    The chat template formats prompts of turns, and with `task.chat` also texts; other texts are followed by a line
    break, and their answers end with the end-of-text token. Prompt and answers are tokenized separately, so that both
    answers follow the same tokens.

    The implicit reward of an answer is `task.beta` times the difference of its log-likelihoods under the model and the
    reference (section 4). The prediction of a pair is the margin: the reward of the chosen minus that of the rejected.
    """

    reader = PreferenceReader
    output_kind = "preferences"

    def encode(self, examples: Dataset) -> Encoded:
        """Tokenize the last `task.max_length` tokens of a prompt, and the first `task.max_target_length` of answers.

        `positions` are the lengths of both answers, and whether they are equal after truncation.
        """
        max_prompt, max_answer = self.max_prompt_tokens(self.task.target_length), self.task.target_length
        rows, truncated = [], 0
        for prompt, *answers in zip(*(examples[column] for column in text_columns(self.task)), strict=True):
            (before, chosen), (_, rejected) = (self._ids(prompt, answer) for answer in answers)
            truncated += len(before) > max_prompt or max(len(chosen), len(rejected)) > max_answer
            rows.append((before[-max_prompt:], chosen[:max_answer], rejected[:max_answer]))
            advance(1)
        names = ("prompt_ids", "chosen_ids", "rejected_ids")
        columns = {name: [row[part] for row in rows] for part, name in enumerate(names)}
        return Encoded(
            Dataset.from_dict(columns),
            [2 * len(before) + len(chosen) + len(rejected) for before, chosen, rejected in rows],
            truncated,
            np.zeros(len(rows)),
            np.full(len(rows), True),
            positions=[(len(chosen), len(rejected), chosen == rejected) for _, chosen, rejected in rows],
        )

    def prompts(self, values: Sequence[Any]) -> list[list[int]]:
        """Return the tokens of each prompt, which an answer follows."""
        return [self._ids(value)[0][-self.max_prompt_tokens(self.task.answer_length) :] for value in values]

    @property
    def takes_turns(self) -> bool:
        """Whether a prompt may have several turns: those of texts without a chat template are a text each."""
        return self.task.chat if self.task.chat is not None else self.tokenizer.chat_template is not None

    def encode_turns(self, turns: list[Turn]) -> list[int]:
        """Return the tokens of a prompt of these turns, which an answer follows.

        Raises:
            UserError: the prompts are texts, and there are several turns.
        """
        if self.takes_turns:
            return self._ids(turns)[0]
        if len(turns) > 1:
            raise UserError("the prompts of the run are texts without turns; drop chat.system")
        return self._ids(turns[0]["content"])[0]

    def collator(self) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
        """Return TRL's collator: all prompts with chosen answers, then all with rejected answers."""
        from trl.trainer.dpo_trainer import DataCollatorForPreference

        assert isinstance(self.tokenizer.pad_token_id, int)
        return DataCollatorForPreference(
            self.tokenizer.pad_token_id, pad_to_multiple_of=padding_multiple(self.context_length)
        )

    def decode(self, scores: list[np.ndarray], encoded: Encoded, texts: list[str] | None = None) -> Predictions:
        """Return margins; the scores are both rewards, the log-likelihood of the chosen answer, and its tokens.

        Without a reference, margins are NaN, and the log-likelihoods replace the rewards.
        """
        logps, sizes = np.stack(scores).astype(float), np.array([chosen for chosen, _, _ in encoded.positions])
        rewards, margins = logps, np.full(len(logps), np.nan)
        if set(REFERENCE_COLUMNS) <= set(encoded.inputs.column_names):
            reference = np.array([encoded.inputs[name] for name in REFERENCE_COLUMNS]).T
            rewards = float(self.task.beta or 1) * (logps - reference)
            margins = rewards[:, 0] - rewards[:, 1]
        summary = np.column_stack([rewards, logps[:, 0], sizes])
        return Predictions(margins, list(summary), (-logps[:, 0], sizes))

    def label_counts(self, encoded: Encoded) -> dict[str, Any]:
        equal = sum(is_equal for _, _, is_equal in encoded.positions)
        return {"pairs": len(encoded.positions)} | ({"alike once cut": equal} if equal else {})

    def _ids(self, prompt: Prompt, answer: str | None = None) -> tuple[list[int], list[int]]:
        """Return the tokens of a prompt, and those of an answer, empty without one."""
        if isinstance(prompt, str):
            template = self.task.template
            text = prompt.strip() if template is None else fill_template(template, {self.task.text[0]: prompt})
            if not self.takes_turns:
                before = self.tokenizer(text, verbose=False)["input_ids"]
                after = f"{answer_separator(template)}{answer.lstrip()}" if answer else ""
                return list(before), [*continuations(self.tokenizer, [after])[0], self.end_id]
            prompt = [{"role": "user", "content": text}]
        ensure_chat_template(self.tokenizer)
        if answer is None:
            return encode_prompt(self.tokenizer, prompt), []
        return encode_with_answer(self.tokenizer, [*prompt, {"role": "assistant", "content": answer}])


def check_order(task: TaskConfig, table: Dataset, split: str) -> None:
    """State how many pairs have scores, such as score_chosen and score_rejected, that contradict their order.

    Raises:
        UserError: most training pairs do.
    """
    prompt, better, worse = task.text
    for name in table.column_names:
        other = name.replace(better, worse)
        if other == name or other not in table.column_names or not any(word in name.lower() for word in SCORES):
            continue
        scores = [pair for pair in zip(table[name][:], table[other][:], strict=True) if all(map(_is_number, pair))]
        reverse, equal = (sum(map(compare, *zip(*scores, strict=True))) if scores else 0 for compare in (lt, eq))
        wrong = f"{task.dataset}: {reverse} of {len(scores)} pairs of {split} have a lower {name} than {other}"
        if split == task.splits["train"] and reverse > (len(scores) - equal) / 2:
            raise UserError(refusal(wrong, typed("task.text", [prompt, worse, better]), verb="set"))
        if reverse or equal:
            assume(f"!! {wrong}, and {equal} have equal ones; they are trained in the order of the columns")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def combine_preference(values: Sequence[Prompt], split: str) -> list[Any]:
    """Return the prompt, the chosen and the rejected answer, each empty where it is missing.

    An answer becomes the text of one assistant turn; where an answer is turns, the prompt becomes turns too. An answer
    may be the whole conversation, with the turns of the prompt before its last turn, as in UltraFeedback.

    Raises:
        UserError: an answer does not end with an assistant turn, or its first turns differ from the prompt.
    """
    prompt, *answers = values
    if not any(isinstance(answer, list) for answer in answers):
        return [prompt, *answers]
    if isinstance(prompt, str):
        turns: list[Turn] = [as_turn("user", prompt)] if prompt else []
    else:
        turns = list(prompt)
    return [turns, *(_answer_text(answer, turns, split) for answer in answers)]


def parse_prompt(cell: Any) -> Prompt:
    """Return the text or the turns in a cell; empty where it is missing.

    Raises:
        CellError: a list has other items than turns, or the cell is no text.
    """
    if isinstance(cell, Mapping) and "role" in cell:
        return parse_turns([cell])
    return parse_turns(cell) if isinstance(cell, (list, tuple)) else text_of(cell)


def _answer_text(answer: Prompt, prompt: list[Turn], split: str) -> str:
    """Return the text of an answer, which is that of its last turn."""
    if isinstance(answer, str) or not answer:
        return answer or ""  # type: ignore[return-value]
    *before, last = answer
    if last["role"] != "assistant":
        raise UserError(f"an answer of {split} ends with a turn of {last['role']}; end it with a turn of assistant")
    if before and [_comparable(turn) for turn in before] != [_comparable(turn) for turn in prompt]:
        raise UserError(
            f"the turns before an answer of {split} are not those of its prompt; write the turn of the answer only"
        )
    return last["content"] if last["content"].strip() else ""


def _comparable(turn: Turn) -> tuple[str, str]:
    """Return the role and the words of a turn: copies of a prompt differ in spaces and line breaks."""
    return turn["role"], " ".join(turn["content"].split())
