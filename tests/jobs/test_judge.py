"""job=judge: a model compares answers in both orders, with a local server or in this process."""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import commands
from helpers.commands import check, compose_config
from helpers.scripted_server import Server, serving
from omegaconf import OmegaConf

from peftkit.config import RunConfig, UserError, config_errors
from peftkit.config.source import Source
from peftkit.data.datasets import load_task_dataset
from peftkit.results import run_folder

Overrides = Callable[..., list[str]]
ENDPOINT = ["job=judge", "generate.generator=endpoint", "generate.endpoint_model=scripted"]
LONG = "the film is great and the actor sings a long song"


@pytest.fixture
def answered(tmp_path: Path) -> Path:
    """Return a run with three answers longer than the reference, four shorter, and one equal to it."""
    rows = [{"text": f"the film {number}", "more": f"is great {number}"} for number in range(8)]
    overrides = data_of(tmp_path, rows, "task=seq2seq", "task.text=[text]", "task.label=more")
    answers = [LONG, LONG, LONG, "x", "x", "x", "", "is great 7"]
    return recorded(tmp_path / "runs/t5/lora/seed-0-aaaaaaaa", overrides, answers)


def data_of(folder: Path, rows: list[dict[str, Any]], *overrides: str) -> list[str]:
    """Write a validation split, and a train split about books; return the overrides of a task that reads them."""
    (folder / "data").mkdir()
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "data/validation.jsonl").write_text(lines)
    (folder / "data/train.jsonl").write_text(lines.replace("film", "book"))
    return [*overrides, f"task.dataset={folder}/data", "source=offline"]


def recorded(folder: Path, overrides: list[str], answers: list[str]) -> Path:
    """Write what judging reads of a run: its result, and its predictions for the validation split."""
    config: Any = OmegaConf.to_container(compose_config([*overrides, "model=t5"]), resolve=True)
    rows = load_task_dataset(RunConfig.from_config(config).task, None, "offline")
    table = rows.splits["validation"]
    labels = [[label] for label in table["label"]]
    columns = {"id": list(table["id"]), "split": ["validation"] * len(answers), "label": labels, "prediction": answers}
    run_folder.write_predictions(folder / "predictions.parquet", {**columns, "scores": [None] * len(answers)})
    sources = {"model": asdict(Source("hub", "t5", "1")) | {"pooling": None}, "data": asdict(rows.source)}
    meta = run_folder.meta(0, "cpu", "fp32") | {"status": "finished", "started": "2026-01-01"}
    scores = {"rouge_l": {"value": 0.5, "higher_is_better": True}}
    audit = {"sources": sources, "rows": {"train": 8}}
    run_folder.write_result(folder, {"run": {"config": config}, "audit": audit, "scores": scores, "meta": meta})
    return folder


def rewritten(folder: Path, target: Path, answers: list[str]) -> Path:
    """Copy a run, with other answers."""
    shutil.copytree(folder, target)
    table = pq.read_table(folder / "predictions.parquet")
    place = table.column_names.index("prediction")
    pq.write_table(table.set_column(place, "prediction", pa.array(answers)), target / "predictions.parquet")
    return target


def first(a: str, b: str) -> str:
    return "Both are fine.\nVerdict: A"


def longer(a: str, b: str) -> str:
    return f"By length.\n\nVerdict: {'A' if len(a) > len(b) else 'B' if len(b) > len(a) else 'tie'}"


def nonsense(a: str, b: str) -> str:
    return "I like verdicts."


@contextmanager
def serving_judge(prefers: Callable[[str, str], str], fault: Callable[[int], Any] = lambda n: None) -> Iterator[Server]:
    """Serve a judge that compares the two answers of a prompt."""

    def reply(number: int, body: dict[str, Any]) -> dict[str, Any]:
        prompt = body["messages"][-1]["content"]
        a, b = re.search(r"=== Answer A\n(.*)\n=== Answer B\n(.*)\n=== Judgement\n", prompt, re.DOTALL).groups()  # type: ignore[union-attr]
        return fault(number) or {"text": prefers(a, b)}

    with serving(reply, pool=10) as server:
        yield server


