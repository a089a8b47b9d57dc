"""Conversations, columns and seed tasks as examples and as tokens, and splits that keep instructions together."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from datasets import Dataset
from helpers.conversations import TASK, conversation_examples, table, turns
from transformers import PreTrainedTokenizerBase

from peftkit.config import UserError
from peftkit.data.conversations import (
    ConversationReader,
    encode_prompt,
    encode_with_answer,
    ensure_chat_template,
    unanswered_conversations,
)
from peftkit.data.tables import evaluation_tables, read_file
from peftkit.models.offline import train_tokenizer

COLUMNS = replace(TASK, text=["instruction", "input"], label="output")


def test_every_assistant_turn_is_an_example_with_all_turns_before_it() -> None:
    rows, dropped = conversation_examples(TASK, table({"messages": turns("a?", "b", "c?", "d", system="Be brief.")}))
    assert [row["label"] for row in rows] == ["b", "d"] and dropped == 0
    assert [len(row["messages"]) for row in rows] == [2, 4]
    assert rows["id"] == ["0-0", "0-1"] and rows["group"] == [0, 0]


def test_conversations_without_an_answer_are_dropped_and_counted() -> None:
    rows, dropped = conversation_examples(
        TASK,
        table(
            {"messages": turns("a?", "b")}, {"messages": turns("a?")}, {"messages": turns("a?", " ")},
            {"messages": None}, {"messages": turns("", "b")},
        ),
    )  # fmt: skip
    assert (len(rows), dropped) == (1, 4)
    with pytest.raises(UserError, match="both a prompt and an answer"):
        conversation_examples(TASK, table({"messages": turns("a?")}))


def test_text_parts_of_a_turn_are_joined_and_other_parts_refused_by_type(tmp_path: Path) -> None:
    def ask(*parts: object) -> Dataset:
        first, answer = turns("a?", "b")
        file = tmp_path / "chats.jsonl"
        file.write_text(json.dumps({"messages": [{**first, "content": list(parts)}, answer]}))
        return read_file(file)

    text = {"type": "text", "text": "Name"}
    rows, _ = conversation_examples(TASK, ask(text, {**text, "text": "a river."}))
    assert rows["messages"][0] == [{"role": "user", "content": "Name\na river."}]
    rows, _ = conversation_examples(TASK, ask({"text": "Name", "image_url": None}))
    assert rows["messages"][0][0]["content"] == "Name"
    for other in (
        {"type": "image_url", "image_url": {"url": "x.png"}},
        {"type": "image"},
        {"input_audio": {"data": "x"}},
    ):
        kind = other.get("type") or next(iter(other))
        for parts in ([other], [text, other]):
            with pytest.raises(UserError, match=f"row 1: .*a part of type {kind}.*remove the part"):
                conversation_examples(TASK, ask(*parts))


@pytest.mark.parametrize("flag", [{"weight": 0}, {"train": False}, {"loss": False}])
def test_an_answer_that_is_flagged_carries_no_loss(flag: dict[str, object]) -> None:
    first, answer, *rest = turns("a?", "b", "c?", "d")
    rows, _ = conversation_examples(TASK, table({"messages": [first, {**answer, **flag}, *rest]}))
    assert rows["label"] == ["d"] and [turn["content"] for turn in rows["messages"][0]] == ["a?", "b", "c?"]


def test_columns_and_seed_tasks_give_the_same_conversation() -> None:
    columns = table(
        {"instruction": "Sort.", "input": "b a", "output": "a b"}, {"instruction": "Go.", "input": "", "output": "x"}
    )
    tasks = table(
        {"instruction": "Sort.", "instances": [{"input": "b a", "output": "a b"}]},
        {"instruction": "Go.", "instances": [{"input": "", "output": "x"}]},
    )
    rows, _ = conversation_examples(COLUMNS, columns)
    assert rows["messages"][0] == [{"role": "user", "content": "Sort.\n\nb a"}]
    assert rows["messages"][1] == [{"role": "user", "content": "Go."}] and rows["label"] == ["a b", "x"]
    same, _ = conversation_examples(TASK, tasks)
    assert (same["messages"], same["label"]) == (rows["messages"], rows["label"])


def test_one_instruction_is_never_in_both_splits() -> None:
    rows = [{"id": f"task_{number // 3}", "messages": turns(f"Say {number}.", "yes")} for number in range(60)]
    rows[7]["messages"] = turns("  say 59. ", "no")  # the instruction of another task connects both tasks
    examples, _ = conversation_examples(TASK, table(*rows))
    train, held = ConversationReader(TASK).split(examples, 0.1)
    assert not set(train["group"]) & set(held["group"]) and len(train) + len(held) == 60
    assert examples["group"][7] == examples["group"][59] == examples["group"][6] == examples["group"][57]
    assert len(set(held["group"])) == 2
    with pytest.raises(UserError, match="one instruction cannot be both"):
        ConversationReader(TASK).split(examples.select(range(3)), 0.1)


def test_examples_without_an_id_or_an_instruction_are_separate_groups() -> None:
    rows = [{"id": name, "messages": turns(text, "yes")} for name, text in ((None, "a?"), (None, "b?"), ("x", "c?"))]
    examples, _ = conversation_examples(TASK, table(*rows))
    assert examples["group"] == [0, 1, 2]
    tasks = [{"instruction": "", "instances": [{"input": text, "output": "yes"}] * 2} for text in ("a", "b")]
    examples, dropped = conversation_examples(TASK, table(*tasks, {"instruction": "Go.", "instances": []}))
    assert (examples["group"], dropped) == ([0, 0, 1, 1], 1)


def test_an_error_shows_the_format_of_conversations() -> None:
    for cell in ("a text", [{"from": "human", "value": "a?"}]):
        with pytest.raises(UserError, match=r'write messages as .*"role": "user"'):
            conversation_examples(TASK, table({"messages": cell}))
    with pytest.raises(UserError, match=r"set task.text=\[instruction,input\] task.label=output"):
        conversation_examples(TASK, table({"instruction": "Go.", "input": "", "output": "x"}))


def test_an_answer_at_the_end_is_removed_from_the_prompt() -> None:
    rows, empty, answered = unanswered_conversations(
        TASK, table({"messages": turns("a?", "b", "c?", "d")}, {"messages": turns(" ")}), "rows.jsonl"
    )
    assert [turn["content"] for turn in rows["messages"][0]] == ["a?", "b", "c?"] and (empty, answered) == ([1], 1)
    rows, *_ = unanswered_conversations(TASK, Dataset.from_list([{"messages": "Name a river."}]), "rows.jsonl")
    assert rows["messages"][0] == turns("Name a river.")


def test_search_splits_share_no_instruction() -> None:
    rows = [{"id": f"task_{number // 3}", "messages": turns(f"Say {number}.", "yes")} for number in range(60)]
    examples, _ = conversation_examples(TASK, table(*rows))
    for limit in (None, 20):
        train, held_out = ConversationReader(replace(TASK, max_train_samples=limit)).hold_out(examples, 12)
        assert len(held_out) == 12 and 0 < len(train) <= (limit or 48)
        assert not set(train["group"]) & set(held_out["group"])


def test_the_instruction_of_most_examples_stays_in_train() -> None:
    rows = [{"id": str(max(number, 40)), "messages": turns(f"Say {number}.", "yes")} for number in range(60)]
    examples, _ = conversation_examples(TASK, table(*rows))
    for number in (10, 12):
        train, held_out = ConversationReader(TASK).hold_out(examples, number)
        assert (len(train), len(held_out)) == (60 - number, number)
    rows = [{"id": str(number // 50), "messages": turns(f"Say {number}.", "yes")} for number in range(60)]
    examples, _ = conversation_examples(TASK, table(*rows))
    train, held_out = ConversationReader(replace(TASK, max_train_samples=20)).hold_out(examples, 8)
    assert (len(train), len(held_out)) == (20, 8)
    with pytest.raises(UserError, match=r"leaves 0 of other instructions to train on; set search\.samples=3"):
        ConversationReader(TASK).hold_out(examples, 12)


@pytest.mark.parametrize("named", ["", "chat", "chat/train.parquet"])
def test_data_of_the_offline_generator_is_marked_for_every_path(tmp_path: Path, named: str) -> None:
    made = {"substituted_for": "a/model"}
    (tmp_path / "result.json").write_text(json.dumps({"audit": {"sources": {"model": made}}}))
    (tmp_path / "kept.jsonl").touch()
    (tmp_path / "chat").mkdir()
    Dataset.from_list([{"messages": turns("Name a film.", "the great film")}] * 2).to_parquet(
        tmp_path / "chat/train.parquet"
    )
    _, origin = evaluation_tables(replace(TASK, dataset=str(tmp_path / named)), None, "offline")
    assert origin.substituted_for == "tasks by a/model"


TURNS = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Name a river."},
    {"role": "assistant", "content": "The Elbe."},
]
STRICT = (
    "{% for turn in messages %}{% if turn.role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    "<{{ turn.role }}>{{ turn.content }}</>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
REWRITES = (  # an incomplete turn starts with a thought, a complete one does not
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
    prompt, answer = encode_with_answer(tokenizer, TURNS)
    assert tokenizer.decode(prompt) == "Be brief.\n\n### Instruction:\nName a river.\n\n### Response:\n"
    assert tokenizer.decode(answer[:-1]) == "The Elbe." and answer[-1] == tokenizer.eos_token_id
    assert prompt == encode_prompt(tokenizer, TURNS[:-1])


def test_an_existing_template_is_kept(tokenizer: PreTrainedTokenizerBase) -> None:
    tokenizer.chat_template = STRICT
    ensure_chat_template(tokenizer)
    prompt, answer = encode_with_answer(tokenizer, TURNS[1:])
    assert tokenizer.decode(prompt) == "<user>Name a river.</><assistant>"
    assert tokenizer.decode(answer) == "The Elbe.</>"


def test_an_answer_follows_the_header_of_a_template_that_renders_incomplete_turns_differently(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    tokenizer.chat_template = REWRITES
    prompt, answer = encode_with_answer(tokenizer, TURNS[1:])
    assert tokenizer.decode(prompt).endswith("<assistant>think:")
    assert tokenizer.decode(answer[:-1]) == "The Elbe." and answer[-1] == tokenizer.eos_token_id


def test_turns_that_a_template_rejects_raise_an_error(tokenizer: PreTrainedTokenizerBase) -> None:
    tokenizer.chat_template = STRICT
    with pytest.raises(UserError, match="rejects turns of system, user: no system"):
        encode_prompt(tokenizer, TURNS[:-1])
