"""Self-Instruct fills a pool and parses replies: what is kept depends on seed and replies, rejections have reasons."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
from helpers.scripted import SETTINGS, Scripted, fill, written
from rouge_score import rouge_scorer

from peftkit.config import UserError
from peftkit.generation.filters import REASONS, Rejection
from peftkit.generation.generators import Reply
from peftkit.generation.instruction_tasks import SEEDS, Instance, InstructionTask, read_tasks
from peftkit.generation.self_instruct import (
    classification_examples,
    classification_prompt,
    instances_prompt,
    new_tasks_prompt,
    parse_instances,
    parse_instructions,
    parse_yes_no,
    self_instruct,
)


def rows(folder: Path, name: str) -> list[dict]:
    return [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().split("\n") if line]


def test_six_seeds_and_two_kept_tasks_are_shown() -> None:
    seeds = read_tasks(SEEDS)
    kept = [InstructionTask(f"k{n}", "k", f"Kept {n}.", (Instance("", "x"),), False) for n in range(5)]
    for count, made in ((0, 0), (1, 1), (5, 2)):
        prompt = new_tasks_prompt(seeds, kept[:count], random.Random(1), SETTINGS)
        assert len(prompt.examples) == 8
        assert sum(": Kept" in example for example in prompt.examples) == made
        assert prompt.question == "Task 9:"


def test_a_classification_shows_labels_first_and_others_inputs_first() -> None:
    seeds = read_tasks(SEEDS)
    by_label = instances_prompt("Judge it.", True, seeds, random.Random(0), 9).text()
    assert by_label.endswith("Task: Judge it.\nLabel:") and "\nLabel: " in by_label and "Output:" not in by_label
    by_input = instances_prompt("Say it.", False, seeds, random.Random(0), 9).text()
    assert by_input.endswith("Task: Say it.\nInput:") and "\nOutput: " in by_input and "Label:" not in by_input
    asked = classification_prompt("Say it.", classification_examples(seeds, random.Random(0))).text()
    assert (asked.count("Classification: Yes"), asked.count("Classification: No")) == (12, 19)


def test_kept_tasks_are_dissimilar_and_every_rejection_has_a_reason(tmp_path: Path) -> None:
    pool, client, ended = fill(tmp_path, self_instruct, Scripted(), num_instructions=80)
    kept, rejected = rows(tmp_path, "kept"), rows(tmp_path, "rejected")
    assert ended == "num_instructions" and len(kept) == len(pool.kept) >= 80
    scorer = rouge_scorer.RougeScorer(["rougeL"])
    texts = [task.instruction for task in pool.seeds] + [row["instruction"] for row in kept]
    for place in range(len(pool.seeds), len(texts)):
        assert all(scorer.score(old, texts[place])["rougeL"].fmeasure < 0.7 for old in texts[:place])
    assert {row["reason"] for row in rejected} <= {*REASONS}
    named = {task.id: task.instruction for task in [*pool.seeds, *pool.kept]}
    similar = [row for row in rejected if row["reason"] == "similar"]
    assert similar
    for row in similar:
        score, _, other = row["detail"].split()
        assert round(scorer.score(named[other], row["instruction"])["rougeL"].fmeasure, 4) == float(score) >= 0.7
    assert client.usage["requests"] == len(
        {reply["number"] for row in rows(tmp_path, "journal") for reply in row["replies"]}
    )


def test_the_order_of_the_replies_changes_nothing(tmp_path: Path) -> None:
    for name, backwards in (("one", False), ("other", True)):
        fill(tmp_path / name, self_instruct, Scripted(backwards))
    assert written(tmp_path / "one") == written(tmp_path / "other")


def test_a_journal_cut_anywhere_leads_to_the_same_files(tmp_path: Path) -> None:
    fill(tmp_path / "whole", self_instruct, Scripted(), num_instructions=20)
    whole = {name: (tmp_path / "whole" / f"{name}.jsonl").read_bytes() for name in ("journal", "kept", "rejected")}
    draw = random.Random(0)
    for number in range(8):
        folder = tmp_path / str(number)
        folder.mkdir()
        share = draw.random()
        for name, data in whole.items():  # kept tasks are written after their replies
            size = int(share * len(data) * (1 if name == "journal" else 0.5))
            (folder / f"{name}.jsonl").write_bytes(data[:size])
        generator = Scripted()
        fill(folder, self_instruct, generator, num_instructions=20)
        assert written(folder) == {name: whole[name] for name in ("kept", "rejected")}
        assert len(generator.requested) == whole["journal"].count(b"\n") - whole["journal"][
            : int(share * len(whole["journal"]))
        ].count(b"\n")


def test_a_higher_number_continues_as_if_set_from_the_start(tmp_path: Path) -> None:
    fill(tmp_path / "two", self_instruct, Scripted(), num_instructions=20)
    for name in ("one", "two"):
        fill(tmp_path / name, self_instruct, Scripted(), num_instructions=60)
    assert written(tmp_path / "one") == written(tmp_path / "two")


def test_other_settings_in_the_same_folder_are_refused(tmp_path: Path) -> None:
    fill(tmp_path, self_instruct, Scripted(), num_instructions=10)
    with pytest.raises(UserError, match="another prompt than this run sends"):
        fill(tmp_path, self_instruct, Scripted(), num_instructions=30, top_p=0.9)


def test_a_candidate_similar_to_a_rejected_one_is_kept(tmp_path: Path) -> None:
    twice = [
        "Compose an ode to the sea with seven lines of verse.",
        "Compose an ode to the sea with nine lines of verse.",
    ]

    def changed(reply: Reply) -> Reply:
        if reply.number < SETTINGS.batch:  # the lists: two similar instructions
            return replace(reply, text=f" {twice[0]}\nTask 10: {twice[1]}" if reply.number == 0 else "")
        if reply.number == SETTINGS.batch + 1:  # the instances of the first: none
            return replace(reply, text="")
        return replace(reply, text="No" if reply.number % 2 == 0 else " none\nOutput: O sea!")

    pool, _, _ = fill(tmp_path, self_instruct, Scripted(changed=changed), num_instructions=1)
    assert [task.instruction for task in pool.kept] == [twice[1]]
    assert "similar" not in pool.reasons and pool.reasons["no_instance"] == 1


def test_budgets_hold_and_are_named(tmp_path: Path) -> None:
    _, client, ended = fill(tmp_path / "tokens", self_instruct, Scripted(), max_tokens=60_000, num_instructions=900)
    assert ended == "max_tokens" and 20_000 < client.usage["tokens_in"] + client.usage["tokens_out"] <= 60_000
    budget = {"max_cost": 0.05, "price_in": 1.0, "price_out": 2.0}
    _, client, ended = fill(tmp_path / "cost", self_instruct, Scripted(), num_instructions=900, **budget)
    assert ended == "max_cost" and 0.01 < client.costs()["cost"] <= 0.05
    pool, _, ended = fill(
        tmp_path / "cost", self_instruct, Scripted(), num_instructions=50
    )  # a higher budget continues
    assert ended == "num_instructions" and len(pool.kept) >= 50


def test_patience_ends_a_run_that_keeps_nothing(tmp_path: Path) -> None:
    pool, _, ended = fill(tmp_path, self_instruct, Scripted(changed=lambda reply: replace(reply, text="")), patience=2)
    assert (ended, pool.kept, pool.reasons) == ("patience", [], {"empty_reply": 2 * SETTINGS.batch})


def test_what_overlaps_an_evaluation_set_is_dropped_and_listed(tmp_path: Path) -> None:
    def overlap(texts: list[str]) -> str | None:
        return "8-gram of x" if any("the" in text.lower().split() for text in texts) else None

    pool, _, _ = fill(tmp_path, self_instruct, Scripted(), overlap=overlap, num_instructions=30)
    for row in rows(tmp_path, "kept"):
        texts = [row["instruction"], *(text for case in row["instances"] for text in case.values())]
        assert not any("the" in text.lower().split() for text in texts)
    assert pool.reasons["contaminated"] and pool.instance_reasons["contaminated"]
    assert all(row["detail"] == "8-gram of x" for row in rows(tmp_path, "rejected") if row["reason"] == "contaminated")


def reply(text: str, finish: str = "stop") -> Reply:
    return Reply(0, text, finish, 1, 1)


@pytest.mark.parametrize(
    "text",
    [
        " Name a river.\nTask 10: Sing of it.\nTask 11: Add\n  three lines.",
        "Task 9: Name a river.\n\nTask 10: Sing of it.\nTask 11: Add three lines.",
        "**Task 9:** Name a river.\n**Task 10:** Sing of it.\n**Task 11:** Add three lines.",
        "9. Name a river.\n10. Sing of it.\n11. Add three lines.",
    ],
)
def test_a_list_is_parsed_in_all_its_formats(text: str) -> None:
    found = parse_instructions(reply(text))
    assert [item for item, _ in found] == ["Name a river.", "Sing of it.", "Add three lines."]
    assert not any(rejection for _, rejection in found)


def test_items_that_are_not_instructions_are_rejected() -> None:
    cut = parse_instructions(reply(" Name a river.\nTask 10: Sing of", "length"))
    assert [rejection and rejection.reason for _, rejection in cut] == [None, "cut_off"]
    assert parse_instructions(reply(" "))[0][1] == Rejection("empty_reply")
    chatty = parse_instructions(reply("Here are eight more:\nTask 9: Name a river."))
    assert [rejection and rejection.reason for _, rejection in chatty] == ["preamble", None]
    many = parse_instructions(reply("".join(f"Task {n}: Name river {n}.\n" for n in range(9, 19))))
    assert [rejection and rejection.reason for _, rejection in many][7:] == [None, "not_asked_for", "not_asked_for"]
    refused = Reply(0, "", "refused", 0, 0, note="400: too long")
    assert parse_instructions(refused)[0][1] == Rejection("refused", "400: too long")


@pytest.mark.parametrize(
    ("text", "answer"), [(" Yes", True), ("no.", False), ("**Yes**, it is", True), ("Classification: No", False)]
)
def test_yes_and_no_are_parsed(text: str, answer: bool) -> None:
    assert parse_yes_no(reply(text, "length")) is answer


def test_an_answer_that_is_neither_is_rejected() -> None:
    rejection = parse_yes_no(reply("It depends."))
    assert rejection == Rejection("type_unclear", "It depends.")


def test_instances_are_parsed_input_first_and_label_first() -> None:
    found, rejections = parse_instances(reply(" none\nOutput: 7\nInput: 2, 4\nOutput: 6,\n8"), by_label=False)
    assert (found, rejections) == ([Instance("", "7"), Instance("2, 4", "6,\n8")], [])
    found, rejections = parse_instances(reply(" good\nInput: I smiled.\nLabel: bad\nInput: I left."), by_label=True)
    assert (found, rejections) == ([Instance("I smiled.", "good"), Instance("I left.", "bad")], [])
    assert parse_instances(reply("Output: bad\nInput: I left."), by_label=True)[0] == [Instance("I left.", "bad")]


def test_cut_and_unpaired_instances_are_rejected() -> None:
    found, rejections = parse_instances(reply(" 1\nOutput: 2\nInput: 3\nOutput: fo", "length"), by_label=False)
    assert (found, [rejection.reason for rejection in rejections]) == ([Instance("1", "2")], ["cut_off"])
    found, rejections = parse_instances(reply(" 1\nInput: 3\nOutput: 4"), by_label=False)
    assert (found, [rejection.reason for rejection in rejections]) == ([Instance("3", "4")], ["malformed_instance"])
    found, rejections = parse_instances(reply(""), by_label=False)
    assert (found, [rejection.reason for rejection in rejections]) == ([], ["malformed_instance"])
