"""Turns of chats: read from cells, each with a role and a text, and weights."""

from collections.abc import Mapping, Sequence
from typing import Any

from peftkit.data.cells import CellError, describe, text_of

Turn = dict[str, str]  # role (system, user or assistant) and content
HINT = 'write messages as [{"role": "user", "content": "Name a river."}, {"role": "assistant", "content": "The Elbe."}]'
LOSS_FLAGS = ("train", "loss", "trainable")  # of a turn that carries no loss where it is false, as OpenAI's weight 0
ROLES = ("system", "developer", "user", "assistant")
TOOL_ROLES, TOOL_KEYS = ("tool", "function", "ipython"), ("tool_calls", "function_call", "tool_call_id")
TEXT_PARTS = ("text", "input_text", "output_text")  # of a content that is a list, by OpenAI's names
OTHER_KEYS = ("reasoning_content", "reasoning", "thinking", "images", "image", "audio", "videos")  # parts of an answer


def user_turn(texts: Sequence[str]) -> list[Turn]:
    """Return the user turn: the texts that are not empty, separated by blank lines."""
    return [as_turn("user", "\n\n".join(text.strip() for text in texts if text))]


def parse_turns(cell: Any) -> list[Turn]:
    """Return the turns in a cell, with role and content only.

    Raises:
        CellError: the cell is no list of turns, or a turn has more than a text.
    """
    if cell is None:
        return []
    is_list = isinstance(cell, list | tuple) and all(isinstance(turn, Mapping) for turn in cell)
    if not is_list or not all(isinstance(turn.get("role"), str) for turn in cell):
        raise CellError(f"{describe(cell)}, not a conversation; {HINT}")
    return [as_turn(turn["role"], _content(turn)) for turn in cell]


def make_contents_uniform(cells: Sequence[Any]) -> None:
    """Write the texts of turns as lists of parts where other turns have lists: a column of Arrow cannot mix them."""
    nested = [turn for cell in cells for turn in (cell if isinstance(cell, list) else [cell])]
    turns = [turn for turn in nested if isinstance(turn, dict) and "role" in turn]
    if any(isinstance(turn.get("content"), list) for turn in turns):
        for turn in turns:
            if isinstance(turn.get("content"), str):
                turn["content"] = [{"type": "text", "text": turn["content"]}]


def turn_weights(cell: Any) -> list[int]:
    """Return the weight of each turn in a cell: 0 for an answer without loss, else 1.

    Raises:
        CellError: a weight is neither 0 nor 1.
    """
    weights = [1 if turn.get("weight") is None else turn["weight"] for turn in cell or []]
    if wrong := [weight for weight in weights if weight not in (0, 1)]:
        raise CellError(f"a turn with weight {wrong[0]}; write 0 (no loss) or 1")
    is_context = [any(turn.get(flag) is False for flag in LOSS_FLAGS) for turn in cell or []]
    return [0 if left_out else int(weight) for weight, left_out in zip(weights, is_context, strict=True)]


def _content(turn: Mapping[str, Any]) -> str:
    """Return the text of a turn.

    Raises:
        CellError: the turn calls a tool or is its answer, or has another role, an image or a thought.
    """
    role, content = turn["role"], turn.get("content")
    if role in TOOL_ROLES or any(turn.get(key) for key in TOOL_KEYS):
        raise CellError(
            "a tool call or the answer of a tool, which the prompt would lack; remove the example, "
            "or write calls and answers as the content of turns of assistant and user"
        )
    if role not in ROLES:
        raise CellError(f"a turn of {role}; use the roles {', '.join(ROLES)}")
    if others := [key for key in OTHER_KEYS if turn.get(key)]:
        raise CellError(f"a turn with {others[0]}, which the text would lack; write it in content, or remove it")
    try:
        if isinstance(content, list) and all(isinstance(part, Mapping) for part in content):
            return "\n".join(map(_part, content))
        return text_of(content)
    except CellError as error:
        raise CellError(f"the content of a turn is {error}") from None


def _part(part: Mapping[str, Any]) -> str:
    """Return the text of a part of a content, {"type": "text", "text": ...}.

    Raises:
        CellError: the part is an image or another type.
    """
    kind = part.get("type") or "text"
    others = [key for key, value in part.items() if key not in ("type", "text") and value]
    if kind not in TEXT_PARTS or (others and not part.get("text")):
        named = kind if kind not in TEXT_PARTS else others[0]
        raise CellError(
            f"a list with a part of type {named}, which the text would lack; remove the part or the example"
        )
    return text_of(part.get("text"))


def as_turn(role: str, content: str) -> Turn:
    """Return a turn, without outer whitespace."""
    return {"role": role, "content": content.strip()}


def has_prompt(turns: Sequence[Turn]) -> bool:
    """Return whether a user turn has a text."""
    return any(turn["role"] == "user" and turn["content"].strip() for turn in turns)
