"""Conversations as tokens: with the template of the checkpoint, and with peftkit's where it has none."""

from __future__ import annotations

import pytest
from transformers import PreTrainedTokenizerBase

from peftkit.config import UserError
from peftkit.data.conversations import encode_answered, encode_prompt, ensure_chat_template
from peftkit.models.offline import train_tokenizer

TURNS = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Name a river."},
    {"role": "assistant", "content": "The Elbe."},
]
STRICT = (
    "{% for turn in messages %}{% if turn.role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    "<{{ turn.role }}>{{ turn.content }}</>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
REWRITES = (  # an open turn is told to think, a finished one is not
    "{% for turn in messages %}<{{ turn.role }}>{{ turn.content }}</>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>think:{% endif %}"
)


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerBase:
    return train_tokenizer("gpt2-mini", ["Name a river. Be brief. The Elbe. ### Instruction: Response:"], 400)


def test_a_tokenizer_without_a_template_gets_the_default_and_the_answer_ends_the_text(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    ensure_chat_template(tokenizer)
    read, written = encode_answered(tokenizer, TURNS)
    assert tokenizer.decode(read) == "Be brief.\n\n### Instruction:\nName a river.\n\n### Response:\n"
    assert tokenizer.decode(written[:-1]) == "The Elbe." and written[-1] == tokenizer.eos_token_id
    assert read == encode_prompt(tokenizer, TURNS[:-1])


def test_an_existing_template_is_kept(tokenizer: PreTrainedTokenizerBase) -> None:
    tokenizer.chat_template = STRICT
    ensure_chat_template(tokenizer)
    read, written = encode_answered(tokenizer, TURNS[1:])
    assert tokenizer.decode(read) == "<user>Name a river.</><assistant>"
    assert tokenizer.decode(written) == "The Elbe.</>"


def test_an_answer_follows_the_header_of_a_template_that_renders_open_turns_differently(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    tokenizer.chat_template = REWRITES
    read, written = encode_answered(tokenizer, TURNS[1:])
    assert tokenizer.decode(read).endswith("<assistant>think:")
    assert tokenizer.decode(written[:-1]) == "The Elbe." and written[-1] == tokenizer.eos_token_id


def test_turns_that_a_template_refuses_raise_an_error(tokenizer: PreTrainedTokenizerBase) -> None:
    tokenizer.chat_template = STRICT
    with pytest.raises(UserError, match="refuses turns of system, user: no system"):
        encode_prompt(tokenizer, TURNS[:-1])
