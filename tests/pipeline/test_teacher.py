"""A student learns from a teacher: the loss is that of the paper, and the student may have fewer layers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from datasets import Dataset
from helpers import commands
from helpers.commands import check, compose_config
from omegaconf import OmegaConf

import peftkit
from peftkit.config import UserError
from peftkit.training import Distillation

Overrides = Callable[..., list[str]]


class _Fixed(torch.nn.Module):
    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, **inputs: Any) -> Any:
        assert set(inputs) == {"input_ids"}
        return SimpleNamespace(logits=self.logits)


def test_the_loss_of_classes_is_that_of_the_paper() -> None:
    torch.manual_seed(0)
    student, teacher, labels = torch.randn(5, 3), torch.randn(5, 3), torch.tensor([0, 2, 1, 1, 0])
    batch = {"input_ids": labels, "labels": labels, "teacher": teacher}
    hard = -torch.log(torch.softmax(student, -1))[range(5), labels].mean()
    teacher_probs, student_probs = torch.softmax(teacher / 4, -1), torch.softmax(student / 4, -1)
    soft = (teacher_probs * (teacher_probs.log() - student_probs.log())).sum(-1).mean()
    for weight in (0.0, 0.3, 1.0):
        expected = (1 - weight) * hard + weight * 16 * soft
        torch.testing.assert_close(Distillation(4.0, weight)(_Fixed(student), batch), expected)


def test_the_loss_of_numbers_is_the_squared_difference_from_both() -> None:
    student, teacher, labels = torch.tensor([[1.0], [2.0]]), torch.tensor([[3.0], [2.0]]), torch.tensor([1.0, 4.0])
    batch = {"input_ids": labels, "labels": labels, "teacher": teacher}
    assert float(Distillation(2.0, 0.25)(_Fixed(student), batch)) == pytest.approx(0.75 * 2.0 + 0.25 * 2.0)


@pytest.mark.parametrize(("model", "task"), [("bert", "mrpc"), pytest.param("gpt2", "stsb", marks=pytest.mark.slow)])
@pytest.mark.slow
def test_a_student_of_one_layer_learns_from_a_teacher_and_loads(model: str, task: str, tiny: Overrides) -> None:
    overrides = tiny(model, "method=full", f"task={task}", "train.bf16=false")
    (teacher,) = commands.finetune(*overrides)
    student = [*overrides, "model.keep_layers=[1]", "train.learning_rate=1e-3", "train.num_train_epochs=3"]
    (alone,) = commands.finetune(*student)
    (folder,) = commands.finetune(*student, f"distill.teacher={teacher}", "distill.alpha=1")
    assert folder != alone
    one, two = (json.loads((each / "result.json").read_text()) for each in (alone, folder))
    assert two["costs"]["total_params"] == one["costs"]["total_params"]
    assert two["costs"]["total_params"] < json.loads((teacher / "result.json").read_text())["costs"]["total_params"]
    loaded, _ = peftkit.load(folder)
    assert loaded.config.num_hidden_layers == 1
    (again,) = commands.finetune(*student, f"distill.teacher={teacher}", "distill.alpha=1")
    assert again == folder


def test_layers_beyond_the_checkpoint_are_named(tiny: Overrides) -> None:
    with pytest.raises(UserError, match=r"the model has 2 layers, counted from 0; use model.keep_layers=\[1\]"):
        commands.finetune(*tiny("bert", "method=full", "model.keep_layers=[1,7]"))


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["method=lora", "model.keep_layers=[0]"], "model.keep_layers changes the base"),
        (["model=t5", "method=full", "model.keep_layers=[0]"], "model.keep_layers does not work with model=t5"),
        (["method=full", "model.keep_layers=[1,0]"], "expected layer numbers in order, from 0"),
        (
            [
                "model=gpt2",
                "task=causal_lm",
                "task.dataset=a.csv",
                "task.text=[q]",
                "task.label=a",
                "method=full",
                "distill.teacher=nowhere",
                "distill.alpha=0.3",
            ],
            "distill.alpha=0.3: expected 1 (the teacher's answers only) or 0.5",
        ),
        (["method=full", "distill.teacher=nowhere"], "distill.teacher=nowhere contains no result.json"),
        (["method=full", "distill.temperature=0"], "distill.temperature=0: expected a number above 0"),
    ],
)
def test_unsupported_teachers_are_refused(overrides: list[str], sentence: str) -> None:
    found = check(["model=minilm", "task=mrpc", "source=offline", *overrides])
    assert any(sentence in each for each in found), found


def test_a_teacher_of_other_labels_is_refused(tiny: Overrides, tmp_path: Path) -> None:
    (teacher,) = commands.finetune(*tiny("bert", "method=linear_probe", "task=mrpc"))
    with pytest.raises(UserError, match="to a run of this task"):
        commands.finetune(*tiny("bert", "method=full", "task=rte", f"distill.teacher={teacher}"))


def _rows(folder: Path, label: str) -> str:
    """Write examples with one answer, but for one training example: a constant answer is refused."""
    folder.mkdir()
    rows = [{"q": f"the film {n}", "a": label} for n in range(30)]
    for name, part in (
        ("train", [*rows[:23], *rows[:3], *[rows[0]] * 5, {"q": "the film 0", "a": "actor"}]),
        ("validation", rows[24:]),
    ):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    return f"task.dataset={folder}"


@pytest.mark.parametrize(
    ("kind", "weight"),
    [
        ("causal_lm", 1),
        pytest.param("seq2seq", 1, marks=pytest.mark.slow),
        pytest.param("causal_lm", 0.5, marks=pytest.mark.slow),
    ],
)
def test_a_student_writes_what_its_teacher_always_writes(
    tiny: Overrides, tmp_path: Path, kind: str, weight: float
) -> None:
    model = {"causal_lm": "gpt2", "seq2seq": "t5"}[kind]
    overrides = tiny(model, f"task={kind}", "task.text=[q]", "task.label=a", "task.max_target_length=8", "method=full")
    overrides += [
        "train.num_train_epochs=12",
        "train.learning_rate=1e-2",
        "task.metrics=[exact_match]",
        "train.bf16=false",
    ]
    (teacher,) = commands.finetune(*overrides, _rows(tmp_path / "teacher", "great"))
    assert json.loads((teacher / "result.json").read_text())["scores"]["exact_match"]["value"] == 1
    taught = [f"distill.teacher={teacher}", f"distill.alpha={weight}"]
    (student,) = commands.finetune(*overrides, _rows(tmp_path / "student", "film"), *taught)
    result = json.loads((student / "result.json").read_text())
    lines = [json.loads(line) for line in (student / "taught.jsonl").read_text().splitlines()]
    rows = result["audit"]["rows"]["train"]
    assert [line["answer"] for line in lines] == ["great"] * rows
    assert result["audit"]["taught"] == {"examples": rows, "empty": 0, "cut": 0, "own_labels": weight != 1}
    if weight == 1:  # validation is unchanged: its label is film
        predictions = pq.read_table(student / "predictions.parquet").to_pylist()
        assert {row["prediction"] for row in predictions} == {"great"}
        assert {row["label"][0] for row in predictions} == {"film"}
    else:
        own, counts = (json.loads((each / "result.json").read_text())["audit"] for each in (teacher, student))
        films = counts["label_counts"]["validation"]["tokens"] // counts["rows"]["validation"]  # each label is film
        greats = own["label_counts"]["train"]["tokens"] // own["rows"]["train"]
        assert counts["label_counts"]["train"]["tokens"] == rows * (films + greats)


def test_rows_to_which_a_teacher_wrote_nothing_are_dropped(tmp_path: Path) -> None:
    from peftkit.pipeline.teacher import _stored_answers, teacher_answers

    answers = [("", True), ("so\u2028it is", True), ("so it", False)]
    lines = [{"id": row, "answer": text, "has_ended": ended} for row, (text, ended) in enumerate(answers)]
    file = tmp_path / "taught.jsonl"
    file.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    rows = Dataset.from_dict({"id": [0, 1, 2], "q": ["a", "b", "c"], "label": ["x", "y", "z"]})
    run: Any = SimpleNamespace(distill=SimpleNamespace(teacher="t", alpha=1))
    taught, counts = teacher_answers(run, rows, tmp_path)
    assert taught.to_list() == [{"id": 1, "q": "b", "label": "so\u2028it is"}]
    assert (counts["empty"], counts["cut"]) == (1, 1)
    run.distill.alpha = 0.5
    assert [row["label"] for row in teacher_answers(run, rows, tmp_path)[0]] == ["x", "y", "z", "so\u2028it is"]
    assert _stored_answers(file, rows.select([0, 2])) is None
    file.write_text(json.dumps({"id": 0, "answer": "so", "has_ended": False}))
    with pytest.raises(UserError, match="truncated answers for the other 1"):
        teacher_answers(run, rows.select([0]), tmp_path)


@pytest.mark.parametrize(("task", "calibrate"), [("stsb", False), ("rte", True)])
def test_a_teacher_that_nothing_trained_teaches_what_it_answers(
    checkpoints: dict[str, Path], task: str, calibrate: bool
) -> None:
    import numpy as np

    from peftkit.config import RunConfig
    from peftkit.config.source import Source
    from peftkit.data.formats.prompted import PromptedFormat
    from peftkit.models.tokenizer import load_tokenizer
    from peftkit.pipeline.build import TrainingBundle
    from peftkit.pipeline.teacher import label_scores

    config: Any = OmegaConf.to_container(compose_config([f"task={task}"]), resolve=True)
    chosen, place = RunConfig.from_config(config).task, str(checkpoints["gpt2"])
    tokenizer = load_tokenizer(Source("folder", place, folder=place))
    prompted = PromptedFormat(chosen, tokenizer, "decoder", chosen.labels, calibrate=calibrate)
    columns = {name: ["a film", "no", "it is"] for name in chosen.text}
    encoded = prompted.encode(Dataset.from_dict({"id": [0, 1, 2], **columns, "label": [None] * 3}))
    scores = -np.random.default_rng(0).random((3 + calibrate, 2)).astype("float32")
    found = label_scores(TrainingBundle(None, tokenizer, prompted), scores, encoded)
    if task == "stsb":
        assert found.shape == (3, 1) and (found > 0).all() and (found < 5).all()
    else:
        np.testing.assert_allclose(found, scores[:3] - scores[3], rtol=1e-6)
