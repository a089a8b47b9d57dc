"""job=judge: a model compares answers in both orders, behind a real server or in this process."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import peftkit
from peftkit import jobs
from peftkit.cli import check, compose

sys.path.insert(0, str(Path(__file__).resolve().parent / "generate"))

from scripted_server import Server, serving

Words = Callable[..., list[str]]
LONG = "the film is great and the actor sings a long song"


@pytest.fixture(scope="session")
def original(checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run that wrote answers to eight rows, among them one that equals its reference."""
    data, out = (tmp_path_factory.mktemp(name) for name in ("data", "out"))
    rows = [{"text": f"the film {number}", "more": f"is great {number}"} for number in range(8)]
    for split in ("train", "validation"):
        (data / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder,) = peftkit.finetune(
        "task=seq2seq", f"task.dataset={data}", "task.text=[text]", "task.label=more", "task.max_target_length=4",
        "model=t5", f"model.checkpoint={checkpoints['t5']}", "source=embedded", "method=lora", f"out={out}",
        "train.num_train_epochs=1",
    )  # fmt: skip
    return folder


@pytest.fixture
def answered(original: Path, tmp_path: Path) -> Path:
    """Return a run of which three answers are longer than the reference, four shorter, and one is the same."""
    said = [LONG, LONG, LONG, "x", "x", "x", "", "is great 7"]
    return rewritten(original, tmp_path / "runs/t5/lora/seed-0-aaaaaaaa", said)


def rewritten(folder: Path, target: Path, said: list[str]) -> Path:
    """Copy a run, with other answers."""
    shutil.copytree(folder, target)
    table = pq.read_table(folder / "predictions.parquet")
    place = table.column_names.index("prediction")
    pq.write_table(table.set_column(place, "prediction", pa.array(said)), target / "predictions.parquet")
    return target


def first(a: str, b: str) -> str:
    return "Both are fine.\nVerdict: A"


def longer(a: str, b: str) -> str:
    return f"By length.\n\nVerdict: {'A' if len(a) > len(b) else 'B' if len(b) > len(a) else 'tie'}"


def nonsense(a: str, b: str) -> str:
    return "I like verdicts."


@contextmanager
def asking(prefers: Callable[[str, str], str], fault: Callable[[int], Any] = lambda n: None) -> Iterator[Server]:
    """Serve a judge that reads the two answers of a prompt."""

    def reply(number: int, body: dict[str, Any]) -> dict[str, Any]:
        prompt = body["messages"][-1]["content"]
        a, b = re.search(r"=== Answer A\n(.*)\n=== Answer B\n(.*)\n=== Judgement\n", prompt, re.DOTALL).groups()  # type: ignore[union-attr]
        return fault(number) or {"text": prefers(a, b)}

    with serving(reply, pool=10) as server:
        yield server


def judged(server: Server, *words: str) -> tuple[Path, dict[str, Any]]:
    words = (
        "job=judge", "generate.generator=endpoint", "generate.served_model=scripted",
        f"generate.base_url={server.address}", *words,
    )  # fmt: skip
    assert check(words) == []
    folder = jobs.run(compose(words), words)
    assert folder is not None
    return folder, json.loads((folder / "judge.json").read_text())


def test_a_judge_of_length_decides_each_row_and_the_run_keeps_the_figures(
    answered: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with asking(longer) as server:
        folder, found = judged(server, f"run={answered}")
        assert len(server.seen) == 14  # the same text is not asked for
        body = server.seen[0]["body"]
        assert body["temperature"] == 0 and body["max_tokens"] == 512
    assert (found["wins"], found["ties"], found["losses"], found["identical"]) == (3, 1, 4, 1)
    assert found["win_rate"] == 3.5 / 8 and found["sign_test_p"] == 1.0
    assert found["position_bias"] == 0 and found["unparsable"] == 0
    assert found["costs"]["requests"] == 14 and found["meta"]["status"] == "finished"
    rows = [json.loads(line) for line in (folder / "judged.jsonl").read_text().splitlines()]
    assert len(rows) == 8 and {row["verdict"] for row in rows} == {"first", "second", "tie"}
    assert all(row["question"].startswith("the film ") for row in rows)
    (kept,) = json.loads((answered / "result.json").read_text())["judged"].values()
    assert kept["win_rate"] == found["win_rate"] and kept["judge"]["name"] == "scripted"
    shown = capsys.readouterr().out
    assert "win rate      43.8%" in shown and "3 won, 1 tied (1 the same text), 4 lost" in shown


def test_a_judge_that_takes_what_stands_first_decides_nothing(answered: Path) -> None:
    with asking(first) as server:
        _, found = judged(server, f"run={answered}")
    assert (found["wins"], found["ties"], found["losses"]) == (0, 8, 0)
    assert found["position_bias"] == 1.0 and found["swapped"]["for_the_first"] == found["swapped"]["pairs"] == 7
    assert found["win_rate"] == 0.5 and found["sign_test_p"] is None
