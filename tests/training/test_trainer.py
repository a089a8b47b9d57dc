"""An interrupted training resumes as if it had not been interrupted."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from helpers.interruption import BreakOff
from peft import AdaLoraConfig, AdaLoraModel, LoraConfig
from peft.utils import get_peft_model_state_dict
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForSequenceClassification,
    T5Config,
    T5ForConditionalGeneration,
    default_data_collator,
)

from peftkit import training
from peftkit.compat.transformers import attention_implementation
from peftkit.methods import apply_method
from peftkit.training import callbacks
from peftkit.training.outputs import OutputReader

STEPS = 30  # 3 an epoch


def adalora(folder: Path, score: Any = None) -> training.ScoringTrainer:
    """Return a trainer that takes ranks away from step 3 to step 20."""
    torch.manual_seed(0)
    bert = BertConfig(
        vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48
    )  # fmt: skip
    config = AdaLoraConfig(init_r=8, target_r=3, total_step=STEPS, tinit=3, tfinal=10, deltaT=1)
    model = apply_method(BertForSequenceClassification(bert), config)
    settings = {"num_train_epochs": STEPS // 3, "per_device_train_batch_size": 4, "learning_rate": 0.05, "bf16": False}
    arguments = training.training_arguments(
        {"disable_tqdm": True, "report_to": "none", **settings}, 0, folder, select_best=score is not None
    )
    ids = torch.randint(3, 50, (12, 6), generator=torch.Generator().manual_seed(0)).tolist()
    rows = Dataset.from_dict({"input_ids": ids, "labels": [row % 2 for row in range(12)]})
    return training.ScoringTrainer(
        model=model,
        args=arguments,
        data_collator=default_data_collator,
        train_dataset=rows,
        eval_dataset=rows,
        compute_metrics=score and (lambda evaluation: score(training.scores_of(evaluation.predictions))),
        reader=OutputReader("logits"),
    )


def weights(trainer: training.ScoringTrainer) -> dict[str, torch.Tensor]:
    """Return what would be saved of the model."""
    return {name: weight.clone() for name, weight in get_peft_model_state_dict(trainer.model).items()}


def ranks(trainer: training.ScoringTrainer) -> list[int]:
    assert isinstance(trainer.model.base_model, AdaLoraModel)
    return [sum(kept) for kept in trainer.model.peft_config["default"].rank_pattern.values()]


@pytest.mark.parametrize(
    "step", [pytest.param(4, marks=pytest.mark.slow), 13, pytest.param(25, marks=pytest.mark.slow)]
)  # before ranks go, while they do, and after
def test_adalora_resumes_with_every_rank_and_what_each_was_worth(tmp_path: Path, step: int) -> None:
    whole = adalora(tmp_path / "whole")
    training.fit(whole, tmp_path / "whole")
    assert sum(ranks(whole)) == 3 * len(ranks(whole)) and len(set(ranks(whole))) > 1
    broken = adalora(tmp_path / "broken")
    broken.add_callback(BreakOff(step))
    with pytest.raises(KeyboardInterrupt):
        training.fit(broken, tmp_path / "broken")
    resumed = adalora(tmp_path / "broken")
    training.fit(resumed, tmp_path / "broken")
    expected, found = weights(whole), weights(resumed)
    assert found.keys() == expected.keys()
    for name, weight in expected.items():
        assert torch.equal(found[name], weight), name


@pytest.mark.parametrize("best", [pytest.param(1, marks=pytest.mark.slow), 4, pytest.param(9, marks=pytest.mark.slow)])
def test_the_best_epoch_comes_back_with_its_own_ranks(tmp_path: Path, best: int) -> None:
    seen: list[np.ndarray] = []

    def score(scores: np.ndarray) -> dict[str, float]:
        seen.append(scores)
        return {"score": float(len(seen) == best)}

    trainer = adalora(tmp_path, score)
    training.fit(trainer, tmp_path)
    found = training.predict_scores(trainer, trainer.train_dataset, [6] * 12).scores
    np.testing.assert_allclose(found, seen[best - 1], atol=1e-6)
    trainer.model.save_pretrained(str(tmp_path / "saved"))
    again = adalora(tmp_path / "again")
    again.model.peft_config["default"].rank_pattern = trainer.model.peft_config["default"].rank_pattern
    again.model.load_adapter(str(tmp_path / "saved"), "default", is_trainable=True)
    np.testing.assert_allclose(training.predict_scores(again, again.train_dataset, [6] * 12).scores, found, atol=1e-6)


@pytest.mark.parametrize("own", [False, True])
def test_batches_that_add_up_give_the_gradient_of_one(tmp_path: Path, own: bool) -> None:
    ids = torch.randint(3, 50, (8, 6), generator=torch.Generator().manual_seed(0)).tolist()
    rows = Dataset.from_dict({"input_ids": ids, "labels": [row % 2 for row in range(8)]})
    found = []
    for size, steps in ((8, 1), (2, 4)):
        torch.manual_seed(0)
        bert = BertConfig(
            vocab_size=50, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=48,
            hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        )  # fmt: skip
        settings = {
            "per_device_train_batch_size": size, "gradient_accumulation_steps": steps, "num_train_epochs": 1,
            "optim": "sgd", "learning_rate": 0.1, "max_grad_norm": 0.0, "bf16": False, "disable_tqdm": True,
            "report_to": "none", "train_sampling_strategy": "sequential", "lr_scheduler_type": "constant",
        }  # fmt: skip
        trainer = training.ScoringTrainer(
            model=BertForSequenceClassification(bert),
            args=training.training_arguments(settings, 0),
            data_collator=default_data_collator,
            train_dataset=rows,
            reader=OutputReader("logits"),
            loss=(lambda model, batch: model(**batch).loss) if own else None,
        )
        trainer.train()
        found.append({name: weight.detach().clone() for name, weight in trainer.model.named_parameters()})
    for name, weight in found[0].items():
        torch.testing.assert_close(found[1][name], weight, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", ["t5", "bart"])
@pytest.mark.parametrize("has_adapter", [False, True])
def test_label_smoothing_of_encoder_decoders_is_that_of_a_hand_written_loss(name: str, has_adapter: bool) -> None:
    torch.manual_seed(0)
    t5 = T5Config(vocab_size=50, d_model=16, d_kv=8, num_layers=1, num_heads=2, d_ff=16, decoder_start_token_id=0)
    bart = BartConfig(
        vocab_size=50, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16,
    )  # fmt: skip
    base: Any = T5ForConditionalGeneration(t5) if name == "t5" else BartForConditionalGeneration(bart)
    model: Any = apply_method(base, LoraConfig(r=2), "seq2seq") if has_adapter else base
    settings = {"disable_tqdm": True, "report_to": "none", "bf16": False, "label_smoothing_factor": 0.2}
    arguments = training.training_arguments(settings, 0)
    trainer = training.ScoringTrainer(
        model=model, args=arguments, data_collator=default_data_collator, reader=OutputReader("likelihoods")
    )
    batch = {"input_ids": torch.tensor([[5, 6, 7, 1]]), "attention_mask": torch.ones(1, 4, dtype=torch.long)}
    batch["labels"] = torch.tensor([[9, 8, 1, -100]])
    loss = trainer.compute_loss(model.eval(), dict(batch))
    log_probs = base(**batch).logits[0, :3].log_softmax(dim=-1)
    right = -log_probs[range(3), batch["labels"][0, :3]].mean()
    torch.testing.assert_close(loss, 0.8 * right - 0.2 * log_probs.mean())


@pytest.mark.parametrize("optimizer", ["adamw_torch", "adafactor"])
def test_the_matrices_b_get_a_multiple_of_the_learning_rate(optimizer: str) -> None:
    """LoRA+ (Hayou et al. 2024), also while the rate decays."""
    torch.manual_seed(0)
    bert = BertConfig(vocab_size=50, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=48)
    model = apply_method(BertForSequenceClassification(bert), LoraConfig(r=4, target_modules="all-linear"))
    settings = {"learning_rate": 1e-3, "weight_decay": 0.1, "optim": optimizer, "bf16": False, "warmup_steps": 0}
    trainer = training.ScoringTrainer(
        model=model, args=training.training_arguments(settings, 0), reader=OutputReader("logits")
    )
    trainer.loraplus_lr_ratio = 16.0
    optimizer_ = trainer.create_optimizer()
    scheduler = trainer.create_scheduler(10, optimizer_)
    names = {weight: name for name, weight in model.named_parameters() if weight.requires_grad}
    for _ in range(2):
        rates = {names[weight]: group["lr"] for group in optimizer_.param_groups for weight in group["params"]}
        assert rates.keys() == set(names.values())
        slow = {
            rate
            for name, rate in rates.items()
            if "lora_A" in name or name.endswith("classifier.modules_to_save.default.weight")
        }
        fast = {rate for name, rate in rates.items() if "lora_B" in name}
        assert len(slow) == len(fast) == 1 and fast.pop() == pytest.approx(16 * slow.pop())
        optimizer_.step()
        scheduler.step()
    decays = {names[weight]: group["weight_decay"] for group in optimizer_.param_groups for weight in group["params"]}
    assert all(decay == (0.0 if name.endswith("bias") else 0.1) for name, decay in decays.items())


@pytest.mark.parametrize("seconds", [0.0, 60.0])
def test_a_short_epoch_has_no_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    monkeypatch.setattr(callbacks, "CHECKPOINT_SECONDS", seconds)
    trainer = adalora(tmp_path)
    trainer.add_callback(training.SparseCheckpointsCallback())
    training.fit(trainer, tmp_path)
    assert [each.name for each in tmp_path.glob("checkpoint-*")] == ([] if seconds else [f"checkpoint-{STEPS}"])


@pytest.mark.parametrize(
    ("size", "packed", "chooses", "is_eager"),
    [(128, False, True, True), (129, False, True, False), (8, True, True, False), (8, False, False, False)],
)
def test_short_batches_train_with_eager_attention(
    tmp_path: Path, size: int, packed: bool, chooses: bool, is_eager: bool
) -> None:
    bert = BertConfig(vocab_size=50, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    seen = []

    def loss(model: Any, batch: Any) -> torch.Tensor:
        seen.append(attention_implementation(model.config))
        return model(**batch).loss  # type: ignore[no-any-return]

    row = {"input_ids": [5] * size, "labels": 0} | ({"position_ids": list(range(size))} if packed else {})
    trainer = training.ScoringTrainer(
        model=BertForSequenceClassification(bert),
        args=training.training_arguments({"max_steps": 1, "bf16": False, "disable_tqdm": True}, 0),
        data_collator=default_data_collator,
        train_dataset=Dataset.from_list([row]),
        reader=OutputReader("logits"),
        loss=loss,
    )
    trainer.chooses_attention = chooses
    trainer.train()
    assert seen == ["eager" if is_eager else "sdpa"] and trainer.eager_batches == is_eager
    assert attention_implementation(trainer.model.config) == "sdpa"


def test_the_windows_of_a_long_passage_are_scored_in_batches() -> None:
    sizes: list[int] = []

    def step(model: Any, rows: list[dict[str, Any]], loss_only: bool) -> tuple[None, torch.Tensor, None]:
        sizes.append(len(rows))
        width = max(len(row["input_ids"]) for row in rows)
        return None, torch.tensor([row["input_ids"] + [-100] * (width - len(row["input_ids"])) for row in rows]), None

    rows = [[row] * (1 + row % 4) for row in range(10)]
    trainer: Any = SimpleNamespace(
        args=SimpleNamespace(eval_batch_size=4), model=None, data_collator=list, prediction_step=step
    )
    found = training.batch_scores(trainer, Dataset.from_dict({"input_ids": rows}))
    assert sizes == [4, 4, 2]
    assert found.tolist() == [row + [-100] * (4 - len(row)) for row in rows]


def test_labels_of_an_encoder_decoder_are_scored_during_training_as_after_it(tmp_path: Path) -> None:
    torch.manual_seed(0)
    t5 = T5Config(vocab_size=50, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, decoder_start_token_id=0)
    model = apply_method(T5ForConditionalGeneration(t5), LoraConfig(target_modules=["q", "v"], init_lora_weights=False))
    own = training.ScoringTrainer(
        model=model,
        args=training.training_arguments({"disable_tqdm": True, "bf16": True}, 0, tmp_path),
        reader=OutputReader("logits", np.array([[5, 1, -100], [6, 7, 1]])),
    )
    ids = torch.randint(3, 50, (4, 6))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    prepared = own.accelerator.prepare_model(own.model).eval()
    with training.fast_steps(own):  # frozen weights are in bf16
        during = own.score(prepared, inputs)
    assert torch.equal(during, own.score(prepared, inputs))
    assert torch.equal(during, own.score(model, inputs))
