"""Evol-Instruct evolves a pool, eliminates failed evolutions, and tries their origins again."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from helpers.scripted import Scripted, fill, written

from peftkit.generation.evol_instruct import OPERATIONS, check_answer, check_difference, check_evolution, evol_instruct
from peftkit.generation.filters import Rejection
from peftkit.generation.generators import Reply
from peftkit.generation.instruction_tasks import SEEDS, read_tasks

WIDE = {"max_rouge_l": 1.0, "instruction_length": [3, 400], "blacklist": []}


def rows(folder: Path, name: str) -> list[dict]:
    return [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().split("\n") if line]


def test_each_evolution_starts_from_the_last_and_all_are_kept(tmp_path: Path) -> None:
    pool, _, ended = fill(tmp_path, evol_instruct, Scripted(), num_instructions=900, evolutions=2, **WIDE)
    assert ended == "evolutions"
    kept = rows(tmp_path, "kept")
    made = {row["id"]: row["made"] for row in kept}
    assert {entry["operation"] for entry in made.values()} == {*OPERATIONS}
    second = [entry for entry in made.values() if entry["evolution"] == 2]
    assert any(entry["of"] in made for entry in second)  # from an evolved task
    assert any(entry["of"] not in made for entry in second)  # from a seed whose first evolution failed
    assert {"nothing_new", "cannot_answer"} <= {*pool.reasons}
    assert len(kept) + sum(pool.reasons.values()) == 2 * len(read_tasks(SEEDS))


def test_a_resumed_run_writes_the_same_files(tmp_path: Path) -> None:
    fill(tmp_path / "one", evol_instruct, Scripted(), num_instructions=70, **WIDE)
    for target in (10, 30, 70):
        fill(tmp_path / "other", evol_instruct, Scripted(backwards=True), num_instructions=target, **WIDE)
    assert written(tmp_path / "one") == written(tmp_path / "other")


def test_phrases_of_the_prompt_eliminate_an_evolution(tmp_path: Path) -> None:
    def changed(reply: Reply) -> Reply:
        return replace(reply, text=f"The given task was easy, number {reply.number}.")

    pool, _, ended = fill(tmp_path, evol_instruct, Scripted(changed=changed), patience=3, **WIDE)
    assert (ended, pool.reasons) == ("patience", Counter(words_of_the_prompt=3 * pool.settings.batch))


@pytest.mark.parametrize(
    ("text", "finish", "reason"),
    [
        ("I'm sorry, I can't help with that.", "stop", "cannot_answer"),
        ("Sorry is a word of one line. " + "It is old. " * 40, "stop", None),
        ("... and the!", "stop", "says_nothing"),
        ("", "stop", "empty_reply"),
        ("A good answer that", "length", "cut_off"),
        ("42", "stop", None),
    ],
)
def test_answers_that_show_inability(text: str, finish: str, reason: str | None) -> None:
    rejection = check_answer(Reply(0, text, finish, 1, 1))
    assert (rejection.reason if rejection else None) == reason


def test_failed_evolutions() -> None:
    def check(text: str) -> Rejection | None:
        return check_evolution(Reply(0, text, "stop", 1, 1), text, "Name a river.")

    assert check("Name a long river.") is None
    assert check("name a  river.") == Rejection("unchanged")
    assert check("The evolved task is to name two.") == Rejection("words_of_the_prompt", "evolved task")
    assert check("") == Rejection("empty_reply")
    assert check_difference(Reply(0, " Equal.", "stop", 1, 1)) is not None
    assert check_difference(Reply(0, "Different", "stop", 1, 1)) is None
