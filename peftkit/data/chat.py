"""Chat templates: the prompt tokens and the answer tokens of a conversation."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedTokenizerBase

from peftkit.config import UserError

Turn = dict[str, str]  # role (system, user or assistant) and content

# for tokenizers that come without one; a turn of the user ends where the answer begins, whatever is asked for
TEMPLATE = (
    "{% for turn in messages %}"
    "{% if turn.role == 'user' %}{{ '### Instruction:\n' + turn.content + '\n\n### Response:\n' }}"
    "{% elif turn.role == 'assistant' %}{{ turn.content + eos_token }}{% if not loop.last %}{{ '\n\n' }}{% endif %}"
    "{% else %}{{ turn.content + '\n\n' }}{% endif %}"
    "{% endfor %}"
)


def ensure_chat_template(tokenizer: PreTrainedTokenizerBase) -> None:
    """Give a tokenizer without a chat template peftkit's own, which is saved with it."""
    if tokenizer.chat_template is None:
        tokenizer.chat_template = TEMPLATE


def encode_answered(tokenizer: PreTrainedTokenizerBase, turns: list[Turn]) -> tuple[list[int], list[int]]:
    """Return the tokens up to the last turn, and those of the last turn, which ends as the template ends a turn.

    Raises:
        UserError: the template cannot render the turns, as one without a system's.
    """
    before, whole = (_ids(tokenizer, some, goes_on) for some, goes_on in ((turns[:-1], True), (turns, False)))
    if whole[: len(before)] != before:  # it writes an open turn unlike a finished one
        return before, list(tokenizer(turns[-1]["content"], add_special_tokens=False)["input_ids"]) + _end(tokenizer)
    return before, whole[len(before) :]


def encode_prompt(tokenizer: PreTrainedTokenizerBase, turns: list[Turn]) -> list[int]:
    """Return the tokens of all turns, and of the opening of the answer to them."""
    return _ids(tokenizer, turns, True)


def _ids(tokenizer: PreTrainedTokenizerBase, turns: list[Turn], goes_on: bool) -> list[int]:
    from jinja2.exceptions import TemplateError

    try:
        out: Any = tokenizer.apply_chat_template(turns, add_generation_prompt=goes_on, return_dict=True)
    except TemplateError as error:
        roles = ", ".join(turn["role"] for turn in turns)
        raise UserError(
            f"the tokenizer's chat template refuses turns of {roles}: {error}; leave such turns out"
        ) from error
    return list(out["input_ids"])


def _end(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    return [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
