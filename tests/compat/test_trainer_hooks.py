"""Private parts of transformers' Trainer (5.23), accelerate's Accelerator (1.15) and TRL's trainers (1.16) that peftkit uses."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.utils.data import Sampler
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.trainer_utils import get_last_checkpoint, sort_checkpoints
from trl import DPOTrainer, SFTTrainer
from trl.trainer.base_trainer import _BaseTrainer

from peftkit.compat.trainer import ASIDE, NoTelemetryMixin, PretokenizedDPOMixin, SamplerTrainer, reset_preparation

SMALL: dict[str, Any] = {"vocab_size": 20, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
EXAMPLES = [{"input_ids": torch.tensor([number, 4]), "labels": torch.tensor(0)} for number in range(4)]


class Backwards(Sampler):
    def __iter__(self) -> Any:
        return iter([3, 2, 1, 0])

    def __len__(self) -> int:
        return 4


class PlacingTrainer(SamplerTrainer):
    """Records what is in a checkpoint before it has its name, and loads none."""

    def place_checkpoint(self, written: Path, target: Path) -> None:
        self.seen = sorted(path.name for path in written.iterdir()), target.exists()
        written.rename(target)

    def check_checkpoint(self, checkpoint: Path) -> None:
        raise ValueError(checkpoint)


def trainer_of(folder: Path, model: Any = None) -> PlacingTrainer:
    model = model or BertForSequenceClassification(BertConfig(**SMALL, intermediate_size=8))
    arguments = TrainingArguments(str(folder), use_cpu=True, report_to="none", disable_tqdm=True, max_steps=1)
    return PlacingTrainer(model=model, args=arguments, train_dataset=EXAMPLES, eval_dataset=EXAMPLES)  # type: ignore[arg-type]


def test_dataloaders_get_their_order_from_the_private_samplers(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path)
    trainer.train_sampler = Backwards()
    for loader, order in (
        (trainer.get_train_dataloader(), [3, 2, 1, 0]),
        (trainer.get_eval_dataloader(), [0, 1, 2, 3]),
    ):
        assert [int(ids[0]) for batch in loader for ids in batch["input_ids"]] == order


def test_only_a_causal_language_model_s_loss_shifts_labels(tmp_path: Path) -> None:
    llama = LlamaForCausalLM(LlamaConfig(**SMALL, intermediate_size=8, bos_token_id=1, eos_token_id=2))
    assert not trainer_of(tmp_path).loss_shifts_labels
    assert trainer_of(tmp_path, llama).loss_shifts_labels


def test_inputs_are_moved_to_the_model_by_a_method_of_this_name(tmp_path: Path) -> None:
    assert list(inspect.signature(Trainer._prepare_inputs).parameters) == ["self", "inputs"]
    trainer = trainer_of(tmp_path)
    batch = trainer.prepare_inputs({"input_ids": torch.arange(5)[None]})
    assert batch["input_ids"].device == trainer.model.device


def test_a_checkpoint_is_written_aside_with_all_files_before_it_gets_its_name(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path)
    trainer.train()
    files, existed = trainer.seen
    assert {"model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"} <= {*files}
    assert not existed
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-1"]
    assert sorted(path.name for path in (tmp_path / "checkpoint-1").iterdir()) == files
    for file in ("save_model", "_save_optimizer_and_scheduler", "_save_scaler", "_save_rng_state"):
        assert f"self.{file}(output_dir" in inspect.getsource(Trainer._save_checkpoint)  # and writes nowhere else


def test_what_is_written_aside_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / ASIDE / "checkpoint-1").mkdir(parents=True)
    assert get_last_checkpoint(str(tmp_path)) is None
    assert sort_checkpoints(str(tmp_path)) == []


def test_the_log_goes_on_from_sums_that_upstream_sets_before_training_begins(tmp_path: Path) -> None:
    class Resume(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            trainer.state.global_step = 1  # so that it takes two steps of four
            trainer.load_log_state({"losses": [1.0], "total_loss": 5.0, "last_step": 0}, seconds=1000.0)

    trainer = trainer_of(tmp_path)
    trainer.args.max_steps, trainer.args.logging_steps = 2, 2
    trainer.add_callback(Resume())
    trainer.train()
    logged, summary = trainer.state.log_history
    loss = 2 * logged["loss"] - 1.0
    assert 0 < loss < 2  # of one step
    assert summary["train_loss"] == pytest.approx((6.0 + loss) / 2)
    assert 1000 < summary["train_runtime"] < 1100
    assert trainer.log_state() == {"losses": [0.0], "total_loss": pytest.approx(6.0 + loss), "last_step": 2}


def test_the_best_checkpoint_is_checked_before_its_weights_are_loaded(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path)
    trainer.args.load_best_model_at_end = True
    trainer.add_callback(Best(tmp_path / "checkpoint-1"))
    with pytest.raises(ValueError, match="checkpoint-1"):
        trainer.train()


class Best(TrainerCallback):
    def __init__(self, checkpoint: Path) -> None:
        self.checkpoint = checkpoint

    def on_step_end(self, args: Any, state: Any, *_: Any, **__: Any) -> None:
        state.best_model_checkpoint = str(self.checkpoint)


@pytest.mark.parametrize("limit", [0.01, 100.0])
def test_gradients_are_clipped_as_upstream_clips_those_of_all_weights(tmp_path: Path, limit: float) -> None:
    trainer = trainer_of(tmp_path)
    trainer.args.max_grad_norm = limit
    for name, weight in trainer.model.named_parameters():
        weight.requires_grad_(".key." not in name)
    trainer.train()
    found = []
    for clip in (Trainer._clip_grad_norm, SamplerTrainer._clip_grad_norm):
        generator = torch.Generator().manual_seed(0)
        for weight in trainer.model.parameters():
            weight.grad = torch.randn(weight.shape, generator=generator) if weight.requires_grad else None
        norm = clip(trainer, trainer.model)
        found.append([norm, *(weight.grad for weight in trainer.model.parameters() if weight.grad is not None)])
    torch.testing.assert_close(found[1], found[0], rtol=1e-6, atol=0)


def test_operations_are_counted_as_upstream_counts_them(tmp_path: Path) -> None:
    trainer, batch = trainer_of(tmp_path), {"input_ids": torch.ones(3, 5, dtype=torch.long)}
    for _ in range(2):
        assert trainer.floating_point_ops(batch) == Trainer.floating_point_ops(trainer, batch) > 0
    assert trainer.floating_point_ops({}) == Trainer.floating_point_ops(trainer, {}) == 0


def test_checkpoints_lack_weights_that_were_frozen_from_the_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = trainer_of(tmp_path)
    trainer.model.bert.encoder.requires_grad_(False)
    trainer = trainer_of(tmp_path, trainer.model)
    trainer.train()
    saved = load_file(tmp_path / "checkpoint-1" / "model.safetensors")
    state = trainer.model.state_dict()
    assert saved.keys() == {name for name in state if ".encoder." not in name}
    resumed = trainer_of(tmp_path)
    resumed.model.load_state_dict({name: state[name] for name in state if ".encoder." in name}, strict=False)
    resumed.model.bert.encoder.requires_grad_(False)
    resumed = trainer_of(tmp_path, resumed.model)
    resumed._load_from_checkpoint(str(tmp_path / "checkpoint-1"))
    assert not caplog.records
    assert all(torch.equal(each, state[name]) for name, each in resumed.model.state_dict().items())


@pytest.mark.parametrize("reset", [False, True])
def test_a_model_that_predicted_is_prepared_again_after_a_reset(tmp_path: Path, reset: bool) -> None:
    trainer = trainer_of(tmp_path)
    trainer.predict(EXAMPLES)  # type: ignore[arg-type]
    trainer.accelerator.prepare(trainer.model)
    assert trainer.model._is_accelerate_prepared
    assert trainer.accelerator._models
    if reset:
        reset_preparation(trainer)
        assert not hasattr(trainer.model, "_is_accelerate_prepared")
        assert not trainer.accelerator._models


def test_every_override_has_a_method_to_override() -> None:
    for name in ("create_model_card", "_send_telemetry"):
        assert name in vars(NoTelemetryMixin) and name in vars(_BaseTrainer), name
    for name in ("_prepare_dataset", "_precompute_ref_logps"):
        assert name in vars(PretokenizedDPOMixin) and name in vars(DPOTrainer), name
    assert next(iter(inspect.signature(DPOTrainer._precompute_ref_logps).parameters)) == "self"


def test_logged_metrics_wait_in_a_private_dictionary() -> None:
    for trainer in (SFTTrainer, DPOTrainer):
        source = inspect.getsource(trainer)
        assert 'self._metrics = {"train": defaultdict(list), "eval": defaultdict(list)}' in source
        assert 'self._metrics[mode]["num_tokens"]' in source
