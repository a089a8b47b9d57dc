"""Reading of conversations: chat turns, instruction columns, or tasks in the format of Self-Instruct."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from datasets import Dataset, Features, List, Value

from peftkit.config import TaskConfig, UserError
from peftkit.data.chat import Turn
from peftkit.data.datasets import OWN_HOLDOUT, SUBSET_SEED, ExampleReader, require_columns

MESSAGES = List({"role": Value("string"), "content": Value("string")})
EXAMPLE = Features({"id": Value("string"), "messages": MESSAGES, "label": Value("string"), "group": Value("int64")})
HINT = 'write messages as [{"role": "user", "content": "Name a river."}, {"role": "assistant", "content": "The Elbe."}]'


class ConversationReader(ExampleReader):
    """Reads one example for each answer of an assistant; splits keep all examples of an instruction together."""

    def read(self, table: Dataset, names: list[str] | None, split: str) -> tuple[Dataset, int]:
        return conversation_examples(self.task, table)

    def read_alone(
        self, table: Dataset, names: list[str] | None, wanted: Sequence[str]
    ) -> tuple[dict[str, Dataset], dict[str, int]]:
        *train, validation = wanted
        examples, lost = self.read(table, names, validation)
        rest, held_out = self.split(examples, OWN_HOLDOUT)
        return {**dict.fromkeys(train, rest), validation: held_out}, dict.fromkeys(train or [validation], lost)

    def split(self, examples: Dataset, size: float) -> tuple[Dataset, Dataset]:
        return split_by_instruction(examples, size, SUBSET_SEED)

    def search_split(self, examples: Dataset, number: int, limit: int) -> tuple[Dataset, Dataset]:
        shuffled = examples.shuffle(seed=SUBSET_SEED)
        rest, held_out = _whole_groups(shuffled["group"], number)
        if len(rest) < number / 4:
            raise UserError(
                f"search.samples={number} of {len(examples)} training examples leaves {len(rest)} of other "
                f"instructions to train on; set search.samples={max(1, number // 4)}, or add other instructions"
            )
        return shuffled.select(rest[:limit]).flatten_indices(), shuffled.select(held_out).flatten_indices()


def conversation_examples(task: TaskConfig, table: Dataset) -> tuple[Dataset, int]:
    """Return one example for each assistant turn, and the number of dropped ones, whose prompt or answer is empty.

    An example has the turns before it (messages), the turn itself (label), and the number of its instruction (group):
    rows with equal instructions, or with equal ids, have one number. A row without an assistant turn counts as one
    dropped example.

    Raises:
        UserError: the table has none of the supported formats, or no prompt with an answer.
    """
    columns: dict[str, list[Any]] = {name: [] for name in EXAMPLE}
    instructions, lost = [], 0
    names = [str(name) for name in table["idx"]]
    row_ids = [_text(name) for name in table["id"]] if "id" in table.column_names else [""] * len(table)
    for number, instruction, turns in conversations(task, table):
        answers = [index for index, turn in enumerate(turns) if turn["role"] == "assistant"]
        kept = [index for index in answers if turns[index]["content"].strip() and _has_prompt(turns[:index])]
        lost += len(answers) - len(kept) if answers else 1
        for index in kept:
            columns["id"].append(names[number])
            columns["messages"].append(turns[:index])
            columns["label"].append(turns[index]["content"].strip())
            instructions.append((number, row_ids[number], instruction))
    if not instructions:
        raise UserError(f"no row of task={task.name} has both a prompt and an answer; check task.text and task.label")
    counts, seen = Counter(columns["id"]), Counter[str]()
    for index, name in enumerate(columns["id"]):
        columns["id"][index] = f"{name}-{seen[name]}" if counts[name] > 1 else name
        seen[name] += 1
    columns["group"] = _components(instructions)
    return Dataset.from_dict(columns, features=EXAMPLE), lost


def conversations(task: TaskConfig, table: Dataset) -> Iterator[tuple[int, str, list[Turn]]]:
    """Yield the row number, the instruction and the turns of each conversation.

    With `task.label`, the columns of `task.text` are the user turn, and that of `task.label` is the assistant turn.
    Otherwise `task.text` is a column of turns; where the table lacks it, the rows are tasks in the format of
    Self-Instruct, and each instance is a conversation.
    """
    first, *_ = task.text
    if task.label is not None:
        require_columns(task, table, [*task.text, str(task.label)])
        for number, row in enumerate(table):
            yield number, _text(row[first]), [*user_turn(task, row), _turn("assistant", row[task.label])]
    elif first not in table.column_names and {"instruction", "instances"} <= set(table.column_names):
        for number, row in enumerate(table):
            instruction = _text(row["instruction"])
            if not row["instances"]:
                yield number, instruction, []  # counted as dropped
            for case in row["instances"] or []:
                prompt = "\n\n".join(text for text in (instruction, _text(case.get("input"))) if text)
                yield number, instruction, [_turn("user", prompt), _turn("assistant", case.get("output"))]
    else:
        if first not in table.column_names and {"instruction", "output"} <= set(table.column_names):
            columns = ",".join(name for name in ("instruction", "input") if name in table.column_names)
            raise UserError(
                f"task={task.name} reads the column {first}, but there are {', '.join(table.column_names)}; "
                f"set task.text=[{columns}] task.label=output"
            )
        require_columns(task, table, [first])
        for number, turns in enumerate(table[first]):
            read = parse_turns(turns)
            yield number, next((turn["content"] for turn in read if turn["role"] == "user"), ""), read


def open_conversations(task: TaskConfig, table: Dataset) -> tuple[Dataset, list[int], int]:
    """Return the conversations to answer, the indices of those without a prompt, and how many ended with an answer.

    A text instead of turns is a user turn. Assistant turns at the end are removed.
    """
    messages, empty, answered = [], [], 0
    for number, row in enumerate(table):
        cell = row[task.text[0]]
        turns = user_turn(task, row) if task.label is not None or isinstance(cell, str) else parse_turns(cell)
        answered += bool(turns) and turns[-1]["role"] == "assistant"
        while turns and turns[-1]["role"] == "assistant":
            turns = turns[:-1]
        if not _has_prompt(turns):
            empty.append(number)
        messages.append(turns or [_turn("user", "")])
    count = len(messages)
    columns = {"id": [*map(str, range(count))], "messages": messages, "label": [None] * count, "group": range(count)}
    return Dataset.from_dict(columns, features=EXAMPLE), empty, answered


def user_turn(task: TaskConfig, row: Mapping[str, Any]) -> list[Turn]:
    """Return the user turn: the texts of the columns that are not empty, separated by blank lines."""
    texts = [_text(row[column]) for column in task.text]
    return [_turn("user", "\n\n".join(text for text in texts if text))]


def parse_turns(cell: Any) -> list[Turn]:
    """Return the turns in a cell, with role and content only."""
    if cell is None:
        return []
    if not isinstance(cell, Sequence) or isinstance(cell, str) or not all(_is_turn(turn) for turn in cell):
        raise UserError(f"{cell!r:.60} is not a conversation; {HINT}")
    return [_turn(str(turn["role"]), turn["content"]) for turn in cell]


def split_by_instruction(examples: Dataset, share: float, seed: int) -> tuple[Dataset, Dataset]:
    """Split off a share of the instructions, at least one, with all their examples.

    Raises:
        UserError: there is only one instruction.
    """
    groups = np.asarray(examples["group"])
    unique = np.unique(groups)
    if len(unique) < 2:
        raise UserError("one instruction cannot be both train and validation; add examples with other instructions")
    chosen = np.random.default_rng(seed).permutation(unique)[: max(1, round(share * len(unique)))]
    is_held_out = np.isin(groups, chosen)
    return examples.select(np.flatnonzero(~is_held_out)), examples.select(np.flatnonzero(is_held_out))


def _whole_groups(groups: Sequence[int], number: int) -> tuple[list[int], list[int]]:
    """Return indices of examples to train on, and of `number` others that share no instruction (group) with them.

    Whole groups are held out as long as they fit; of one more, the smallest, surplus examples are dropped.
    """
    members: dict[int, list[int]] = {}
    for index, group in enumerate(groups):
        members.setdefault(group, []).append(index)
    held_out: list[int] = []
    chosen: set[int] = set()
    for group, indices in members.items():
        if len(held_out) + len(indices) <= number:
            held_out += indices
            chosen.add(group)
    if len(held_out) < number:
        smallest = min(members.keys() - chosen, key=lambda group: (len(members[group]), group))
        held_out += members[smallest][: number - len(held_out)]
        chosen.add(smallest)
    return [index for index, group in enumerate(groups) if group not in chosen], sorted(held_out)


def _turn(role: str, content: Any) -> Turn:
    return {"role": role, "content": _text(content)}


def _is_turn(turn: Any) -> bool:
    return (
        isinstance(turn, Mapping)
        and isinstance(turn.get("role"), str)
        and isinstance(turn.get("content"), (str, type(None)))
        and "content" in turn
    )


def _has_prompt(turns: list[Turn]) -> bool:
    return any(turn["role"] == "user" and turn["content"].strip() for turn in turns)


def _text(cell: Any) -> str:
    return "" if cell is None else str(cell).strip()


def _components(keys: Sequence[tuple[int, str, str]]) -> list[int]:
    """Return the connected component of each example; equal rows, ids or instructions connect examples.

    Empty ids and instructions connect nothing.
    """
    parent = list(range(len(keys)))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = index = parent[parent[index]]
        return index

    first: dict[tuple[str, str | int], int] = {}
    for index, (row, name, instruction) in enumerate(keys):
        for key in (("row", row), ("id", name), ("instruction", " ".join(instruction.casefold().split()))):
            if key[1] != "":
                parent[root(index)] = root(first.setdefault(key, index))
    numbers: dict[int, int] = {}
    return [numbers.setdefault(root(index), len(numbers)) for index in range(len(keys))]
