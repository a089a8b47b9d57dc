"""The offline generator replies by prompt and seed only, its answers are correct, and it exercises the filters."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import commands
from helpers.commands import check
from helpers.scripted import SETTINGS, fill, written

from peftkit.data import minitasks
from peftkit.data.miniglue.lexicon import WordSampler
from peftkit.data.minitasks import FAMILIES, TaskFamily, parse_instruction
from peftkit.data.minitasks.cases import NUMBER_WORDS, SLOTS
from peftkit.generation.contamination import EvaluationSets
from peftkit.generation.generators import GenerationPrompt, Reply, Request
from peftkit.generation.generators.offline import OfflineGenerator, offline_revision
from peftkit.generation.instruction_tasks import SEEDS, Instance, read_tasks
from peftkit.generation.self_instruct import (
    instances_prompt,
    new_tasks_prompt,
    parse_instances,
    parse_instructions,
    self_instruct,
)


def send(prompt: GenerationPrompt, seed: int = 0) -> Reply:
    ((reply,),) = OfflineGenerator(minitasks).replies([Request(0, prompt, seed)])
    return reply


def cases(instruction: str, by_label: bool = False) -> list[Instance]:
    prompt = instances_prompt(instruction, by_label, read_tasks(SEEDS), random.Random(0), 512)
    found, _ = parse_instances(send(prompt), by_label)
    assert found
    return found


def test_a_reply_depends_on_prompt_and_seed() -> None:
    prompt = new_tasks_prompt(read_tasks(SEEDS), [], random.Random(0), SETTINGS)
    assert send(prompt, 1) == send(prompt, 1) != send(prompt, 2)
    assert len(parse_instructions(send(prompt, 1))) == 8


def test_the_revision_depends_on_the_output_and_not_on_the_hash_seed() -> None:
    class Other:
        sample_instruction, has_labels = staticmethod(minitasks.sample_instruction), staticmethod(minitasks.has_labels)

        def sample_cases(self, text: str, draw: random.Random) -> list[tuple[str, str]] | None:
            return [(given, f"{answer}!") for given, answer in minitasks.sample_cases(text, draw) or []]

    assert offline_revision(Other()) != offline_revision(minitasks)
    code = (
        "from peftkit.data import minitasks; from peftkit.generation.generators.offline import offline_revision as r; "
    )
    code += "print(r(minitasks))"
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == offline_revision(minitasks)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.wordings[0])
def test_each_wording_is_parsed_as_its_family(family: TaskFamily) -> None:
    draw = random.Random(0)
    for wording in family.wordings:
        text = re.sub(r"\{(\w+)\}", lambda slot: draw.choice(SLOTS[slot[1]]), wording)
        known = parse_instruction(f"In a test, please {text}. Be brief.")
        assert known is not None and known[0] is family
        words = WordSampler(draw, "all")
        assert all(family.sample(words, {**known[1], "label": label}) for label in family.labels or ("",))


def test_answers_are_correct() -> None:
    for case in cases("As a judge would do it, is the number even or odd?", by_label=True):
        assert case.output == ("even", "odd")[int(case.input) % 2]
    for case in cases("Count the words. One line will do."):
        assert case.output == NUMBER_WORDS[len(case.input.split()) - 1]
    for case in cases("Read the row from its end."):
        assert case.output.split() == case.input.split()[::-1]
    for case in cases("Which of the two words comes first in the alphabet?"):
        assert case.output == sorted(case.input.split(", "))[0]
    for case in cases("Write the word three times."):
        assert case.output.split() == case.input.split() * 3
    for case in cases("When did it happen?"):
        assert case.output.lower() in case.input.lower()


def test_a_pool_is_filled_and_the_filters_are_exercised(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("one", "two")]
    for folder in folders:
        folder.mkdir()
        pool, _, ended = fill(folder, self_instruct, OfflineGenerator(minitasks), num_instructions=150)
        assert ended == "num_instructions" and len(pool.kept) >= 150
        assert {"similar", "blacklist", "too_short", "not_latin", "starts_with_punctuation"} <= {*pool.reasons}
        assert {"same_instance", "output_is_input"} & {*pool.instance_reasons}
        assert 0.1 < sum(task.is_classification for task in pool.kept) / len(pool.kept) < 0.5
    assert written(folders[0]) == written(folders[1])


def test_what_overlaps_an_evaluation_set_is_dropped(tmp_path: Path) -> None:
    (tmp_path / "free").mkdir()
    free, _, _ = fill(tmp_path / "free", self_instruct, OfflineGenerator(minitasks), num_instructions=30)
    held = max((case.input for task in free.kept for case in task.instances), key=len)
    sets = EvaluationSets()
    sets.add("held", [[held]])
    pool, _, _ = fill(
        tmp_path,
        self_instruct,
        OfflineGenerator(minitasks),
        num_instructions=30,
        overlap=lambda texts: sets.overlap(texts) and "held",
    )
    assert pool.instance_reasons["contaminated"] + pool.reasons["contaminated"] > 0
    assert not any(held in case.input for task in pool.kept for case in task.instances)


def test_it_replaces_only_the_offline_models(
    checkpoints: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["recipe=self_instruct", "source=offline", f"out={tmp_path}", "generate.num_instructions=5"]
    assert check(words) == []
    folder = commands.run(words)
    assert folder is not None and folder.parent.name == "mini-writer"
    result = json.loads((folder / "result.json").read_text())
    assert result["audit"]["sources"]["model"]["substituted_for"] == "openai-community/gpt2"
    log = capsys.readouterr().err
    assert log.count("mini-writer (offline) replaces openai-community/gpt2") == 2
    assert "replaces openai-community/gpt2" in (folder / "README.md").read_text()
    other = commands.run([*words, "model=t5"])
    assert other == folder  # the same generator, whatever it replaces
    few = ["generate.patience=1", "generate.batch=1", "generate.max_new_tokens=8", "generate.max_answer_tokens=8"]
    real = commands.run([*words, *few, f"generate.model={checkpoints['gpt2']}"])
    assert real is not None and real.parent.name != "mini-writer"
