"""Reading of conversations: chat turns, columns of instructions, or tasks in Self-Instruct's format."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from datasets import Dataset, Features, List, Value

from peftkit.config import TaskConfig, UserError
from peftkit.data.chat import Turn
from peftkit.data.examples import OWN_HOLDOUT, SUBSET_SEED, ExampleReader, require_columns

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
    """Return one example for each turn of an assistant, and how many were left out because nothing is said in them.

    An example has all turns before it (messages), the turn itself (label), and the number of its instruction (group):
    rows whose instruction is the same, or whose column id is, have one number. A row without any turn of an assistant
    counts as one that was left out.

    Raises:
        UserError: the table has none of the forms that are read, or nothing in it is answered.
    """
    found: dict[str, list[Any]] = {name: [] for name in EXAMPLE}
    instructions, lost = [], 0
    names = [str(name) for name in table["idx"]]
    own = [_text(name) for name in table["id"]] if "id" in table.column_names else [""] * len(table)
    for number, instruction, turns in conversations(task, table):
        places = [place for place, turn in enumerate(turns) if turn["role"] == "assistant"]
        told = [place for place in places if turns[place]["content"].strip() and _is_asked(turns[:place])]
        lost += len(places) - len(told) if places else 1
        for place in told:
            found["id"].append(names[number])
            found["messages"].append(turns[:place])
            found["label"].append(turns[place]["content"].strip())
            instructions.append((number, own[number], instruction))
    if not instructions:
        raise UserError(f"no row of task={task.name} has both a question and its answer; look at task.text, task.label")
    often, seen = Counter(found["id"]), Counter[str]()
    for place, name in enumerate(found["id"]):
        found["id"][place] = f"{name}-{seen[name]}" if often[name] > 1 else name
        seen[name] += 1
    found["group"] = _components(instructions)
    return Dataset.from_dict(found, features=EXAMPLE), lost


def conversations(task: TaskConfig, table: Dataset) -> Iterator[tuple[int, str, list[Turn]]]:
    """Yield of each conversation the number of its row, its instruction, and its turns.

    Columns: the texts of `task.text` are the user's turn, `task.label` the assistant's. Else a column of turns; or,
    where that is not there, tasks in Self-Instruct's format, each instance of which is a conversation.
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
                yield number, instruction, []  # so that it is counted
            for case in row["instances"] or []:
                asked = "\n\n".join(text for text in (instruction, _text(case.get("input"))) if text)
                yield number, instruction, [_turn("user", asked), _turn("assistant", case.get("output"))]
    else:
        if first not in table.column_names and {"instruction", "output"} <= set(table.column_names):
            columns = ",".join(name for name in ("instruction", "input") if name in table.column_names)
            raise UserError(
                f"task={task.name} reads the column {first}, and there are {', '.join(table.column_names)}; "
                f"set task.text=[{columns}] task.label=output"
            )
        require_columns(task, table, [first])
        for number, turns in enumerate(table[first]):
            read = parse_turns(turns)
            yield number, next((turn["content"] for turn in read if turn["role"] == "user"), ""), read


def open_conversations(task: TaskConfig, table: Dataset) -> tuple[Dataset, list[int], int]:
    """Return the rows that are to be answered, the numbers of those that ask nothing, and how many told the answer.

    A text in the place of turns is a user's; of turns, those of the assistant at their end are left out.
    """
    found, empty, told = [], [], 0
    for number, row in enumerate(table):
        cell = row[task.text[0]]
        turns = user_turn(task, row) if task.label is not None or isinstance(cell, str) else parse_turns(cell)
        told += bool(turns) and turns[-1]["role"] == "assistant"
        while turns and turns[-1]["role"] == "assistant":
            turns = turns[:-1]
        if not _is_asked(turns):
            empty.append(number)
        found.append(turns or [_turn("user", "")])
    columns = {"id": [str(number) for number in range(len(found))], "messages": found, "label": [None] * len(found)}
    return Dataset.from_dict({**columns, "group": range(len(found))}, features=EXAMPLE), empty, told


def user_turn(task: TaskConfig, row: Mapping[str, Any]) -> list[Turn]:
    """Return the user's turn that columns make: their texts with an empty line between, those that are empty left out.

    A text alone, in the place of turns, is a user's turn.
    """
    texts = [_text(row[column]) for column in task.text]
    return [_turn("user", "\n\n".join(text for text in texts if text))]


def parse_turns(cell: Any) -> list[Turn]:
    """Return the turns in a cell, role and content alone."""
    if cell is None:
        return []
    if not isinstance(cell, Sequence) or isinstance(cell, str) or not all(_is_turn(turn) for turn in cell):
        raise UserError(f"{cell!r:.60} is no conversation; {HINT}")
    return [_turn(str(turn["role"]), turn["content"]) for turn in cell]


def split_by_instruction(rows: Dataset, share: float, seed: int) -> tuple[Dataset, Dataset]:
    """Set a share of the instructions apart, at least one, with all of their examples.

    Raises:
        UserError: there is one instruction alone.
    """
    groups = np.asarray(rows["group"])
    known = np.unique(groups)
    if len(known) < 2:
        raise UserError("one instruction cannot be both to train on and to validate; add rows with others")
    chosen = np.random.default_rng(seed).permutation(known)[: max(1, round(share * len(known)))]
    is_apart = np.isin(groups, chosen)
    return rows.select(np.flatnonzero(~is_apart)), rows.select(np.flatnonzero(is_apart))


def _whole_groups(groups: Sequence[int], number: int) -> tuple[list[int], list[int]]:
    """Return indices of examples to train on, and of `number` others that share no instruction (group) with them.

    Groups are set apart whole as long as they fit; of one more, the smallest, surplus examples are dropped.
    """
    places: dict[int, list[int]] = {}
    for place, group in enumerate(groups):
        places.setdefault(group, []).append(place)
    apart: list[int] = []
    chosen: set[int] = set()
    for group, those in places.items():
        if len(apart) + len(those) <= number:
            apart += those
            chosen.add(group)
    if len(apart) < number:
        smallest = min(places.keys() - chosen, key=lambda group: (len(places[group]), group))
        apart += places[smallest][: number - len(apart)]
        chosen.add(smallest)
    return [place for place, group in enumerate(groups) if group not in chosen], sorted(apart)


def _turn(role: str, content: Any) -> Turn:
    return {"role": role, "content": _text(content)}


def _is_turn(turn: Any) -> bool:
    return (
        isinstance(turn, Mapping)
        and isinstance(turn.get("role"), str)
        and isinstance(turn.get("content"), (str, type(None)))
        and "content" in turn
    )


def _is_asked(turns: list[Turn]) -> bool:
    return any(turn["role"] == "user" and turn["content"].strip() for turn in turns)


def _text(cell: Any) -> str:
    return "" if cell is None else str(cell).strip()


def _components(keys: Sequence[tuple[int, str, str]]) -> list[int]:
    """Return a number for each example, the same for those of the same row, name or words, over several too.

    A name or words that are empty join nothing.
    """
    parent = list(range(len(keys)))

    def root(place: int) -> int:
        while parent[place] != place:
            parent[place] = place = parent[parent[place]]
        return place

    first: dict[tuple[str, str | int], int] = {}
    for place, (row, name, instruction) in enumerate(keys):
        for key in (("row", row), ("name", name), ("words", " ".join(instruction.casefold().split()))):
            if key[1] != "":
                parent[root(place)] = root(first.setdefault(key, place))
    numbers: dict[int, int] = {}
    return [numbers.setdefault(root(place), len(numbers)) for place in range(len(keys))]
