"""The pretrained model is prompted: verbalizers by their likelihood, after examples that the seed draws."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from datasets import Dataset
from helpers import commands
from helpers.commands import check, compose_config

from peftkit.config import RunConfig, TaskConfig, UserError
from peftkit.config.source import Source
from peftkit.data.formats.base import prepend_shots
from peftkit.data.formats.classification import TextToTextFormat
from peftkit.data.formats.prompted import PromptedFormat, PromptTemplate, prompt_template, sample_balanced
from peftkit.data.formats.text_generation import TextGenerationFormat
from peftkit.models.tokenizer import load_tokenizer
from peftkit.pipeline.sources import execution_setup
from peftkit.training.outputs import continuation_likelihoods, label_likelihoods

Overrides = Callable[..., list[str]]


def finetune(overrides: list[str]) -> tuple[Path, dict[str, Any]]:
    (folder,) = commands.finetune(*overrides)
    return folder, json.loads((folder / "result.json").read_text())


def run_of(overrides: list[str]) -> RunConfig:
    from omegaconf import OmegaConf

    return RunConfig.from_config(OmegaConf.to_container(compose_config(overrides), resolve=True))  # type: ignore[arg-type]


def prompted_format(checkpoint: Path, task: str, family: str = "decoder", **more: Any) -> PromptedFormat:
    chosen: TaskConfig = run_of([f"task={task}"]).task
    tokenizer = load_tokenizer(Source("folder", str(checkpoint), folder=str(checkpoint)))
    return PromptedFormat(chosen, tokenizer, family, chosen.labels, **more)


def rows_of(prompted: PromptedFormat, texts: list[str], labels: list[Any]) -> Dataset:
    columns = {name: [f"{text} {name}" for text in texts] for name in prompted.task.text}
    return Dataset.from_dict({"id": list(range(len(texts))), **columns, "label": labels})


def batch_of(prompted: PromptedFormat, rows: Dataset) -> dict[str, Any]:
    encoded = prompted.encode(rows)
    return prompted.collator()([encoded.inputs[row] for row in range(len(encoded.inputs))])


def test_no_prompt_has_doubled_or_trailing_whitespace(checkpoints: dict[str, Path]) -> None:
    for task in ("sst2", "mnli", "rte"):
        prompted = prompted_format(checkpoints["gpt2"], task)
        columns = {name: ["a film "] for name in prompted.task.text}
        rows = Dataset.from_dict({"id": [0], **columns, "label": [0]})
        text = prompted.tokenizer.decode(prompted.encode(rows).inputs[0]["input_ids"])
        assert "  " not in text and " \n" not in text and text == text.rstrip(), text


def test_labels_with_the_same_tokens_are_refused_by_name(checkpoints: dict[str, Path]) -> None:
    task = run_of(["task=classification"]).task
    tokenizer = load_tokenizer(Source("folder", "t5", folder=str(checkpoints["t5"])))
    names = ["good", "\u597d\u8bc4", "\u5dee\u8bc4"]
    for found in (
        TextToTextFormat(task, tokenizer, "seq2seq", names),
        PromptedFormat(task, tokenizer, "seq2seq", names),
    ):
        with pytest.raises(
            UserError, match=r"\u597d\u8bc4 and \u5dee\u8bc4 have the same tokens.*<unk>.*words that differ"
        ):
            _ = found.verbalizer_ids
    task.verbalizer = {"no": "bad", "yes": "bad"}
    with pytest.raises(UserError, match=r"task.verbalizer has 'bad' for no, yes"):
        _ = PromptedFormat(task, tokenizer, "decoder", ["no", "yes"]).verbalizer_ids


TEXTS = ["a film", "the actor saw the very long film and left", "it is great", "no"]


@pytest.mark.parametrize("shots", [(), ("a film It was great", "the critic left It was terrible")])
def test_a_decoders_likelihoods_are_those_of_a_loop_over_single_rows(
    checkpoints: dict[str, Path], shots: tuple[str, ...]
) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(checkpoints["gpt2"], dtype=torch.float32).eval()
    prompted = prompted_format(checkpoints["gpt2"], "sst2", shots=shots)
    assert (prompted.verbalizer_ids >= 0).sum(axis=-1).max() > 1  # else the cache is not read
    rows = rows_of(prompted, TEXTS, [0, 1, 1, 0])
    batch = batch_of(prompted, rows)
    label_ids = torch.as_tensor(prompted.verbalizer_ids)
    with torch.no_grad():
        found = continuation_likelihoods(model, batch["input_ids"], batch["attention_mask"], label_ids)
        for row in range(len(rows)):
            start = batch["input_ids"][row][batch["attention_mask"][row].bool()]
            for label, word in enumerate(label_ids):
                word = word[word >= 0]
                logits = model(input_ids=torch.cat([start, word])[None]).logits[0].double().log_softmax(-1)
                wanted = sum(logits[len(start) + place - 1, token] for place, token in enumerate(word.tolist()))
                assert float(found[row, label]) == pytest.approx(float(wanted), abs=1e-5)


def test_t5s_likelihoods_are_those_of_a_loop_over_single_rows(checkpoints: dict[str, Path]) -> None:
    from transformers import AutoModelForSeq2SeqLM

    model = AutoModelForSeq2SeqLM.from_pretrained(checkpoints["t5"], dtype=torch.float32).eval()
    prompted = prompted_format(
        checkpoints["t5"], "mrpc", "seq2seq", shots=("mrpc sentence1: a sentence2: a equivalent",)
    )
    batch = batch_of(prompted, rows_of(prompted, TEXTS, [0, 1, 1, 0]))
    with torch.no_grad():
        label_ids = torch.as_tensor(prompted.verbalizer_ids)
        found = label_likelihoods(model, batch["input_ids"], batch["attention_mask"], label_ids)
        for row in range(len(TEXTS)):
            ids = batch["input_ids"][row][batch["attention_mask"][row].bool()][None]
            for label, word in enumerate(label_ids):
                word = word[word >= 0][None]
                wanted = -model(input_ids=ids, labels=word).loss.double() * word.shape[1]
                assert float(found[row, label]) == pytest.approx(float(wanted), abs=1e-4)


def test_a_word_counts_by_its_mean_token_or_by_what_the_row_adds_to_it(checkpoints: dict[str, Path]) -> None:
    prompted = prompted_format(checkpoints["gpt2"], "sst2")
    sizes = (prompted.verbalizer_ids >= 0).sum(axis=-1)
    rows = rows_of(prompted, TEXTS, [0, 1, 1, 0])
    sums = np.array([[-8.0, -9.0], [-2.0, -1.0], [-3.0, -4.0], [-5.0, -5.5]])
    np.testing.assert_allclose(np.stack(prompted.decode(list(sums), prompted.encode(rows)).scores), sums / sizes)
    calibrated = replace(prompted, calibrate=True)
    encoded = calibrated.encode(rows)
    assert prompted.tokenizer.decode(encoded.inputs[4]["input_ids"]) == "It was"
    context = np.array([-1.0, -7.0])
    answers = calibrated.decode([*sums, context], encoded)
    np.testing.assert_allclose(np.stack(answers.scores), sums - context)
    assert answers.predictions.tolist() == [1, 1, 1, 1]


def test_numbers_are_interpolated_between_verbalizers_by_likelihood(checkpoints: dict[str, Path]) -> None:
    prompted = prompted_format(checkpoints["gpt2"], "stsb")
    assert prompted.values.tolist() == [0, 5]
    sizes = (prompted.verbalizer_ids >= 0).sum(axis=-1)
    rows = rows_of(prompted, TEXTS[:2], [0.0, 5.0])
    sums = np.log([[0.5, 0.5], [0.2, 0.6]]) * sizes
    np.testing.assert_allclose(prompted.decode(list(sums), prompted.encode(rows)).predictions, [2.5, 3.75])
    assert [prompted.shot_group(label) for label in (0.0, 2.4, 2.6, 5.0)] == [0, 0, 1, 1]


def test_examples_hang_on_the_seed_alone_and_are_balanced() -> None:
    groups = [0] * 90 + [1] * 9 + [2]
    drawn = sample_balanced(groups, 6, seed=3)
    assert drawn == sample_balanced(groups, 6, seed=3) != sample_balanced(groups, 6, seed=4)
    assert sorted(groups[row] for row in drawn) == [0, 0, 0, 1, 1, 2]
    assert len({*drawn}) == 6
    assert (
        sorted(groups[row] for row in sample_balanced(groups, 2, seed=0) + sample_balanced(groups, 3, seed=0)[-3:])[-1]
        == 2
    )
    assert len(sample_balanced([0, 0, 1], 8, seed=0)) == 3


def test_examples_without_room_are_left_out_from_the_front_and_counted(checkpoints: dict[str, Path]) -> None:
    assert prepend_shots([[1, 1], [2, 2, 2], [3]], [9, 8], 6, bos=9) == ([9, 2, 2, 2, 3, 8], 1)
    assert prepend_shots([[1, 1]], [8], 2, bos=None) == ([8], 1)
    prompted = prompted_format(
        checkpoints["gpt2"], "sst2", shots=tuple(f"{'a film ' * 30}It was great" for _ in range(40))
    )
    encoded = prompted.encode(rows_of(prompted, TEXTS, [0, 1, 1, 0]))
    room = prompted.tokenizer.model_max_length - prompted.verbalizer_ids.shape[1]
    assert encoded.dropped_shots > 0 and max(encoded.lengths) <= room
    assert encoded.truncated == 0


@pytest.mark.parametrize(
    ("model", "method", "task"),
    [
        ("gpt2", "few_shot", "rte"),
        pytest.param("gpt2", "few_shot", "mnli", marks=pytest.mark.slow),
        pytest.param("gpt2", "zero_shot", "stsb", marks=pytest.mark.slow),
        pytest.param("t5", "few_shot", "stsb", marks=pytest.mark.slow),
        pytest.param("t5", "zero_shot", "mnli", marks=pytest.mark.slow),
    ],
)
def test_a_run_trains_nothing_and_is_one_of_the_others_otherwise(
    tiny: Overrides, tmp_path: Path, model: str, method: str, task: str
) -> None:
    overrides = tiny(model, f"method={method}", f"task={task}", "search.lr_multipliers=[0.3,1]")
    folder, result = finetune(overrides)
    assert result["search"]["trials"] == [] and not list(tmp_path.rglob("trial-*"))
    assert (result["costs"]["trainable_params"], result["costs"]["train_seconds"]) == (0, 0.0)
    assert result["audit"]["shots"]["drawn"] == (4 if method == "few_shot" else 0)
    assert result["audit"]["rows"]["train"] == 24  # as of those that it stands beside
    assert result["gates"]["padding_difference"] < 1e-4 and result["gates"]["reload_difference"] < 1e-4
    assert {path.name for path in (folder / "prompt").iterdir()} == {"prompt.json"}
    predictions = pq.read_table(folder / "predictions.parquet").to_pylist()
    commands.evaluate(folder, *(["task=ax", "task.max_eval_samples=20"] if task == "mnli" else []))
    if task != "mnli":
        again = pq.read_table(folder / f"predictions-{task}.parquet").to_pylist()
        assert [row["prediction"] for row in again] == [row["prediction"] for row in predictions]


def test_the_likelihood_of_a_verbalizer_is_predicted_for_a_new_text(
    tiny: Overrides, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = finetune(tiny("gpt2", "method=few_shot", "task=sst2", "task.prompt='{sentence} So:'"))
    shots = json.loads((folder / "prompt" / "prompt.json").read_text())["shots"]
    assert len(shots) == 4
    assert sorted(shot.rpartition(" So: ")[2] for shot in shots) == ["great", "great", "terrible", "terrible"]
    capsys.readouterr()
    commands.predict(folder, "the film is great .")
    assert json.loads(capsys.readouterr().out)["prediction"] in ("negative", "positive")


@pytest.mark.parametrize("model", ["gpt2", pytest.param("t5", marks=pytest.mark.slow)])
def test_texts_are_written_behind_examples_up_to_a_blank_line(
    tiny: Overrides, tmp_path: Path, checkpoints: dict[str, Path], model: str
) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps({"q": f"the film {n}", "a": f"great {n}"}) + "\n" for n in range(20)))
    kind = {"gpt2": "causal_lm", "t5": "seq2seq"}[model]
    overrides = tiny(model, f"task={kind}", f"task.dataset={file}", "task.text=[q]", "task.label=a", "method=few_shot")
    overrides.append("task.max_target_length=4")
    folder, _ = finetune([*overrides, "task.metrics=[rouge_l]"])
    shots = tuple(json.loads((folder / "prompt" / "prompt.json").read_text())["shots"])
    assert len(shots) == 4 and all(shot.split("\n")[1].startswith("great") for shot in shots)
    tokenizer = load_tokenizer(Source("folder", str(checkpoints[model]), folder=str(checkpoints[model])))
    texts = TextGenerationFormat(
        run_of(overrides).task, tokenizer, "decoder" if model == "gpt2" else "seq2seq", shots=shots
    )
    encoded = texts.encode(Dataset.from_dict({"id": [0], "q": ["the film"], "label": ["great"]}))
    read = tokenizer.decode(encoded.positions[0][1], skip_special_tokens=True)
    assert read.count("film") == 5 and read.rstrip().endswith("the film")
    scores = [np.zeros(2)]
    assert texts.decode(scores, encoded, ["so great\n\nthe film"]).predictions == ["so great"]


@pytest.mark.parametrize("model", ["gpt2", pytest.param("t5", marks=pytest.mark.slow)])
def test_instructions_are_prompted_after_answered_ones(tiny: Overrides, tmp_path: Path, model: str) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps({"q": f"the film {n}", "a": f"great {n}"}) + "\n" for n in range(20)))
    overrides = tiny(model, "task=instructions", f"task.dataset={file}", "task.text=[q]", "task.label=a")
    folder, result = finetune([*overrides, "method=few_shot", "method.config.shots=2", "task.max_target_length=4"])
    shots = json.loads((folder / "prompt" / "prompt.json").read_text())["shots"]
    assert len(shots) == 2 and all(" film " in shot and "great" in shot for shot in shots)
    assert result["audit"]["shots"]["requested"] == 2


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["model=bert"], "an encoder generates no text"),
        (["model=gpt2", "method.config.shots=0"], "is not for method=few_shot; use method=zero_shot"),
        (["model=gpt2", "method=zero_shot", "method.config.shots=2"], "use method=few_shot"),
        (["model=gpt2", "method.config.shots=-1"], "expected 0 or more"),
        (["model=gpt2", "method=lora", "task.prompt='{sentence1}'"], "task.prompt is for method=zero_shot"),
        (["model=gpt2", "task.prompt='{sentense1} is'"], "did you mean sentence1?"),
        (["model=gpt2", "task.prompt=what"], "contains no column"),
        (["model=gpt2", "task.verbalizer={equal:Yes}"], "unknown label equal"),
        (["model=gpt2", "task.template='{sentence1}'"], "a prompt is task.prompt"),
        (["model=gpt2", "early_stopping.patience=3"], "early_stopping.patience is for methods that train"),
        (
            ["model=gpt2", "task=instructions", "task.dataset=a.jsonl", "task.packing=true"],
            "task.packing is for methods that train",
        ),
        (["job=evaluate", "run=nowhere", "task.prompt='{nope}'"], "task.prompt is not for job=evaluate"),
        (
            ["model=gpt2", "task=regression", "task.dataset=rows.csv", "task.text=[a]"],
            "it has a text for two numbers or more; use task.verbalizer=",
        ),
        (["model=gpt2", "task=causal_lm", "task.dataset=rows.csv", "task.text=[a]"], "needs answers for its examples"),
    ],
)
def test_unsupported_prompting_is_refused(overrides: list[str], sentence: str) -> None:
    found = check(["method=few_shot", "task=mrpc", "source=offline", *overrides])
    assert any(sentence in each for each in found), found


def test_a_prompt_ends_without_spaces_and_names_no_label_that_is_not_there() -> None:
    task = run_of(["task=sst2", "task.prompt='{sentence} It was '", "task.verbalizer={positive:fine}"]).task
    assert prompt_template(task, ["negative", "positive"]) == PromptTemplate(
        "{sentence} It was", {"negative": "terrible", "positive": "fine"}
    )
    with pytest.raises(UserError, match="the data has no label positive; use one of bad, good"):
        prompt_template(task, ["bad", "good"])


def test_a_teacher_that_keeps_no_model_is_refused(tmp_path: Path) -> None:
    run = run_of(["task=sst2", f"distill.teacher={tmp_path}"])
    with pytest.raises(UserError, match="has no model, as a trial has; use a run without trial=true"):
        execution_setup(run)
