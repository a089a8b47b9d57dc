"""Chat templates: the prompt tokens and the answer tokens of a conversation."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedTokenizerBase

from peftkit.config import UserError

Turn = dict[str, str]  # role (system, user or assistant) and content

# for tokenizers without a template; a user turn always ends with the header of the answer
TEMPLATE = (
    "{% for turn in messages %}"
    "{% if turn.role == 'user' %}{{ '### Instruction:\n' + turn.content + '\n\n### Response:\n' }}"
    "{% elif turn.role == 'assistant' %}{{ turn.content + eos_token }}{% if not loop.last %}{{ '\n\n' }}{% endif %}"
    "{% else %}{{ turn.content + '\n\n' }}{% endif %}"
    "{% endfor %}"
)


def ensure_chat_template(tokenizer: PreTrainedTokenizerBase) -> None:
    """Set the chat template of peftkit on a tokenizer without one; it is saved with the tokenizer."""
    if tokenizer.chat_template is None:
        tokenizer.chat_template = TEMPLATE


def encode_answered(tokenizer: PreTrainedTokenizerBase, turns: list[Turn]) -> tuple[list[int], list[int]]:
    """Return the tokens of the prompt and those of the last turn, with the end of turn of the template.

    Raises:
        UserError: the template does not support the roles of the turns, such as system.
    """
    before, whole = _ids(tokenizer, turns[:-1], True), _ids(tokenizer, turns, False)
    if whole[: len(before)] != before:  # the template renders an open turn differently from a finished one
        return before, list(tokenizer(turns[-1]["content"], add_special_tokens=False)["input_ids"]) + _end(tokenizer)
    return before, whole[len(before) :]


def encode_prompt(tokenizer: PreTrainedTokenizerBase, turns: list[Turn]) -> list[int]:
    """Return the tokens of all turns and of the header of the answer."""
    return _ids(tokenizer, turns, True)


def _ids(tokenizer: PreTrainedTokenizerBase, turns: list[Turn], add_header: bool) -> list[int]:
    from jinja2.exceptions import TemplateError

    try:
        out: Any = tokenizer.apply_chat_template(turns, add_generation_prompt=add_header, return_dict=True)
    except TemplateError as error:
        roles = ", ".join(turn["role"] for turn in turns)
        raise UserError(
            f"the tokenizer's chat template refuses turns of {roles}: {error}; remove such turns"
        ) from error
    return list(out["input_ids"])


def _end(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    return [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
