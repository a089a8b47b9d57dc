"""A long run has no similar pair among thousands of tasks, and a hundred kills change nothing."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import lru_cache
from multiprocessing import Pool
from pathlib import Path

import pytest
from helpers.scripted_server import serving
from rouge_score import rouge_scorer, tokenizers

from peftkit.generation.filters import REASONS, check_instruction
from peftkit.generation.instruction_tasks import SEEDS, read_tasks

KILLS = 100
SEED_FILE = Path(os.environ.get("SELF_INSTRUCT_SEEDS", SEEDS))  # any file in the paper's format


def command(address: str, out: Path, target: int) -> list[str]:
    return [
        sys.executable, "-m", "peftkit", "recipe=self_instruct", "generate.generator=endpoint", f"generate.base_url={address}",
        "generate.endpoint_model=scripted", f"generate.seeds={SEED_FILE}", f"generate.num_instructions={target}", f"out={out}",
    ]  # fmt: skip


def rows(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text().split("\n") if line]


class Cached(tokenizers.DefaultTokenizer):
    """rouge-score's own tokens, cut once a text."""

    def __init__(self) -> None:
        super().__init__()
        self.tokenize = lru_cache(maxsize=None)(super().tokenize)


def alike(job: tuple[Sequence[str], int]) -> list[tuple[int, int, float]]:
    """Return the pairs of one text with all before it that rouge-score finds too near."""
    texts, place = job
    scorer = rouge_scorer.RougeScorer(["rougeL"], tokenizer=Cached())
    scores = (scorer.score(other, texts[place])["rougeL"].fmeasure for other in texts[:place])
    return [(number, place, score) for number, score in enumerate(scores) if score >= 0.7]


@pytest.mark.slow
def test_two_thousand_tasks_without_a_similar_pair(tmp_path: Path) -> None:
    with serving() as server:
        done = subprocess.run(command(server.address, tmp_path, 2000), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    print(done.stdout)
    (file,) = tmp_path.rglob("kept.jsonl")
    kept, rejected = rows(file), rows(file.with_name("rejected.jsonl"))
    result = json.loads(file.with_name("result.json").read_text())
    assert len(kept) == result["counts"]["kept"] >= 2000
    seeds = read_tasks(SEED_FILE)
    texts = [seed.instruction for seed in seeds] + [row["instruction"] for row in kept]
    with Pool(len(os.sched_getaffinity(0))) as pool:
        jobs = [(texts[: place + 1], place) for place in range(len(seeds), len(texts))]
        found = [pair for pairs in pool.imap_unordered(alike, jobs, 8) for pair in pairs]
    print(f"{sum(range(len(seeds), len(texts))):,} pairs, {len(found)} of them at 0.7 or above")
    assert found == []
    settings = result["run"]["config"]["generate"]
    named = {seed.id: seed.instruction for seed in seeds} | {row["id"]: row["instruction"] for row in kept}
    scorer = rouge_scorer.RougeScorer(["rougeL"])
    for row in rejected:  # every reason is known, and those that can be checked are true
        assert row["reason"] in REASONS and (row["detail"] or row["what"] == "instance")
        if row["reason"] == "similar":
            score, _, other = row["detail"].split()
            assert round(scorer.score(named[other], row["instruction"])["rougeL"].fmeasure, 4) == float(score) >= 0.7
        elif row["what"] == "task" and row["reason"] in (
            "too_short",
            "starts_with_punctuation",
            "not_latin",
            "blacklist",
        ):
            fault = check_instruction(row["instruction"], settings["instruction_length"], settings["blacklist"])
            assert fault is not None and (fault.reason, fault.detail) == (row["reason"], row["detail"])
    listed = sum(len(reply["text"].split("\nTask ")) for reply in lists(file.with_name("journal.jsonl")))
    assert listed == len(kept) + sum(row["what"] == "task" for row in rejected) + result["counts"]["undecided"]


def lists(journal: Path) -> list[dict]:
    """Return the replies that are lists of new instructions."""
    replies = [reply for row in rows(journal) for reply in row["replies"]]
    return [reply for reply in replies if "\nTask " in reply["text"]]


@pytest.mark.slow
def test_a_hundred_kills_change_nothing(tmp_path: Path) -> None:
    draw = random.Random(0)
    asked = 0
    with serving(lambda number, body: {"wait": 0.004}, pool=3000) as server:
        subprocess.run(command(server.address, tmp_path / "unbroken", 450), check=True, capture_output=True)
        (whole,) = (tmp_path / "unbroken").rglob("journal.jsonl")
        lines = whole.read_bytes().count(b"\n")
        once = len(server.seen)
        folder = tmp_path / "killed" / whole.parent.relative_to(tmp_path / "unbroken")
        folder.mkdir(parents=True)
        for number in range(KILLS):
            process = subprocess.Popen(
                command(server.address, tmp_path / "killed", 450), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
            )
            if number % 5 == 4:  # at a moment of the clock: while it starts, or reads the journal again
                moment, pause = 0, draw.uniform(0, 2.5)
            elif number >= KILLS - 8:  # when all is asked: while it writes the rest
                moment, pause = lines, draw.uniform(0, 1.5)
            else:  # spread over the run
                moment, pause = lines * (number + 1) // KILLS, draw.uniform(0, 0.05)
            wait_for(process, folder / "journal.jsonl", moment)
            time.sleep(pause)
            process.send_signal(signal.SIGKILL)
            process.wait()
        asked = len(server.seen) - once
        subprocess.run(command(server.address, tmp_path / "killed", 450), check=True, capture_output=True)
    print(f"{lines} replies, {KILLS} kills, {asked - lines} requests asked again")
    for name in ("kept.jsonl", "rejected.jsonl", "chat/train.parquet", "tasks/train.parquet", "similarity.png"):
        assert (folder / name).read_bytes() == (whole.parent / name).read_bytes(), name
    numbers = [reply["number"] for row in rows(folder / "journal.jsonl") for reply in row["replies"]]
    assert sorted(numbers) == list(range(lines))
    assert asked >= lines


def wait_for(process: subprocess.Popen, journal: Path, lines: int) -> None:
    """Return when the journal has so many lines, or the process is at its end."""
    while process.poll() is None and lines and (not journal.is_file() or journal.read_bytes().count(b"\n") < lines):
        time.sleep(0.002)
