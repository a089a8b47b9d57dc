"""A chat model is prompted for one text at a time; the outputs are its replies to the bare instructions."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from helpers.scripted import SETTINGS, TEXTS, fill, written

from peftkit.generation.chat_prompts import (
    FIRST_WORDS,
    INPUT_REQUIRED,
    classification_turns,
    input_required_prompts,
    input_turns,
    labels_turns,
    new_task_prompts,
    parse_labels,
    parse_new_task,
)
from peftkit.generation.generators import Reply, Request
from peftkit.generation.instruction_tasks import SEEDS, read_tasks
from peftkit.generation.pool import Candidate
from peftkit.generation.self_instruct import classification_examples, self_instruct


class ScriptedChat:
    """A chat model: sampled instructions, every third with an input, of these every second a classification."""

    takes_turns = has_likelihoods = True

    def __init__(self, backwards: bool = False, changed: Callable[[Reply], Reply] = lambda reply: reply) -> None:
        self.backwards, self.changed = backwards, changed
        self.requests: list[Request] = []

    def replies(self, requests: Sequence[Request]) -> Iterator[list[Reply]]:
        for request in reversed(requests) if self.backwards else requests:
            self.requests.append(request)
            yield [self.changed(Reply(request.number, self.text(request), "stop", 1, 1))]

    def text(self, request: Request) -> str:
        question = request.prompt.messages()[-1]["content"]
        draw = random.Random(question)
        if request.prompt.choices == ("Yes", "No"):
            return "Yes" if len(question) % 2 else "No"
        if request.prompt.choices:
            return INPUT_REQUIRED[len(question) % 3 == 0]
        if question.startswith("Write one task"):
            return f" {random.Random(request.seed).choice(TEXTS)}"
        if "List the possible answers" in question:
            return "good, bad"
        return f"Text {draw.randrange(10**9)}"


def kept(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "kept.jsonl").read_text().split("\n") if line]


def test_one_instruction_is_requested_after_seeds_as_earlier_turns() -> None:
    seeds = read_tasks(SEEDS)
    prompts = new_task_prompts(seeds, [random.Random(number) for number in range(5)], SETTINGS)
    messages = prompts[0].messages()
    assert [turn["role"] for turn in messages] == ["user", "assistant"] * 4 + ["user"]
    assert {turn["content"] for turn in messages[1::2]} <= {" ".join(seed.instruction.split()) for seed in seeds}
    assert all("Reply with the task only" in turn["content"] for turn in messages[::2])
    assert {prompt.turns for prompt in prompts} == {prompts[0].turns}  # a cache is shared
    assert len({prompt.question for prompt in prompts}) > 1 and {prompt.prefix for prompt in prompts} <= {*FIRST_WORDS}


def test_examples_are_turns() -> None:
    seeds = read_tasks(SEEDS)
    asked = classification_turns("Sing it.", classification_examples(seeds, random.Random(0)))
    assert asked.choices == ("Yes", "No") and asked.messages()[0]["content"].startswith("A classification task has")
    assert [turn["content"] for turn in asked.messages()[1::2]].count("Yes") == 12
    (asked,) = input_required_prompts([Candidate("Sing it.", {})], seeds, random.Random(0))
    given = {" ".join(seed.instruction.split()): bool(seed.instances[0].input) for seed in seeds}
    assert len(asked.turns) == 28 and asked.question == "Sing it."
    assert all(answer == INPUT_REQUIRED[given[question]] for question, answer in asked.turns)
    assert all("," in answer for _, answer in labels_turns(seeds, random.Random(0)))
    inputs = {each.input for seed in seeds for each in seed.instances}
    turns = input_turns(seeds, random.Random(0))
    assert all({answer for _, answer in turns[by_label]} <= inputs for by_label in (False, True))
    assert not any("right answer is" in question for question, _ in turns[False])


def test_seeds_without_inputs_or_labels_suffice() -> None:
    seeds = [replace(seed, is_classification=False) for seed in read_tasks(SEEDS) if not seed.instances[0].input]
    assert labels_turns(seeds, random.Random(0)) == () and input_turns(seeds, random.Random(0)) == {False: (), True: ()}
    (asked,) = input_required_prompts([Candidate("Sing it.", {})], seeds, random.Random(0))
    assert {answer for _, answer in asked.turns} == {INPUT_REQUIRED[False]}


@pytest.mark.parametrize(
    ("text", "rejection"),
    [
        (" three rivers\n of Peru.", None),
        (" it? I'm sorry, but I can't help with that.", "refusal"),
        (" one task for a language model about rivers.", "echo"),
        (" the following:", "preamble"),
        (" ", "empty_reply"),
    ],
)
def test_a_reply_is_one_instruction_or_rejected(text: str, rejection: str | None) -> None:
    (prompt,) = new_task_prompts(read_tasks(SEEDS), [random.Random(0)], SETTINGS)
    prompt = replace(prompt, prefix="Name")
    found, fault = parse_new_task(Reply(0, text, "stop", 1, 1), prompt)
    assert (fault and fault.reason) == rejection
    assert rejection is not None or found == "Name three rivers of Peru."
    assert parse_new_task(Reply(0, " three rivers", "length", 1, 1), prompt)[1] is not None


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("good, bad", ["good", "bad"]),
        ("- solid\n- liquid\n- gas.", ["solid", "liquid", "gas"]),
        ("yes or no", ["yes", "no"]),
        ("a, b, c, d, e", ["a", "b", "c", "d"]),
        ("good", []),
        ("It depends on the text that is given, and on much more", []),
    ],
)
def test_labels_are_parsed(text: str, labels: list[str]) -> None:
    found, rejection = parse_labels(Reply(0, text, "stop", 1, 1))
    assert found == labels and (rejection is None) == bool(labels)


def test_outputs_are_replies_to_bare_instructions_and_labels_come_first(tmp_path: Path) -> None:
    generator = ScriptedChat()
    fill(tmp_path, self_instruct, generator, num_instructions=60)
    sent = {request.number: request.prompt for request in generator.requests}
    kinds = {"alone": 0, "input": 0, "labels": 0}
    for task in kept(tmp_path):
        made, first = task["made"], task["instances"][0]
        if "output_request" in made:
            prompt = sent[made["output_request"]]
            assert (prompt.examples, prompt.turns, prompt.opening, prompt.prefix) == ((), (), "", "")
            assert prompt.question == "\n\n".join(filter(None, (task["instruction"], first["input"])))
            assert ("input_requests" in made) == bool(first["input"])
            kinds["input" if first["input"] else "alone"] += 1
        else:
            assert task["is_classification"] and [each["output"] for each in task["instances"]] == ["good", "bad"]
            prompts = [sent[number] for number in made["input_requests"]]
            assert ["right answer is: good" in prompts[0].question, "right answer is: bad" in prompts[1].question]
            kinds["labels"] += 1
    assert all(kinds.values())


def test_the_order_of_the_replies_and_an_interruption_change_nothing(tmp_path: Path) -> None:
    fill(tmp_path / "one", self_instruct, ScriptedChat())
    fill(tmp_path / "other", self_instruct, ScriptedChat(backwards=True))
    journal = (tmp_path / "one" / "journal.jsonl").read_bytes()
    for share in (0.3, 0.7, 0.95):
        folder = tmp_path / str(share)
        folder.mkdir()
        (folder / "journal.jsonl").write_bytes(journal[: int(share * len(journal))])
        fill(folder, self_instruct, ScriptedChat(backwards=True))
        assert written(folder) == written(tmp_path / "one") == written(tmp_path / "other")


def test_faulty_inputs_and_outputs_are_recorded_with_their_reasons(tmp_path: Path) -> None:
    def changed(reply: Reply) -> Reply:
        if not reply.text.startswith("Text "):
            return reply if reply.text != "good, bad" else replace(reply, text="It depends.")
        faults = ["", "I'm sorry, I can't help with that.", reply.text]
        return replace(reply, text=faults[reply.number % 3], finish="length" if reply.number % 5 == 0 else "stop")

    pool, _, _ = fill(tmp_path, self_instruct, ScriptedChat(changed=changed), num_instructions=25)
    reasons = {"cannot_answer", "refusal", "no_labels", "empty_input", "cut_off", "empty_output"}
    assert reasons <= {*pool.instance_reasons} and pool.reasons["no_instance"]
    assert all(each["output"].startswith("Text ") for task in kept(tmp_path) for each in task["instances"])
