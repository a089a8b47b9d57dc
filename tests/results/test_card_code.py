"""The code of a card predicts as the run did, in a process that cannot import peftkit."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from helpers import card_code, commands
from helpers.hub_server import TOKEN, hub, use_hub

import peftkit
from peftkit.models.checkpoints import MINILM, PACKAGED

Overrides = Callable[..., list[str]]
FP32 = ("train.bf16=false", "train.learning_rate=2e-3")
METHODS = ("lora", "ia3", "full")
MODELS = {"bert": ["task=sst2", "model.pooling=mean"], "gpt2": ["task=mrpc"], "t5": ["task=mrpc"]}
CELLS = [(model, f"method={method}") for model in MODELS for method in METHODS]
WORDS = ["the dull plot", "a fine film of the year", "bad", "it was the best of all"]
TEXTS, PAIRS = WORDS * 3, [[one, other] for one in WORDS for other in WORDS[:2]]


def train(overrides: list[str]) -> Path:
    (folder,) = commands.finetune(*overrides, *FP32)
    return folder


def export(run: Path, name: str, *more: str) -> Path:
    """Return the card of an export."""
    return Path(commands.run(["job=export", f"run={run}", f"format={name}", "source=offline", *more])) / "README.md"


def check(cards: list[Path], inputs: list[Any], runs: list[Path] | None = None, **settings: str) -> None:
    """Compare what the cards predict with what the runs do, by default those whose folders the cards are in or below.

    Probabilities of classes are those that training recorded.
    """
    runs = runs or [card.parent if (card.parent / "result.json").is_file() else card.parent.parent for card in cards]
    tables = [pd.read_parquet(run / "predictions.parquet") for run in runs]
    texts = [_texts(table) if given is None else given for table, given in zip(tables, inputs, strict=True)]
    found = card_code.predictions(list(zip(cards, texts, strict=True)), **settings)
    for run, table, given, rows in zip(runs, tables, inputs, found, strict=True):
        if given is None:
            assert len(rows) == len(table) > 20
            probabilities = np.array([[*row.values()] for row in rows])
            assert np.abs(probabilities - np.stack(table["probabilities"])).max() < 1e-4, run
            if "label_name" in table and isinstance(table["prediction_name"][0], str):
                assert [max(row, key=row.get) for row in rows] == table["prediction_name"].tolist(), run
            continue
        asked = [text[0]["content"] if isinstance(text[0], dict) else text for text in given]
        asked = [" ".join(text) if "token_classification" in str(run) else text for text in asked]
        answers = [answer.prediction for answer in peftkit.predict(run, asked, **{"train.bf16": False})]
        for row, answer in zip(rows, answers, strict=True):
            assert row == pytest.approx(answer, abs=1e-4), run


def _texts(table: pd.DataFrame) -> list[Any]:
    names = [name for name in ("text", "sentence", "sentence1", "sentence2") if name in table]
    return table[names[0]].tolist() if len(names) == 1 else table[names].to_numpy().tolist()


def test_the_code_of_a_card_predicts_as_the_run_did(tiny: Overrides) -> None:
    check([train(tiny("bert", *MODELS["bert"])) / "README.md"], [None])


@pytest.mark.slow
def test_every_method_and_model_of_classes_and_its_merged_checkpoint(tiny: Overrides) -> None:
    runs = [train(tiny(model, *MODELS[model], method)) for model, method in CELLS]
    for run, (_, method) in zip(runs, CELLS, strict=True):
        export(run, "transformers")
        if method != "method=full":
            commands.merge(run)
    cards = [card for run in runs for card in sorted(run.glob("**/README.md"))]
    assert len(cards) == 3 * 2 * 3 + 3 * 2
    check(cards, [None] * len(cards))


QUESTIONS = [["which year", "the film of the year is a fine film"], ["what is fine", "it was a fine film"]]
KINDS: dict[str, tuple[str, list[str], list[Any] | None]] = {
    "cls": ("bert", ["task=mrpc", "calibration.holdout=0.3"], None),
    "distilbert": ("distilbert", ["task=sst2", "model.pooling=mean", "method=full"], None),
    "roberta": ("roberta", ["task=sst2", "model.pooling=mean"], None),
    "t5_encoder": ("t5", ["task=sst2", "model=t5_encoder"], None),
    "labels": ("bert", ["task=multilabel", "task.dataset={labels}", "task.text=[text]", "task.label=labels", "calibration.holdout=0.3",
                        "calibration.thresholds=true"], None),
    "regression": ("bert", ["task=stsb"], PAIRS),
    "regression as text": ("t5", ["task=stsb"], PAIRS),
    "tags": ("bert", ["task=token_classification", "task.dataset={tags}", "task.label=tags"], [["a", "film"], ["of", "the", "year"]]),
    "tags of a decoder": ("gpt2", ["task=token_classification", "task.dataset={tags}", "task.label=tags"], [["a", "film"]]),
    "spans": ("bert", ["task=question_answering", "task.stride=8", "task.dataset={spans}", "task.no_answer=true"], QUESTIONS),
    "spans of T5": ("t5", ["task=question_answering", "model=t5_encoder", "task.stride=8", "task.dataset={spans}"], QUESTIONS),
    "spans of a decoder": ("gpt2", ["task=question_answering", "task.stride=8", "task.dataset={spans}"], QUESTIONS),
    "answers": ("gpt2", ["task=causal_lm", "task.dataset={answers}", "task.text=[text]", "task.label=answer", "task.generation.num_beams=2"], TEXTS),
    "answers of T5": ("t5", ["task=seq2seq", "task.dataset={answers}", "task.text=[text,more]", "task.label=answer",
                             "task.template='{text} | {more}'"], PAIRS),
    "turns": ("gpt2", ["task=instructions", "task.dataset={answers}", "task.text=[text]", "task.label=answer",
               "task.max_target_length=16"], [[{"role": "user", "content": text}] for text in WORDS]),
    "with base": ("gpt2", ["task=sst2", "export.with_base=true"], None),
    "soft prompt": ("bert", ["task=sst2", "model.pooling=mean", "method=peft", "method.config._target_=peft.PromptTuningConfig",
                             "method.config.num_virtual_tokens=4"], None),
}  # fmt: skip
GGUF = ("answers", "turns")
ANSWERS = [{"text": text, "more": more, "answer": more[:9]} for text, more in PAIRS]
FILES: dict[str, list[dict[str, Any]]] = {
    "tags": [{"tokens": text.split(), "tags": ["O", *["B-X"] * (len(text.split()) - 1)]} for text in WORDS * 4],
    "answers": ANSWERS * 3,
    "labels": [{"text": f"{text} {n}", "labels": ["a", "b"][n % 2 : 1 + n % 3]} for n in range(90) for text in WORDS],
    "spans": [
        {"question": f"where {number}", "context": text, "answers": {"text": [text[:5].strip()], "answer_start": [0]}}
        for number, text in enumerate(["a fine film", "the year of it", "it was best"] * 5)
    ],
}


@pytest.mark.slow
def test_other_kinds_heads_and_poolings(tiny: Overrides, tmp_path: Path) -> None:
    files = {name: tmp_path / f"{name}.jsonl" for name in FILES}
    for name, rows in FILES.items():
        files[name].write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    runs = []
    for model, overrides, _ in KINDS.values():
        filled = [each.format(**files, text="{text}", more="{more}") for each in overrides]
        runs.append(train(tiny(model, *filled)))
    inputs = [given for _, _, given in KINDS.values()]
    cards = [run / "README.md" for run in runs] + [export(run, "transformers") for run in runs]
    of_gguf = [
        (export(run, "gguf", "export.gguf_type=f32"), KINDS[kind][2])
        for kind, run in zip(KINDS, runs, strict=True)
        if kind in GGUF
    ]
    check([*cards, *(card for card, _ in of_gguf)], [*inputs, *inputs, *(given for _, given in of_gguf)])


def test_the_code_of_a_method_that_peft_lacks_loads_with_peftkit(
    tiny: Overrides, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = train(tiny("bert", *MODELS["bert"], "method=adapter"))
    table = pd.read_parquet(run / "predictions.parquet")
    names: dict[str, Any] = {}
    monkeypatch.chdir(run)
    exec(card_code.code_of(run / "README.md"), names)
    probabilities = np.array([[*row.values()] for row in names["predict"](_texts(table))])
    assert np.abs(probabilities - np.stack(table["probabilities"])).max() < 1e-4


@pytest.mark.slow
def test_a_base_of_the_hub_is_loaded_at_its_commit(
    tiny: Overrides, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    cache, commit = tmp_path / "hub", "0" * 40
    repository = cache / "models--me--base"
    shutil.copytree(checkpoints["gpt2"], repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    given = [each for each in tiny("gpt2", "task=sst2", *FP32) if not each.startswith(("source=", "model.checkpoint="))]
    command = [sys.executable, "-m", "peftkit", *given, "model.checkpoint=me/base", "model.revision=main"]
    subprocess.run(command, check=True, env={**os.environ, "HF_HUB_CACHE": str(cache)}, capture_output=True)
    (card,) = tmp_path.glob("outputs/**/README.md")
    assert f'from_pretrained("me/base", revision="{commit}"' in card.read_text(encoding="utf-8")
    check([card], [None], HF_HUB_CACHE=str(cache))


PIPELINE = """
```python
from transformers import pipeline

classify = pipeline("text-classification", model="ada/merged", top_k=None, trust_remote_code=True)


def predict(texts):
    return [dict(sorted((each["label"], each["score"]) for each in row)) for row in classify(texts, truncation=True)]
```
"""


@pytest.mark.slow
def test_cards_run_where_torch_transformers_and_peft_alone_are_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    common = [
        "model=minilm", "task=sst2", "source=offline", f"out={tmp_path}/outputs", "task.max_train_samples=64",
        "task.max_eval_samples=24", "train.num_train_epochs=1", "train.disable_tqdm=true",
    ]  # fmt: skip
    lora = train([*common, "method=lora", "export.with_base=true", "calibration.holdout=0.3"])
    full, cards = train([*common, "method=full"]), []
    for run, packages in ((lora, "torch, transformers, peft"), (full, "torch, transformers")):
        assert f"It needs {packages}, and no other package" in (run / "README.md").read_text(encoding="utf-8")
    module, path, _ = PACKAGED["minilm"]
    with hub() as server:
        server.add(MINILM, Path(str(resources.files(module))) / path)
        use_hub(server, monkeypatch, tmp_path / "cache")
        for name, run, what in (("adapter", lora, "adapter"), ("merged", lora, "merged"), ("full", full, None)):
            more = [] if what is None else [f"push.what={what}"]
            commands.run(["job=push", f"run={run}", f"repo=ada/{name}", *more])
            cards.append(tmp_path / name / "README.md")
            cards[-1].parent.mkdir()
            cards[-1].write_bytes(server.repository(f"ada/{name}").files()["README.md"])
        cards.append(tmp_path / "pipeline.md")
        cards[-1].write_text(PIPELINE)
        python = card_code.bare_environment(tmp_path / "environment", "torch", "transformers", "peft")
        assert not [*(tmp_path / "environment").glob("lib/*/site-packages/*peftkit*")]
        assert not [*(tmp_path / "environment").glob("lib/*/site-packages/datasets")]
        environment = {**server.environment, "HF_TOKEN": TOKEN, "HF_HOME": str(tmp_path / "home")}
        runs = [lora, full, lora, lora, full, lora]
        check([lora / "README.md", full / "README.md", *cards], [None] * 6, runs, python=python, **environment)
