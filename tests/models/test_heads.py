"""Every kind of task runs from rows to a reloaded run's answers, on every family that has a head for it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from helpers import commands
from helpers.commands import check

from peftkit.cli.files import options_of
from peftkit.config import UserError

Words = Callable[..., list[str]]
NOUNS, VERBS = ["actor", "writer", "critic", "film"], ["sang", "slept", "shone", "left"]
KINDS = {
    "token_classification": ["task.metrics=[token_accuracy]"],
    "question_answering": ["task.max_length=32", "task.stride=4", "task.no_answer=true"],
    "causal_lm": ["task.text=[text]"],
    "completion": ["task.text=[text]", "task.label=last", "task.metrics=[perplexity,exact_match]"],
    "seq2seq": ["task.text=[text]", "task.label=last"],
}
CELLS = [
    ("token_classification", "bert"), ("question_answering", "gpt2"), ("completion", "gpt2"), ("seq2seq", "t5"),
    *(
        pytest.param(*cell, marks=pytest.mark.slow)
        for cell in (
            ("token_classification", "gpt2"), ("token_classification", "t5_encoder"), ("question_answering", "bert"),
            ("question_answering", "t5_encoder"), ("causal_lm", "gpt2"),
        )
    ),
]  # fmt: skip
METHODS = sorted(options_of("method").keys() - {"peft"})
FAST = ("prefix",)  # docs/reference/matrix.md has them all


def rows_of(kind: str) -> list[dict[str, Any]]:
    rows = []
    for number in range(24):
        words = [
            "the",
            NOUNS[number % 4],
            VERBS[number // 4 % 4],
            "and",
            "the",
            NOUNS[number % 3],
            VERBS[number % 2],
            ".",
        ]
        text = " ".join(words)
        tags = ["X" if word in ("the", "and", ".") else "NOUN" if word in NOUNS else "VERB" for word in words]
        answer = [] if number % 5 == 4 else [words[1]]
        rows.append({"idx": number} | {
            "token_classification": {"tokens": words, "tags": tags},
            "question_answering": {
                "question": f"who {words[2]} ?", "context": text,
                "answers": {"text": answer, "answer_start": [4] * len(answer)},
            },
        }.get(kind, {"text": text, "last": words[6]}))  # fmt: skip
    return rows


@pytest.fixture
def cell(tiny: Words, tmp_path: Path, checkpoints: dict[str, Path]) -> Words:
    """Return the words of a run: cell(kind, model, "method=lora")."""

    def words(kind: str, model: str, *more: str) -> list[str]:
        file = tmp_path / f"{kind}.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows_of(kind)))
        task = kind if kind != "completion" else "causal_lm"
        known = tiny(
            "t5" if model == "t5_encoder" else model, f"task={task}", f"task.dataset={file}", *KINDS[kind], *more
        )
        return [f"model={model}" if word.startswith("model=") else word for word in known]

    return words


@pytest.mark.parametrize(("kind", "model"), CELLS)
@pytest.mark.parametrize(
    "method", [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in METHODS]
)
def test_every_head_trains_and_its_saved_run_answers_the_same(
    cell: Words, tmp_path: Path, kind: str, model: str, method: str
) -> None:
    words = cell(kind, model, f"method={method}", "train.bf16=false")
    if refused := check(words):
        assert all("use method=" in sentence for sentence in refused)
        return
    try:
        (folder,) = commands.finetune(*words)
    except UserError as error:  # only the loaded model shows it: T5's encoder has no biases
        assert "use method=" in str(error)
        return
    result = json.loads((folder / "result.json").read_text())
    assert result["meta"]["status"] == "finished"
    assert all(np.isfinite(entry["value"]) for entry in result["scores"].values())
    told = {row["id"]: row["prediction"] for row in pq.read_table(folder / "predictions.parquet").to_pylist()}
    commands.predict(folder, tmp_path / f"{kind}.jsonl", f"output={tmp_path}/out.jsonl")
    answers = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert len(answers) == 24 and told
    names = result["audit"]["label_names"]
    for row, prediction in told.items():
        said = answers[row]["prediction"]
        if isinstance(prediction, float):
            assert said == pytest.approx(prediction, abs=1e-4)
        else:
            assert said == ([names[tag] for tag in prediction] if names else prediction)


def test_one_question_is_answered_from_the_command_line(cell: Words, capsys: pytest.CaptureFixture[str]) -> None:
    (folder,) = commands.finetune(*cell("question_answering", "bert"))
    capsys.readouterr()
    commands.predict(folder, "who sang ? || the actor sang .")
    answer = json.loads(capsys.readouterr().out)
    assert answer["prediction"] in "the actor sang ."


@pytest.mark.slow
def test_the_file_that_trained_it_can_be_answered_and_another_kind_is_refused(cell: Words, tmp_path: Path) -> None:
    (folder,) = commands.finetune(*cell("token_classification", "bert"))
    conll = tmp_path / "new.conll"
    conll.write_text("the X\nactor NOUN\n\nfilm NOUN\n")
    commands.predict(folder, conll)
    answers = [json.loads(line) for line in (tmp_path / "new.predictions.jsonl").read_text().splitlines()]
    assert [len(row["prediction"]) for row in answers] == [2, 1]
    words = tmp_path / "new.csv"
    words.write_text("tokens\nthe actor\n\nfilm\n")
    commands.predict(folder, words)
    assert (tmp_path / "new.predictions.csv").read_text().splitlines()[1].split(",")[1].count(" ") == 1
    empty = tmp_path / "empty.jsonl"
    empty.write_text('{"tokens": []}\n{"tokens": ["film"]}\n')
    commands.predict(folder, empty)
    first, _ = (tmp_path / "empty.predictions.jsonl").read_text().splitlines()
    assert json.loads(first)["prediction"] is None
    with pytest.raises(UserError, match="use a task of kind"):
        commands.evaluate(folder, "task=sst2")
    assert "AutoModelForTokenClassification" in (folder / "README.md").read_text()


@pytest.mark.slow
def test_early_stopping_chooses_by_a_heads_own_score(cell: Words) -> None:
    more = ["early_stopping.patience=2", "train.num_train_epochs=2"]
    for kind, model in (("token_classification", "bert"), ("seq2seq", "t5")):
        (folder,) = commands.finetune(*cell(kind, model, *more))
        entries = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
        assert any("eval_score" in entry for entry in entries)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["model=bert", "task=seq2seq", "task.text=[a]", "task.label=b"], "use model=t5"),
        (["model=t5", "task=ud_ewt"], "use model=t5_encoder"),
        (["model=bert", "task=ud_ewt", "task.metrics=[f1]"], "unknown metric of task.kind=token_classification"),
        (["model=bert", "task=squad", "task.text=[question]"], "use task.text=[question,context]"),
        (["model=gpt2", "method=linear_probe", "task=causal_lm", "task.text=[a]"], "use method="),
        (["model=gpt2", "task=causal_lm", "task.text=[a]", "task.metrics=[rouge_l]"], "need a label"),
        (["model=bert", "task=mrpc", "+task.stride=3"], "drop it"),
    ],
)
def test_what_does_not_go_together_is_refused(words: list[str], sentence: str) -> None:
    assert any(sentence in complaint for complaint in check([*words, "task.dataset=README.md"])), check(words)
