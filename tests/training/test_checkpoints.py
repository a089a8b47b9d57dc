"""Whatever a kill leaves of the checkpoints, training ends as one that was not interrupted, to the bit."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from helpers.crash_images import CrashImages, Image
from helpers.disks import flip
from helpers.interruption import BreakOff
from peft import AdaLoraConfig, LoraConfig
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    TrainerCallback,
    TrainingArguments,
    default_data_collator,
)

from peftkit import training
from peftkit.config import UserError
from peftkit.data.batches import SeededCollator
from peftkit.methods import Gradual, apply_method
from peftkit.training import checkpoints
from peftkit.training.outputs import OutputReader

BERT = BertConfig(
    vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24
)  # fmt: skip
ADALORA = {"init_r": 4, "target_r": 2, "total_step": 6, "tinit": 1, "tfinal": 2, "deltaT": 1}
KINDS = ["lora", "adalora", "gradual", "early_stopping", "collator"]
SAMPLE = 3  # of the images of a kind, in the fast tests
IMAGES: dict[str, tuple[list[Image], dict[str, Any]]] = {}  # by kind, with what the unbroken training ended with


def with_noise(examples: list[dict[str, Any]]) -> dict[str, Any]:
    batch = default_data_collator(examples)
    batch["input_ids"][torch.rand(batch["input_ids"].shape) < 0.3] = int(np.random.randint(3, 50))
    return batch  # type: ignore[no-any-return]


def trainer_of(kind: str, folder: Path, **settings: Any) -> training.ScoringTrainer:
    """Return a trainer that takes 6 steps, 3 an epoch, with a checkpoint after each, and logs every fourth."""
    torch.manual_seed(0)
    model: Any = BertForSequenceClassification(BERT)
    schedule = None
    if kind == "gradual":
        gradual = Gradual(every=2, decay=2.6)
        model = gradual.apply(model)
        schedule = gradual.unfreezing(model)
    elif kind == "adalora":
        model = apply_method(model, AdaLoraConfig(task_type="SEQ_CLS", **ADALORA))
    else:
        model = apply_method(model, LoraConfig(task_type="SEQ_CLS", r=2))
    stops = kind == "early_stopping"
    arguments = training.training_arguments(
        {
            "num_train_epochs": 9 if stops else 2, "per_device_train_batch_size": 4, "learning_rate": 0.05,
            "bf16": False, "disable_tqdm": True, "logging_steps": 4,
            **({} if stops else {"save_strategy": "steps", "save_steps": 1}), **settings,
        },
        0, folder, select_best=stops, unused_parameters=schedule is not None,
    )  # fmt: skip
    ids = torch.randint(3, 50, (12, 6), generator=torch.Generator().manual_seed(0)).tolist()
    examples = Dataset.from_dict({"input_ids": ids, "labels": [number % 2 for number in range(12)]})
    return training.ScoringTrainer(
        model=model, args=arguments, train_dataset=examples,
        data_collator=default_data_collator,
        train_collator=SeededCollator(with_noise, seed=0) if kind == "collator" else None,
        eval_dataset=examples, reader=OutputReader("logits"), schedule=schedule, patience=2 if stops else None,
        compute_metrics=(lambda found: {"score": float(np.abs(found.predictions).mean())}) if stops else None,
    )  # fmt: skip


def outcome(trainer: training.ScoringTrainer, folder: Path) -> dict[str, Any]:
    """Train, and return all that must be the same: weights, optimizer, schedule, log and predictions."""
    fit = training.fit(trainer, folder)
    assert trainer.optimizer is not None and trainer.lr_scheduler is not None
    return {
        "weights": trainer.model.state_dict(),
        "optimizer": trainer.optimizer.state_dict()["state"],
        "schedule": trainer.lr_scheduler.state_dict()["_step_count"],
        "log": [
            {name: value for name, value in entry.items() if not name.endswith(("_runtime", "_per_second"))}
            for entry in fit.history
        ],
        "steps": fit.steps,
        "eager": trainer.eager_batches,
        "best": trainer.state.best_metric,
        "scores": None
        if isinstance(trainer.data_collator, SeededCollator)
        else training.predict_scores(trainer, trainer.eval_dataset, [6] * 12).scores,  # type: ignore[arg-type]
    }


def same(found: Any, expected: Any) -> bool:
    if isinstance(expected, dict):
        return found.keys() == expected.keys() and all(same(found[key], expected[key]) for key in expected)
    if isinstance(expected, (torch.Tensor, np.ndarray)):
        return bool((found == expected).all())
    return bool(found == expected)


def check(found: dict[str, Any], expected: dict[str, Any], message: str) -> None:
    assert [name for name in expected if not same(found[name], expected[name])] == [], message


def images_of(kind: str, folder: Path) -> tuple[list[Image], dict[str, Any]]:
    if kind not in IMAGES:
        with CrashImages(folder / "whole") as recorded:
            expected = outcome(trainer_of(kind, folder / "whole"), folder / "whole")
        IMAGES[kind] = recorded.images, expected
    return IMAGES[kind]


@pytest.mark.parametrize("kind", ["lora", "early_stopping"])
def test_training_goes_on_from_what_a_kill_leaves(kind: str, tmp_path: Path) -> None:
    images, expected = images_of(kind, tmp_path)
    assert expected["steps"] == (9 if kind == "early_stopping" else 6)
    for image in random.Random(0).sample(images, SAMPLE):
        image.write(tmp_path / "killed")
        check(outcome(trainer_of(kind, tmp_path / "killed"), tmp_path / "killed"), expected, image.operation)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_training_goes_on_from_much_that_a_kill_leaves(kind: str, tmp_path: Path) -> None:
    images, expected = images_of(kind, tmp_path)
    for image in random.Random(1).sample(images, 10 * SAMPLE):
        image.write(tmp_path / "killed")
        check(outcome(trainer_of(kind, tmp_path / "killed"), tmp_path / "killed"), expected, image.operation)


def test_a_checkpoint_has_its_name_only_when_it_is_whole(tmp_path: Path) -> None:
    images, _ = images_of("early_stopping", tmp_path)
    seen = set()
    for image in images:
        named = [(name, content) for name, content in image.content.items() if name.startswith("checkpoint-")]
        if named and (key := hash(tuple(named))) not in seen:
            seen.add(key)
            image.write(tmp_path / "killed")
            for name in {Path(name).parts[0] for name, _ in named}:
                assert checkpoints.damage(tmp_path / "killed" / name, processes=1) is None, image.operation
    assert len(seen) >= 3


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "flipped": (lambda folder: flip(folder / "adapter_model.safetensors"), "adapter_model.safetensors has another content"),
    "torn": (lambda folder: (folder / "scheduler.pt").write_bytes(b"PK"), "scheduler.pt has 2 bytes, not "),
    "missing": (lambda folder: (folder / "optimizer.pt").unlink(), "optimizer.pt is missing"),
    "extra": (lambda folder: (folder / "model.safetensors").write_bytes(b"1"), "model.safetensors is not in manifest.json"),
    "earlier": (lambda folder: (folder / "manifest.json").unlink(), "no manifest.json, as those of earlier versions"),
    "garbled": (lambda folder: (folder / "manifest.json").write_text("{"), "manifest.json cannot be read"),
    "other": (lambda folder: (folder / "manifest.json").write_text("[1]"), "manifest.json cannot be read"),
    "processes": (lambda folder: (folder / "rng_state.pth").rename(folder / "rng_state_0.pth"), "rng_state.pth is missing"),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_checkpoint_is_dropped_and_named(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage, reason = DAMAGES[name]
    _, expected = images_of("lora", tmp_path)
    folder = tmp_path / "killed"
    killed = trainer_of("lora", folder, save_total_limit=2)
    killed.add_callback(BreakOff(4))
    with pytest.raises(KeyboardInterrupt):
        training.fit(killed, folder)
    damage(folder / "checkpoint-4")
    capsys.readouterr()
    check(outcome(trainer_of("lora", folder), folder), expected, name)
    printed = capsys.readouterr().err
    assert f"!! {folder}: checkpoint-4 is damaged ({reason}" in printed
    assert "); training continues from checkpoint-3\n" in printed


def test_without_a_whole_checkpoint_training_starts_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, expected = images_of("early_stopping", tmp_path)
    folder = tmp_path / "killed"
    killed = trainer_of("early_stopping", folder)
    killed.add_callback(BreakOff(7))
    with pytest.raises(KeyboardInterrupt):
        training.fit(killed, folder)
    flip(folder / "checkpoint-3" / "optimizer.pt")  # of the best epoch
    capsys.readouterr()
    check(outcome(trainer_of("early_stopping", folder), folder), expected, "")
    reason = "optimizer.pt has another content than was recorded"
    assert (
        f"!! {folder}: checkpoint-6 is damaged (its best epoch, checkpoint-3: {reason}), checkpoint-3 is damaged "
        f"({reason}); training starts again\n"
    ) in capsys.readouterr().err


def test_the_best_epoch_is_not_loaded_with_other_weights(tmp_path: Path) -> None:
    class Damage(TrainerCallback):
        def on_epoch_begin(self, args: TrainingArguments, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == 6:
                flip(tmp_path / "checkpoint-3" / "adapter_model.safetensors")

    trainer = trainer_of("early_stopping", tmp_path)
    trainer.add_callback(Damage())
    with pytest.raises(
        UserError, match=r"checkpoint-3 is damaged \(adapter_model.safetensors has another content than was recorded\)"
    ):
        training.fit(trainer, tmp_path)


@pytest.mark.parametrize("name", ["max_steps", "evaluation", "moved"])
def test_a_training_that_had_ended_takes_no_step(name: str, tmp_path: Path) -> None:
    kind = "lora" if name == "max_steps" else "early_stopping"
    settings: dict[str, Any] = {"max_steps": 4} if name == "max_steps" else {}  # within the second epoch
    settings |= {"eval_on_start": True} if name == "evaluation" else {}
    expected = outcome(trainer_of(kind, tmp_path / "run", **settings), tmp_path / "run")
    folder = tmp_path / "run"
    if name == "moved":
        folder = folder.rename(tmp_path / "elsewhere")
    check(outcome(trainer_of(kind, folder, **settings), folder), expected, name)


def test_the_collator_of_training_is_not_that_of_scoring(tmp_path: Path) -> None:
    trainer = trainer_of("collator", tmp_path)
    assert trainer.get_train_dataloader().collate_fn is trainer.train_collator
    assert trainer.get_eval_dataloader().collate_fn is default_data_collator


def test_random_numbers_of_a_collator_depend_on_seed_epoch_and_examples_only() -> None:
    examples = [{"input_ids": list(range(3, 40)), "labels": 0}]
    collate = SeededCollator(with_noise, seed=0)
    torch.manual_seed(0)
    expected, first = torch.rand(2), collate(examples)["input_ids"]
    torch.manual_seed(0)
    assert same(collate(examples)["input_ids"], first) and same(torch.rand(2), expected)
    collate.epoch = 1
    assert not same(collate(examples)["input_ids"], first)
    assert not same(SeededCollator(with_noise, seed=1)(examples)["input_ids"], first)


def test_a_training_that_a_callback_ends_is_not_finished(tmp_path: Path) -> None:
    class Stop(TrainerCallback):
        def on_step_end(self, args: TrainingArguments, state: Any, control: Any, **_: Any) -> None:
            control.should_training_stop = state.global_step == 2

    trainer = trainer_of("lora", tmp_path)
    trainer.add_callback(Stop())
    with pytest.raises(UserError, match=r"training ended after 2 of 6 steps, without early_stopping\.patience"):
        training.fit(trainer, tmp_path)


def test_a_disk_that_is_full_leaves_nothing_of_the_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints, "place", full)
    with pytest.raises(OSError, match="No space left"):
        training.fit(trainer_of("lora", tmp_path), tmp_path)
    assert not list(tmp_path.iterdir())
