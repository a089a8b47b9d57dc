"""Conversations: read from chat turns, columns or tasks of Self-Instruct, and tokenized by a chat template."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import count, dropwhile
from typing import Any

import numpy as np
from datasets import Dataset, Features, List, Value
from jinja2.exceptions import TemplateError
from transformers import PreTrainedTokenizerBase

from peftkit.config import Refusal, TaskConfig, UserError, label_columns, refusal
from peftkit.config.console import log
from peftkit.data.cells import ids_of, parse_cells, text_of
from peftkit.data.columns import ID, ROW, require_columns, text_columns
from peftkit.data.datasets import SUBSET_SEED, VALIDATION_SHARE, ExampleReader
from peftkit.data.turns import Turn, as_turn, has_prompt, parse_turns, turn_weights, user_turn

MESSAGES = List({"role": Value("string"), "content": Value("string")})
EXAMPLE = Features({"id": Value("string"), "messages": MESSAGES, "label": Value("string"), "group": Value("int64")})
# for tokenizers without a template; a user turn always ends with the header of the answer
TEMPLATE = (
    "{% for turn in messages %}"
    "{% if turn.role == 'user' %}{{ '### Instruction:\n' + turn.content + '\n\n### Response:\n' }}"
    "{% elif turn.role == 'assistant' %}{{ turn.content + eos_token }}{% if not loop.last %}{{ '\n\n' }}{% endif %}"
    "{% else %}{{ turn.content + '\n\n' }}{% endif %}"
    "{% endfor %}"
)


class ConversationReader(ExampleReader):
    """Reads one example for each answer of an assistant; splits keep all examples of an instruction together."""

    def read(self, table: Dataset, names: list[str] | None, split: str) -> tuple[Dataset, int]:
        """Return one example for each assistant turn, and the number of dropped ones, whose prompt or answer is empty.

        An example has the turns before it (messages), the turn itself (label), and the number of its instruction
        (group): rows with equal instructions, or with equal ids, have one number. A row without an assistant turn
        counts as one dropped example.

        Raises:
            UserError: the table has none of the supported formats, or no prompt with an answer.
        """
        found: list[tuple[str, list[Turn], str, tuple[int, str, str]]] = []
        dropped = without_loss = 0
        names_of = [str(name) for name in table[ID][:]]
        name = self.task.id or "id"
        row_ids = ids_of(table[name], f"column {name}") if name in table.column_names else [None] * len(table)
        for number, instruction, turns, weights in self.conversations(table, split):
            answers = [index for index, turn in enumerate(turns) if turn["role"] == "assistant"]
            kept = [index for index in answers if turns[index]["content"].strip() and has_prompt(turns[:index])]
            dropped += len(answers) - len(kept) if answers else 1
            without_loss += sum(weights[index] == 0 for index in kept)
            key = (number, "" if row_ids[number] is None else str(row_ids[number]), instruction)
            found += [
                (names_of[number], turns[:index], turns[index]["content"].strip(), key)
                for index in kept
                if weights[index]
            ]
        if without_loss:
            log(f"   {without_loss} answers of {split} have weight 0: they are context, without loss or score")
        if not found:
            raise UserError(
                f"no row of task={self.task.name} has both a prompt and an answer; check task.text and task.label"
            )
        ids, messages, labels, keys = (list(column) for column in zip(*found, strict=True))
        counts = Counter(ids)
        numbers: dict[str, Iterator[int]] = defaultdict(count)
        ids = [f"{name}-{next(numbers[name])}" if counts[name] > 1 else name for name in ids]
        columns = {"id": ids, "messages": messages, "label": labels, "group": _components(keys)}
        return Dataset.from_dict(columns, features=EXAMPLE), dropped

    def conversations(self, table: Dataset, split: str) -> Iterator[tuple[int, str, list[Turn], list[int]]]:
        """Yield the row number from 0, the instruction, the turns and the weights of turns of each conversation.

        With `task.label`, the columns of `task.text` are the user turn, and that of `task.label` is the assistant turn.
        Otherwise `task.text` is a column of turns; where the table lacks it, the rows are tasks in the format of
        Self-Instruct, and each instance is a conversation.
        """
        task, columns = self.task, text_columns(self.task)
        if task.label is not None:
            require_columns(task, table, [*columns, *label_columns(task)])
            texts = zip(*(self.parse_column(table, column, split) for column in columns), strict=True)
            for number, (row, label) in enumerate(zip(texts, self.parse_labels(table, split, text_of), strict=True)):
                yield number, row[0].strip(), [*user_turn(row), as_turn("assistant", label)], [1, 1]
        elif columns[0] not in table.column_names and {"instruction", "instances"} <= set(table.column_names):
            yield from self._self_instruct(table, split)
        else:
            if columns[0] not in table.column_names and {"instruction", "output"} <= set(table.column_names):
                names = ",".join(name for name in ("instruction", "input") if name in table.column_names)
                shown = [name for name in table.column_names if name not in (ID, ROW)]
                wrong = f"task={task.name} reads the column {columns[0]}, but there are {', '.join(shown)}"
                raise UserError(refusal(wrong, f"task.text=[{names}] task.label=output", verb="set"))
            require_columns(task, table, columns[:1])
            for number, (turns, weights) in enumerate(self.parse_column(table, columns[0], split)):
                yield number, next((turn["content"] for turn in turns if turn["role"] == "user"), ""), turns, weights

    def parse_text(self, cell: Any) -> Any:
        """Return the text of a cell; of a column of turns, the turns and their weights."""
        return text_of(cell) if self.task.label is not None else (parse_turns(cell), turn_weights(cell))

    def _self_instruct(self, table: Dataset, split: str) -> Iterator[tuple[int, str, list[Turn], list[int]]]:
        def parse(row: Mapping[str, Any]) -> tuple[str, list[tuple[str, str]]]:
            cases = row["instances"] or []
            pairs = [(text_of(case.get("input")), text_of(case.get("output"))) for case in cases]
            return text_of(row["instruction"]).strip(), pairs

        place = f"{self.task.dataset}: columns instruction and instances of {split}"
        for number, (instruction, cases) in enumerate(parse_cells(table, parse, place, table[ROW])):
            if not cases:
                yield number, instruction, [], []  # counted as dropped
            for given, output in cases:
                yield number, instruction, [*user_turn([instruction, given]), as_turn("assistant", output)], [1, 1]

    def read_single_table(
        self, table: Dataset, names: list[str] | None, wanted: Sequence[str]
    ) -> tuple[dict[str, Dataset], dict[str, int]]:
        *train, validation = wanted
        examples, dropped = self.read(table, names, wanted[0])
        rest, held_out = self.split(examples, VALIDATION_SHARE)
        return {**dict.fromkeys(train, rest), validation: held_out}, dict.fromkeys(train or [validation], dropped)

    def split(self, examples: Dataset, size: float, use: str = "validation") -> tuple[Dataset, Dataset]:
        """Split off a share of the instructions, at least one, with all their examples.

        Raises:
            UserError: there is only one instruction.
        """
        groups = np.asarray(examples["group"])
        unique = np.unique(groups)
        if len(unique) < 2:
            raise UserError("one instruction cannot be both train and validation; add examples with other instructions")
        chosen = np.random.default_rng(SUBSET_SEED).permutation(unique)[: max(1, round(size * len(unique)))]
        is_held_out = np.isin(groups, chosen)
        return examples.select(np.flatnonzero(~is_held_out)), examples.select(np.flatnonzero(is_held_out))

    def search_split(self, examples: Dataset, number: int, limit: int) -> tuple[Dataset, Dataset]:
        shuffled = examples.shuffle(seed=SUBSET_SEED)
        rest, held_out = _whole_groups(list(shuffled["group"]), number)
        if len(rest) < number / 4:
            fewer = f"search.samples={max(1, number // 4)}"
            message = (
                f"search.samples={number} of {len(examples)} training examples leaves {len(rest)} of other "
                f"instructions to train on; set {fewer}, or add other instructions"
            )
            raise UserError(Refusal(message, fewer))
        return shuffled.select(rest[:limit]).flatten_indices(), shuffled.select(held_out).flatten_indices()


def unanswered_conversations(task: TaskConfig, table: Dataset, place: str) -> tuple[Dataset, list[int], int]:
    """Return the conversations to answer, the indices of those without a prompt, and how many ended with an answer.

    A text instead of turns is a user turn. Assistant turns at the end are removed.

    Args:
        place: of the table, for messages.
    """
    columns = text_columns(task)
    parse = text_of if task.label is not None else parse_unanswered
    cells: list[list[Any]] = [parse_cells(table[name][:], parse, f"{place}: column {name}") for name in columns]
    parsed = [user_turn(texts) for texts in zip(*cells, strict=True)] if task.label is not None else cells[0]
    messages = [[*dropwhile(lambda turn: turn["role"] == "assistant", turns[::-1])][::-1] for turns in parsed]
    empty = [number for number, turns in enumerate(messages) if not has_prompt(turns)]
    examples = {
        "id": list(map(str, range(len(messages)))),
        "messages": [turns or [as_turn("user", "")] for turns in messages],
        "label": [None] * len(messages),
        "group": range(len(messages)),
    }
    answered = sum(len(before) < len(turns) for before, turns in zip(messages, parsed, strict=True))
    return Dataset.from_dict(examples, features=EXAMPLE), empty, answered


def parse_unanswered(cell: Any) -> list[Turn]:
    """Return the turns of a conversation to answer; a text is a user turn.

    Raises:
        CellError: the cell is neither.
    """
    return [as_turn("user", cell)] if isinstance(cell, str) else parse_turns(cell)


def ensure_chat_template(tokenizer: PreTrainedTokenizerBase) -> None:
    """Set the chat template of peftkit on a tokenizer without one; it is saved with the tokenizer."""
    if tokenizer.chat_template is None:
        tokenizer.chat_template = TEMPLATE


def encode_with_answer(tokenizer: PreTrainedTokenizerBase, turns: list[Turn]) -> tuple[list[int], list[int]]:
    """Return the tokens of the prompt and those of the last turn, with the end of turn of the template.

    Raises:
        UserError: the template does not support the roles of the turns, such as system.
    """
    before, whole = encode_prompt(tokenizer, turns[:-1]), encode_prompt(tokenizer, turns, add_header=False)
    if whole[: len(before)] == before:
        return before, whole[len(before) :]
    # the template renders an incomplete turn differently from a complete one
    answer = tokenizer(turns[-1]["content"], add_special_tokens=False)["input_ids"]
    return before, [*answer, *([] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id])]


def encode_prompt(tokenizer: PreTrainedTokenizerBase, turns: list[Turn], add_header: bool = True) -> list[int]:
    """Return the tokens of all turns, and of the header of the answer."""
    try:
        out: Any = tokenizer.apply_chat_template(turns, add_generation_prompt=add_header, return_dict=True)
    except TemplateError as error:
        roles = ", ".join(turn["role"] for turn in turns)
        raise UserError(
            f"the tokenizer's chat template rejects turns of {roles}: {error}; remove such turns"
        ) from error
    return list(out["input_ids"])


def _whole_groups(groups: Sequence[int], number: int) -> tuple[list[int], list[int]]:
    """Return indices of examples to train on, and of `number` others that share no instruction (group) with them.

    Whole groups are held out as long as they fit; of one more, the smallest, surplus examples are dropped.
    """
    sizes = Counter(groups)
    remaining = number
    chosen: set[int | None] = set()
    for group, size in sizes.items():
        if size <= remaining:
            chosen.add(group)
            remaining -= size
    divided = min(sizes.keys() - chosen, key=lambda group: (sizes[group], group)) if remaining else None
    held_out = [index for index, group in enumerate(groups) if group in chosen]
    surplus = [index for index, group in enumerate(groups) if group == divided]
    taken = {*held_out, *surplus}
    return [index for index in range(len(groups)) if index not in taken], sorted(held_out + surplus[:remaining])


def _components(keys: Sequence[tuple[int, str, str]]) -> list[int]:
    """Return the connected component of each example; equal rows, ids or instructions connect examples.

    Empty ids and instructions connect nothing.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    first: dict[tuple[str, str | int], int] = {}
    edges = [
        (index, first.setdefault(key, index))
        for index, (row, name, instruction) in enumerate(keys)
        for key in (("row", row), ("id", name), ("instruction", " ".join(instruction.casefold().split())))
        if key[1] != ""
    ]
    graph = coo_array((np.ones(len(edges)), tuple(zip(*edges, strict=True))), shape=(len(keys), len(keys)))
    return connected_components(graph, directed=False)[1].tolist()  # type: ignore[no-any-return]