def judged(server: Server, *overrides: str) -> tuple[Path, dict[str, Any]]:
    overrides = (*ENDPOINT, f"generate.base_url={server.address}", *overrides)
    cfg = compose_config(overrides)
    assert config_errors(OmegaConf.to_container(cfg, resolve=True)) == []  # type: ignore[arg-type]
    folder = commands.run(overrides)
    return folder, json.loads((folder / "judge.json").read_text())


def test_a_judge_of_length_decides_each_example_and_the_run_records_it(
    answered: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving_judge(longer) as server:
        folder, found = judged(server, f"run={answered}")
        assert len(server.seen) == 14  # equal answers need no request
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
    assert "win rate      43.8%" in shown and "3 won, 1 tied (1 identical), 4 lost" in shown


def test_a_judge_that_prefers_the_first_position_decides_nothing(answered: Path) -> None:
    with serving_judge(first) as server:
        _, found = judged(server, f"run={answered}")
    assert (found["wins"], found["ties"], found["losses"]) == (0, 8, 0)
    assert found["position_bias"] == 1.0 and found["swapped"]["for_the_first"] == found["swapped"]["pairs"] == 7
    assert found["win_rate"] == 0.5 and found["sign_test_p"] is None


def test_replies_without_a_verdict_are_ties_with_a_warning(answered: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with serving_judge(nonsense) as server:
        _, found = judged(server, f"run={answered}")
    assert found["unparsable"] == found["replies"] == 14 and found["ties"] == 8
    assert found["position_bias"] is None and found["sign_test_p"] is None
    assert "!! 100% of the replies have no verdict" in capsys.readouterr().err


def test_an_interrupted_judge_continues_and_pays_for_no_reply_twice(answered: Path) -> None:
    stops = {"now": True}
    with serving_judge(longer, lambda number: {"status": 500} if stops["now"] and number >= 6 else None) as server:
        overrides = [f"run={answered}", "generate.retries=0", "generate.batch=2"]
        with pytest.raises(Exception, match="no reply in"):
            judged(server, *overrides)
        (file,) = answered.rglob("judge.json")
        assert json.loads(file.read_text())["meta"]["status"] == "failed"
        journal = file.with_name("journal.jsonl")
        with journal.open("a") as torn:  # as a kill leaves it
            torn.write('{"replies": [{"prom')
        assert "judged" not in json.loads((answered / "result.json").read_text())
        stops["now"], before = False, len(server.seen)
        folder, found = judged(server, *overrides)
        assert folder == file.parent and len(server.seen) - before == 14 - 6
        judged(server, *overrides)
        assert len(server.seen) - before == 14 - 6  # finished already
    with serving_judge(longer) as server:
        _, whole = judged(server, *overrides, "force=true")
        assert len(server.seen) == 14
    assert {**whole, "run": 0, "meta": 0} == {**found, "run": 0, "meta": 0}


def test_a_budget_holds_and_a_higher_one_continues(answered: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with serving_judge(longer) as server:
        overrides = [f"run={answered}", "generate.batch=2", "generate.max_answer_tokens=16"]
        _, found = judged(server, *overrides, "generate.max_tokens=1900")
        sent = len(server.seen)
        assert found["ended"] == "max_tokens" and 0 < found["rows"] < 8 and sent < 14
        assert found["costs"]["tokens_in"] + found["costs"]["tokens_out"] <= 1900
        assert "raise generate.max_tokens to continue" in capsys.readouterr().err
        assert "judged" not in json.loads((answered / "result.json").read_text())  # a part is not recorded in the run
        _, found = judged(server, *overrides, "generate.price_in=1", "generate.price_out=2", "generate.max_cost=1")
    assert found["rows"] == 8 and len(server.seen) == 14 and found["costs"]["cost"] > 0


def test_fewer_examples_are_the_first_of_more(answered: Path) -> None:
    with serving_judge(longer) as server:
        few, found = judged(server, f"run={answered}", "task.max_eval_samples=3")
        assert (found["rows"], found["of"]) == (3, 8)
        ids = [json.loads(line)["id"] for line in (few / "judged.jsonl").read_text().splitlines()]
        all_, found = judged(server, f"run={answered}")
        assert all_ == few and found["rows"] == 8 and len(server.seen) == 14
        lines = (few / "judged.jsonl").read_text()
        assert [json.loads(line)["id"] for line in lines.splitlines()][:3] == ids
        _, found = judged(server, f"run={answered}", "task.max_eval_samples=3")  # removes no verdict
        assert found["rows"] == 8 and (few / "judged.jsonl").read_text() == lines


def test_a_run_trained_again_gets_its_statistics_back_without_requests(answered: Path) -> None:
    with serving_judge(longer) as server:
        judged(server, f"run={answered}")
        result = run_folder.read_result(answered) or {}
        noted = result.pop("judged")
        run_folder.write_result(answered, result)
        sent = len(server.seen)
        judged(server, f"run={answered}")
        assert len(server.seen) == sent and (run_folder.read_result(answered) or {})["judged"] == noted


def test_training_again_keeps_the_folder_of_judges(tmp_path: Path) -> None:
    for name in ("result.json", "checkpoints/1/weights", "judged/one/journal.jsonl"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    run_folder.delete_files(tmp_path)
    assert [file.name for file in tmp_path.rglob("*") if file.is_file()] == ["journal.jsonl"]


def test_two_runs_are_compared(answered: Path, tmp_path: Path) -> None:
    other = rewritten(answered, tmp_path / "runs/t5/ia3/seed-0-bbbbbbbb", ["a fine song now"] * 8)
    with serving_judge(longer) as server:
        folder, found = judged(server, f"runs=[{answered},{other}]", f"out={tmp_path}/out")
        _, turned = judged(server, f"runs=[{other},{answered}]", f"out={tmp_path}/out")
    assert folder.parent == tmp_path / "out/judge" and folder.name.startswith("lora-seed-0-aaaaaaaa--ia3-seed-0-bbbbbb")
    assert (found["wins"], found["ties"], found["losses"]) == (3, 0, 5)
    assert (turned["wins"], turned["losses"]) == (5, 3) and turned["first"] == found["second"]
    assert "judged" not in json.loads((answered / "result.json").read_text())


def test_neither_key_nor_address_is_in_the_run(answered: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "sk-very-secret")
    with serving_judge(longer) as server:
        judged(server, f"run={answered}", "generate.key_env=MY_KEY")
        assert server.seen[0]["key"] == "Bearer sk-very-secret"
        address = server.address
    written = [file for file in answered.rglob("*") if file.is_file()]
    assert not any(b"sk-very-secret" in file.read_bytes() for file in written)
    assert address not in (answered / "result.json").read_text()


def test_each_judge_has_its_own_table_on_the_board(answered: Path, tmp_path: Path) -> None:
    from rich.console import Console

    from peftkit.leaderboard.board import Board
    from peftkit.leaderboard.files import write_tables
    from peftkit.leaderboard.page import page_data
    from peftkit.leaderboard.table import show

    with serving_judge(longer) as server:
        judged(server, f"run={answered}")
        judged(server, f"run={answered}", "generate.endpoint_model=other", "task.max_eval_samples=5")
    board = Board.read([tmp_path / "runs"])
    (result,) = board.runs
    assert len(result.judged) == 2  # type: ignore[union-attr, arg-type]
    console = Console(width=160, record=True, file=(tmp_path / "shown").open("w"))
    show(board, console)
    text = console.export_text()
    assert "judged by scripted" in text and "judged by other" in text and "43.8" in text and "5 of 8" in text
    write_tables(board, tmp_path)
    assert "Against the references, judged by other" in (tmp_path / "leaderboard.md").read_text()
    (columns,) = csv.DictReader((tmp_path / "leaderboard.csv").read_text().splitlines())
    assert columns["judge_win_rate by scripted"] == "0.4375" and "judge_win_rate by other" in columns
    (here,) = page_data(board)["boards"]
    assert [heading for heading, _ in here["judged"]] == [
        f"Against the references, judged by {n}" for n in ("other", "scripted")
    ]


def test_a_judge_without_verdicts_has_no_rate(answered: Path) -> None:
    from peftkit.leaderboard.judges import WIN_RATE, judge_columns, judge_tables
    from peftkit.leaderboard.reading import collect
    from peftkit.leaderboard.stats import board_entries

    with serving_judge(nonsense) as server:
        judged(server, f"run={answered}")
    (row,) = rows = board_entries(collect([answered]))
    (columns,), ((_, (cells,)),) = judge_columns(rows), judge_tables(rows, row.board)
    assert columns == {"judge_win_rate by scripted": None}
    assert cells[WIN_RATE] == cells["95 %"] == "" and cells["unparsable"] == "100.0%"


def test_one_name_with_two_settings_is_two_judges(answered: Path) -> None:
    from peftkit.leaderboard.judges import judge_columns
    from peftkit.leaderboard.reading import collect
    from peftkit.leaderboard.stats import board_entries

    with serving_judge(longer) as server:
        judged(server, f"run={answered}")
        judged(server, f"run={answered}", "generate.request.reasoning_effort=high")
    (columns,) = judge_columns(board_entries(collect([answered])))
    assert len(columns) == 2 and all(re.fullmatch(r"judge_win_rate by scripted \(\w{8}\)", name) for name in columns)


@pytest.mark.parametrize("model", ["gpt2", pytest.param("t5", marks=pytest.mark.slow)])
def test_a_local_model_judges(answered: Path, checkpoints: dict[str, Path], model: str) -> None:
    overrides = (
        "job=judge", f"run={answered}", f"model={model}", f"model.checkpoint={checkpoints[model]}", "source=offline",
        "generate.max_answer_tokens=4", "task.max_eval_samples=3",
    )  # fmt: skip
    assert check(overrides) == []
    folder = commands.run(overrides)
    assert folder is not None
    found = json.loads((folder / "judge.json").read_text())
    assert (
        found["by_likelihood"] == (0 if model == "t5" else found["replies"]) and found["judge"]["revision"]
    )  # a tiny random model writes no verdict
    assert found["cut"] == (found["replies"] if model == "gpt2" else 0)  # whose context has no room for the question


def test_different_examples_are_refused(answered: Path, tmp_path: Path) -> None:
    fewer = rewritten(answered, tmp_path / "fewer", ["x"] * 8)
    table = pq.read_table(fewer / "predictions.parquet")
    pq.write_table(table.slice(2), fewer / "predictions.parquet")
    with serving_judge(longer) as server:
        with pytest.raises(UserError, match=r"8 and 6 examples, of which 6 are the same; set runs="):
            judged(server, f"runs=[{answered},{fewer}]", f"out={tmp_path}")
        result = json.loads((fewer / "result.json").read_text())
        result["run"]["config"]["task"]["template"] = "Go on: {text}"
        (fewer / "result.json").write_text(json.dumps(result))
        pq.write_table(table, fewer / "predictions.parquet")
        with pytest.raises(UserError, match="different prompts"):
            judged(server, f"runs=[{answered},{fewer}]", f"out={tmp_path}")
        place = table.column_names.index("label")
        other = pa.array([["another"]] * 8)
        pq.write_table(table.set_column(place, "label", other), fewer / "predictions.parquet")
        with pytest.raises(UserError, match=r"scored on other examples than"):
            judged(server, f"run={fewer}")
        assert server.seen == []


def test_data_with_changed_questions_is_refused(answered: Path, tmp_path: Path) -> None:
    file = tmp_path / "data/validation.jsonl"
    file.write_text(file.read_text().replace("the film 3", "the song 3"))  # ids and references stay
    with serving_judge(longer) as server:
        with pytest.raises(UserError, match=r"scored on other examples than"):
            judged(server, f"run={answered}")
        assert server.seen == []


def test_each_mistake_has_its_message(answered: Path, tmp_path: Path) -> None:
    kinds = {"classes": ("classification", False), "language": ("causal_lm", False), "trial": ("seq2seq", True)}
    for name, (kind, trial) in kinds.items():
        result = json.loads((answered / "result.json").read_text())
        result["run"]["config"]["task"] |= {"kind": kind, "label": None}
        result["run"]["config"]["trial"] = trial
        (tmp_path / name).mkdir()
        (tmp_path / name / "result.json").write_text(json.dumps(result))
    base: Any = OmegaConf.to_container(compose_config([*ENDPOINT, "generate.base_url=http://x/v1"]), resolve=True)
    for keys, answer in (
        ({}, "set run=DIR to compare with its references, or runs=[A,B]"),
        ({"runs": [answered]}, "set run=DIR to compare with its references, or runs=[A,B]"),
        ({"run": answered, "runs": [answered, answered]}, "with each other; drop it, or drop runs"),
        ({"runs": [answered, answered]}, "twice; use run="),
        ({"runs": [answered, tmp_path / "classes"]}, "is a run of classification, which generates no answers"),
        ({"run": tmp_path / "language"}, "is a run of causal_lm without a label"),
        ({"run": tmp_path / "trial"}, "is a trial"),
        ({"run": tmp_path / "nowhere"}, "contains no result.json"),
        ({"run": answered, "generate": base["generate"] | {"max_cost": 1.0}}, "needs prices"),
        (
            {"run": answered, "generate": base["generate"] | {"endpoint_model": None}},
            "use generate.endpoint_model=NAME",
        ),
        ({"run": answered, "generate": base["generate"] | {"seeds": "x"}}, "generate.seeds= is not for job=judge"),
    ):
        given = {"runs": None, **keys}
        named = {"run": str(given["run"])} if "run" in given else {}
        named |= {"runs": [str(each) for each in given["runs"]]} if given["runs"] else {}
        sentences = config_errors({**base, **given, **named})
        assert any(answer in sentence for sentence in sentences), (keys, sentences)
    (local,) = check(["job=judge", f"run={answered}"])
    assert "model=bert is an encoder, which generates no text; use model=gpt2" in local
    target, heat = check(
        [
            *ENDPOINT,
            "generate.base_url=http://x/v1",
            f"run={answered}",
            "generate.num_instructions=9",
            "generate.temperature=1",
        ]
    )
    assert "ignores generate.num_instructions=9: it compares existing answers" in target and "temperature" in heat


@pytest.mark.slow
def test_an_instruction_tuned_run_is_judged(tiny: Overrides, tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "Name a film."}, {"role": "assistant", "content": "the great film"}]
    more = [*turns, {"role": "user", "content": "And a song."}, {"role": "assistant", "content": "the song"}]
    overrides = data_of(tmp_path, [{"messages": turns}, {"messages": more}] * 4, "task=instructions")
    (folder,) = commands.finetune(*tiny("gpt2", *overrides, "method=lora", "task.max_target_length=4"))
    with serving_judge(longer) as server:
        place, found = judged(server, f"run={folder}", "source=offline")
    rows = [json.loads(line) for line in (place / "judged.jsonl").read_text().splitlines()]
    assert found["rows"] == len(rows) == 12  # one per assistant turn
    assert {row["question"] for row in rows} == {
        "Name a film.", "user: Name a film.\n\nassistant: the great film\n\nuser: And a song."
    }  # fmt: skip
    assert {row["second"] for row in rows} == {"the great film", "the song"}
