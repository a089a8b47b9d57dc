"""Reused states of a frozen base: the model computes what it does without them, whatever else was computed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, GPT2Config, GPT2ForSequenceClassification

from peftkit.models.frozen import FrozenStates
from peftkit.models.frozen_weights import is_frozen
from peftkit.models.heads import CLASSIFIERS
from peftkit.models.state_cache import OBJECT, StateCache

BERT = {
    "vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48,
}  # fmt: skip
GPT2 = {"vocab_size": 50, "n_embd": 32, "n_layer": 2, "n_head": 2, "pad_token_id": 0, "bos_token_id": 1}
MODELS: dict[str, tuple[Any, Any]] = {
    "first": (BertForSequenceClassification, BertConfig(**BERT)),
    "mean": (CLASSIFIERS["bert"][1], CLASSIFIERS["bert"][0](**BERT)),
    "last": (GPT2ForSequenceClassification, GPT2Config(**GPT2, eos_token_id=1)),
    "all": (BertForSequenceClassification, BertConfig(**BERT)),
}
LENGTHS = [5, 12, 3, 7, 8, 17]


def probe(kind: str = "first", seed: int = 0) -> Any:
    """Return a model whose base is frozen."""
    torch.manual_seed(seed)
    model_class, config = MODELS[kind]
    model = model_class(config).train()
    model.base_model.requires_grad_(False)
    return model


def batch_of(rows: list[int]) -> dict[str, torch.Tensor]:
    """Return some of six texts, padded to the longest."""
    generator = torch.Generator().manual_seed(0)
    texts = [torch.randint(2, 50, (length,), generator=generator) for length in LENGTHS]
    ids = torch.nn.utils.rnn.pad_sequence([texts[row] for row in rows], batch_first=True)
    return {"input_ids": ids, "attention_mask": (ids > 0).long()}


def states_of(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    return model.base_model(**batch)[0]  # type: ignore[no-any-return]


@pytest.mark.parametrize("kind", MODELS)
def test_logits_and_gradients_are_those_of_the_base_without_dropout(kind: str) -> None:
    model, rows = probe(kind), [[0, 1, 2], [5, 3, 4, 0]]
    found: dict[bool, list[torch.Tensor]] = {False: [], True: []}
    for is_reused in (False, True):
        states = FrozenStates(model, kind, cache=StateCache()) if is_reused else None
        for _ in range(2):  # the second pass finds all states
            for batch in map(batch_of, rows):
                model.eval() if states is None else model.train()
                for module in model.children():  # the head has dropout of its own
                    module.eval() if module is not model.base_model else None
                model.zero_grad()
                out = model(**batch, labels=torch.arange(len(batch["input_ids"])) % 2)
                out.loss.backward()
                gradients = [weight.grad.clone() for weight in model.parameters() if weight.grad is not None]
                found[is_reused] += [out.logits.detach(), *gradients]
        if states is not None:
            assert states.computed == 6 and states.reused == 8
            states.detach()
            assert "forward" not in vars(model.base_model)
    for plain, reused in zip(found[False], found[True], strict=True):
        torch.testing.assert_close(reused, plain, atol=1e-6, rtol=1e-5)


def test_states_do_not_depend_on_other_examples_or_their_order() -> None:
    model, found = probe(), []
    for rows in ([[5, 0], [1, 2, 3, 4]], [[4], [3, 2], [1, 5, 0]]):
        states = FrozenStates(model, "all", cache=StateCache())
        outputs = [(row, one) for part in rows for row, one in zip(part, states_of(model, batch_of(part)), strict=True)]
        found.append({row: one[: LENGTHS[row]] for row, one in outputs})
        states.detach()
    assert all(torch.equal(found[0][row], found[1][row]) for row in range(6))


def test_only_states_of_the_same_inputs_base_and_precision_are_reused() -> None:
    cache, model = StateCache(), probe()

    def computed(model: Any, batch: dict[str, torch.Tensor], **settings: Any) -> int:
        states = FrozenStates(model, **{"kept": "first", "cache": cache, **settings})
        states_of(model, batch)
        states.detach()
        return states.computed

    batch = batch_of([0, 1])
    assert computed(model, batch) == 2 and computed(model, batch) == 0
    assert computed(probe(), batch) == 0  # the same weights
    assert computed(probe(seed=1), batch) == 2
    assert computed(model, {**batch, "token_type_ids": torch.ones_like(batch["input_ids"])}) == 2
    shorter = batch["attention_mask"].clone()
    shorter[:, 4:] = 0
    assert computed(model, {**batch, "attention_mask": shorter}) == 2
    with torch.autocast("cpu", torch.bfloat16):
        assert computed(model, batch) == 2
    assert computed(model, batch, kept="all") == 2
    assert computed(model, batch, kept="padded", width=24) == 2
    model.config._attn_implementation = "eager"
    assert computed(model, batch) == 2
    with torch.no_grad():
        model.bert.encoder.layer[1].output.dense.bias[3] += 1e-7
    assert computed(model, batch) == 2


def test_a_call_that_is_more_than_a_padded_batch_is_computed() -> None:
    model, batch = probe(), batch_of([0, 1])
    expected = model.eval().bert(**batch, output_attentions=True)
    states = FrozenStates(model, cache=StateCache())
    left = {name: values.flip(1) for name, values in batch.items()}
    states_of(model, left)
    with torch.no_grad():
        found = model.bert(**batch, output_attentions=True)
    torch.testing.assert_close(found.last_hidden_state, expected.last_hidden_state)
    assert states.computed == 0 and not states.cache.entries


def test_states_of_earlier_runs_make_room() -> None:
    cache = StateCache(limit=2 * (4 + OBJECT))
    cache.run = 1
    assert all(cache.add(key, (torch.ones(1),)) for key in (b"a", b"b"))
    assert not cache.add(b"c", (torch.ones(1),))  # all are of this run
    cache.run = 2
    assert cache.get(b"a") is not None  # used by this run
    assert cache.add(b"c", (torch.ones(1),)) and cache.get(b"b") is None
    assert cache.bytes == cache.limit
    assert not cache.add(b"d", (torch.ones(1),))


def test_a_base_of_which_a_part_trains_is_not_frozen() -> None:
    model = probe()
    assert is_frozen(model)
    model.bert.pooler.requires_grad_(True)  # newly initialized
    assert is_frozen(model)
    model.bert.encoder.layer[0].output.dense.bias.requires_grad_(True)
    assert not is_frozen(model)


@pytest.mark.parametrize(("kept", "width"), [("first", 0), ("all", 0), ("padded", 24)])
def test_the_bytes_that_are_kept_are_predicted(kept: str, width: int) -> None:
    model = probe()
    states = FrozenStates(model, kept, width, StateCache())
    assert states.needed_bytes(LENGTHS) == 0
    states_of(model, batch_of([0]))
    predicted = states.needed_bytes(LENGTHS)
    states_of(model, batch_of([0, 1, 2, 3, 4, 5]))
    assert predicted == states.cache.bytes
    states.cache.limit = 100
    assert states.needed_bytes(LENGTHS) == 100


def test_a_base_without_kept_states_has_no_dropout() -> None:
    model, batch = probe(), batch_of([0, 1])
    expected = states_of(model.eval(), batch)
    states = FrozenStates(model.train(), "none", cache=StateCache())
    assert torch.equal(states_of(model, batch), expected) and not states.cache.entries
    assert model.bert.encoder.training


def test_a_pooler_trains_under_autocast_where_states_are_computed_in_its_step() -> None:
    gradients = []
    for is_known in (False, True):
        model, batch = probe(), batch_of([0, 1])
        model.bert.pooler.requires_grad_(True)
        for name in ("bert", "dropout"):
            getattr(model, name).eval()
        FrozenStates(model, cache=StateCache())
        with torch.autocast("cpu", torch.bfloat16):
            if is_known:
                states_of(model, batch)
            model(**batch, labels=torch.tensor([0, 1])).loss.backward()
        gradients.append(model.bert.pooler.dense.weight.grad)
        assert not any(weight.requires_grad for weight in model.bert.encoder.parameters())
    assert gradients[0] is not None and torch.equal(*gradients)
