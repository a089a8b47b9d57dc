"""Models of several tasks share their bodies and nothing of their heads."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, PrefixTuningConfig
from transformers import (
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    BertConfig,
    GPT2Config,
)

from peftkit.methods import (
    BitFit,
    Full,
    LinearProbe,
    apply_method,
    count_parameters,
    is_task_head,
    join_ranks,
    share_ranks,
    tie_models,
)
from peftkit.training import MultiTaskModel, model_loss
from peftkit.training.outputs import OutputReader

SIZE: dict[str, Any] = {"vocab_size": 50}
CONFIGS: dict[str, Any] = {
    "bert": BertConfig(**SIZE, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24),
    "gpt2": GPT2Config(**SIZE, n_embd=16, n_layer=2, n_head=2, n_positions=32, pad_token_id=0),
}
METHODS: dict[str, Any] = {
    "lora": lambda kind: LoraConfig(task_type=kind, r=2),
    "prefix": lambda kind: PrefixTuningConfig(task_type=kind, num_virtual_tokens=3),
    "full": lambda _: Full(),
    "bitfit": lambda _: BitFit(),
    "linear_probe": lambda _: LinearProbe(),
}
IDS = torch.randint(1, 50, (4, 6), generator=torch.Generator().manual_seed(0))


def model_of(family: str, method: str, labels: int = 2, head: Any = AutoModelForSequenceClassification) -> Any:
    config = CONFIGS[family]
    config.num_labels = labels
    torch.manual_seed(0)
    kind = {AutoModelForSequenceClassification: "SEQ_CLS", AutoModelForTokenClassification: "TOKEN_CLS"}.get(head)
    return apply_method(head.from_config(config), METHODS[method](kind))


def batch_of(labels: int) -> dict[str, Any]:
    return {"input_ids": IDS, "attention_mask": torch.ones_like(IDS), "labels": torch.arange(4) % labels}


def together(*models: Any, weights: tuple[float, ...] = (1.0, 1.0), frozen_only: bool = False) -> MultiTaskModel:
    tie_models(models, frozen_only)
    return MultiTaskModel(models, [model_loss] * len(models), weights)


@pytest.mark.parametrize("family", CONFIGS)
@pytest.mark.parametrize("method", METHODS)
def test_the_gradients_of_a_task_never_touch_the_head_of_another(family: str, method: str) -> None:
    first, second = model_of(family, method), model_of(family, method, labels=3)
    model = together(first, second)
    model({1: batch_of(3)}).backward()
    heads = [
        {name: each for name, each in view.named_parameters() if is_task_head(name, view)} for view in (first, second)
    ]
    assert heads[0] and all(each.grad is None for each in heads[0].values())
    assert any(each.grad is not None and each.grad.abs().sum() > 0 for each in heads[1].values())
    shared = {id(each) for each in first.parameters()} & {id(each) for each in second.parameters()}
    own = {id(each) for each in first.parameters()} - shared
    assert own == {id(each) for each in heads[0].values()}
    trained = [each for each in model.parameters() if each.requires_grad and id(each) in shared]
    if method != "linear_probe":
        assert trained and all(each.grad is not None for each in trained)


def test_heads_of_other_kinds_share_the_body() -> None:
    heads = AutoModelForSequenceClassification, AutoModelForTokenClassification, AutoModelForQuestionAnswering
    models = [model_of("bert", "full", head=head) for head in heads]
    tie_models(models)
    for model in models[1:]:
        assert model.bert.encoder.layer[1].output.dense.weight is models[0].bert.encoder.layer[1].output.dense.weight
        assert model.bert.embeddings.word_embeddings.weight is models[0].bert.embeddings.word_embeddings.weight
    assert len({id(model.classifier.weight) for model in models[:2]}) == 2


def test_an_adapter_for_each_task_shares_the_frozen_base_only() -> None:
    first, second = model_of("bert", "lora"), model_of("bert", "lora", labels=3)
    together(first, second, frozen_only=True)
    one, other = dict(first.named_parameters()), dict(second.named_parameters())
    shared = {name for name in one if one[name] is other[name]}
    trained = {name for name, each in one.items() if each.requires_grad}
    assert not shared & trained and {name for name in one if "query.base_layer" in name} <= shared


def test_the_loss_of_a_mixed_batch_weights_each_example_by_its_task() -> None:
    first, second = model_of("bert", "full").eval(), model_of("bert", "full", labels=3).eval()
    model = together(first, second, weights=(0.5, 2.0)).eval()
    one, other = batch_of(2), {name: each[:1] for name, each in batch_of(3).items()}
    expected = (4 * 0.5 * first(**one).loss + 1 * 2.0 * second(**other).loss) / 5
    torch.testing.assert_close(model({0: one, 1: other}), expected)
    torch.testing.assert_close(model({1: other}), 2.0 * second(**other).loss)


def test_each_shared_parameter_has_one_name_and_both_models_compute_with_it() -> None:
    first, second = model_of("gpt2", "lora"), model_of("gpt2", "lora", labels=3)
    model = together(first, second).eval()
    names = [name for name, _ in model.named_parameters()]
    assert len(names) == len({id(each) for each in model.parameters()})
    assert all(name.startswith("views.0.") or is_task_head(name, second) for name in names)
    before = OutputReader("logits")(second, batch_of(3))
    with torch.no_grad():
        first.base_model.model.transformer.h[0].attn.c_attn.lora_B["default"].weight.add_(1.0)
    assert (OutputReader("logits")(second, batch_of(3)) - before).abs().max() > 1e-3


def test_shared_and_own_ranks_are_one_lora_of_both() -> None:
    models = [model_of("bert", "lora", labels) for labels in (2, 3)]
    tie_models(models, frozen_only=True)
    share_ranks(models)
    model = MultiTaskModel(models, [model_loss, model_loss], (1.0, 1.0))
    layers = [view.base_model.model.bert.encoder.layer[0].attention.self.query for view in models]
    of_a, of_b = (
        [getattr(layer, name)["default"].parametrizations["weight"] for layer in layers]
        for name in ("lora_A", "lora_B")
    )
    assert of_a[0][0].shared is of_a[1][0].shared and of_a[0].original is not of_a[1].original
    optimizer = torch.optim.SGD([each for each in model.parameters() if each.requires_grad], lr=0.5)
    for _ in range(3):
        model({0: batch_of(2)}).backward()
        assert of_a[1].original.grad is None and of_b[1].original.grad is None
        optimizer.step()
        optimizer.zero_grad()
    first, second = (layer.lora_B["default"].weight.detach().clone() for layer in layers)
    assert first.shape == (16, 2) and torch.equal(first[:, :1], second[:, :1]) and first[:, 1].abs().max() > 0
    assert not second[:, 1].any()  # the own rank of a task that was not trained
    before = [OutputReader("logits")(view.eval(), batch_of(2)) for view in models]
    trained = count_parameters(model).trainable
    for view in models:
        join_ranks(view)
        assert not any("parametrizations" in name for name in view.state_dict())
    for view, expected in zip(models, before, strict=True):
        torch.testing.assert_close(OutputReader("logits")(view, batch_of(2)), expected)
    assert trained < sum(count_parameters(view).trainable for view in models)
