"""Training of the used rows of word embeddings: the weights of training all rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from helpers.interruption import BreakOff
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    T5Config,
    T5ForSequenceClassification,
)

from peftkit import training
from peftkit.training.embedding_rows import used_rows
from peftkit.training.outputs import OutputReader

BERT: Any = (BertForSequenceClassification, BertConfig(
    vocab_size=90, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=48, pad_token_id=3
))  # fmt: skip
GPT2: Any = (GPT2ForSequenceClassification, GPT2Config(vocab_size=90, n_embd=32, n_layer=1, n_head=2, pad_token_id=3))
T5: Any = (
    T5ForSequenceClassification,
    T5Config(vocab_size=90, d_model=32, d_ff=48, d_kv=16, num_heads=2, num_layers=1),
)
PAD, UNUSED = 3, 89
STEPS = 9


def padded(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    ids = [torch.tensor(row["input_ids"]) for row in rows]
    return {
        "input_ids": pad_sequence(ids, batch_first=True, padding_value=PAD),
        "attention_mask": pad_sequence([torch.ones_like(each) for each in ids], batch_first=True),
        "labels": torch.tensor([row["labels"] for row in rows]),
    }


def trainer_of(model: Any, folder: Path, added_ids: list[int] | None, **settings: Any) -> training.ScoringTrainer:
    torch.manual_seed(0)
    arguments = training.training_arguments(
        {
            "num_train_epochs": 3, "per_device_train_batch_size": 4, "learning_rate": 0.01, "weight_decay": 0.1,
            "adam_epsilon": 1e-4,  # the gradient of a key's bias is zero but for rounding, which AdamW would enlarge
            "bf16": False, "disable_tqdm": True, "report_to": "none", **settings,
        },
        0, folder,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    ids = [torch.randint(5, 30, (2 + row % 5,), generator=generator).tolist() for row in range(12)]
    rows = Dataset.from_dict({"input_ids": ids, "labels": [row % 2 for row in range(12)]})
    trainer = training.ScoringTrainer(
        model=model[0](model[1]), args=arguments, data_collator=padded,
        train_dataset=rows, reader=OutputReader("logits"),
    )  # fmt: skip
    trainer.added_ids = added_ids
    return trainer


def weights(trainer: Any) -> dict[str, torch.Tensor]:
    return {name: each.detach().clone() for name, each in trainer.model.named_parameters()}


@pytest.mark.parametrize("model", [BERT, GPT2], ids=["bert", "gpt2"])
def test_the_weights_are_those_of_training_all_rows(model: Any, tmp_path: Path) -> None:
    found, moments = [], []
    for added in (None, [PAD]):
        trainer = trainer_of(model, tmp_path / str(added), added)
        embedding = trainer.model.get_input_embeddings()
        before, start = embedding.weight, embedding.weight.detach().clone()
        fit = training.fit(trainer, tmp_path / "none")
        assert fit.steps == STEPS
        assert embedding.weight is before
        assert "forward" not in vars(embedding)
        assert not list(embedding.buffers())
        found.append(weights(trainer))
        moments.append({len(each["exp_avg"]) for each in trainer.optimizer.state.values()})
    assert 90 in moments[0] - moments[1]
    for name, weight in found[0].items():
        torch.testing.assert_close(found[1][name], weight, rtol=0, atol=2e-6, msg=name)
    name = next(name for name in found[0] if "word_embeddings" in name or "wte" in name)
    rates = [0.01 * (1 - step / STEPS) for step in range(STEPS)]  # the scheduler is linear, without warmup
    decayed = start[UNUSED].double()
    for rate in rates:
        decayed *= 1 - rate * 0.1
    torch.testing.assert_close(found[1][name][UNUSED].double(), decayed, rtol=1e-6, atol=0)


def test_a_resumed_run_has_the_weights_of_an_uninterrupted_one(tmp_path: Path) -> None:
    whole = trainer_of(BERT, tmp_path / "whole", [PAD])
    training.fit(whole, tmp_path / "whole")
    broken = trainer_of(BERT, tmp_path / "broken", [PAD])
    broken.add_callback(BreakOff(7))
    with pytest.raises(KeyboardInterrupt):
        training.fit(broken, tmp_path / "broken")
    resumed = trainer_of(BERT, tmp_path / "broken", [PAD])
    nn.init.zeros_(resumed.model.get_input_embeddings().weight)  # the checkpoint has all rows
    training.fit(resumed, tmp_path / "broken")
    for name, weight in weights(whole).items():
        torch.testing.assert_close(weights(resumed)[name], weight, rtol=0, atol=1e-7, msg=name)


def test_a_state_dict_has_all_rows_during_training(tmp_path: Path) -> None:
    trainer = trainer_of(BERT, tmp_path, [PAD])
    embedding = trainer.model.get_input_embeddings()
    before = {name: each.clone() for name, each in trainer.model.state_dict().items()}
    with used_rows(trainer):
        assert len(embedding.weight) < 30
        state = trainer.model.state_dict()
        assert state.keys() == before.keys()
        assert all(torch.equal(state[name], before[name]) for name in before)
        changed = {name: each + 1 for name, each in before.items() if "word_embeddings" in name}
        trainer.model.load_state_dict(changed, strict=False)
    assert torch.equal(embedding.weight, *changed.values())


@pytest.mark.parametrize(
    ("model", "added", "settings"),
    [
        (BERT, None, {}),  # the collator may add any token
        (BERT, list(range(50)), {}),  # more than half of the vocabulary
        (BERT, [PAD], {"optim": "adafactor"}),  # its statistics are of whole matrices
        ((BertForMaskedLM, BERT[1]), [PAD], {}),  # tied
        (T5, [PAD], {}),
    ],
    ids=["unknown", "most", "adafactor", "tied", "t5"],
)
def test_all_rows_are_trained_where_some_would_not_do(
    model: Any, added: list[int] | None, settings: dict[str, Any], tmp_path: Path
) -> None:
    trainer = trainer_of(model, tmp_path, added, **settings)
    with used_rows(trainer):
        assert len(trainer.model.get_input_embeddings().weight) == 90


def test_other_tokens_are_scored_and_not_trained(tmp_path: Path) -> None:
    trainer = trainer_of(BERT, tmp_path, [PAD, 40])
    batch, model = {"input_ids": torch.tensor([[UNUSED, 40]])}, trainer.model.eval()
    with torch.no_grad():
        before = model(**batch).logits
        with used_rows(trainer):
            assert torch.equal(model(**batch).logits, before)
            model.train()(input_ids=torch.tensor([[40]]))
            model.get_input_embeddings().weight.mul_(2)
            after = model.eval()(**batch).logits
            with pytest.raises(IndexError):
                model.train()(**batch)
        assert torch.equal(model.eval()(**batch).logits, after)
    assert not torch.equal(after, before)
