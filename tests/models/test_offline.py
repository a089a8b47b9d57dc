"""A tiny GPT-2 and T5 are pretrained into folders that transformers loads."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

from peftkit.models.offline import (
    MINI_MODELS,
    PretrainingData,
    mean_loss,
    mini_path,
    pretrain_mini,
    sentinel_ids,
    train_tokenizer,
    untrained_mini,
)

KINDS = ["gpt2-mini", "t5-mini"]
AUTO = {"gpt2-mini": AutoModelForCausalLM, "t5-mini": AutoModelForSeq2SeqLM}
SUBJECTS = ["the cat", "a dog", "my friend", "the old teacher", "nobody"]
VERBS = ["sees", "likes", "follows", "never trusts", "remembers"]
DOCUMENTS = [f"{a} {verb} {b}, or {b} {verb} {a}." for a in SUBJECTS for verb in VERBS for b in SUBJECTS if a != b]


@pytest.fixture(scope="module", params=KINDS)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def tokenizer(kind):
    return train_tokenizer(kind, DOCUMENTS, vocab_size=400)


def pairs_of(kind, tokenizer, length=16):
    """Blocks of one length; for T5 the last three tokens are to be guessed, which is one span."""
    ids = [token for document in DOCUMENTS for token in tokenizer(document)["input_ids"]]
    blocks = [ids[start : start + length] for start in range(0, len(ids) - length, length)]
    if kind == "gpt2-mini":
        return [(block, block) for block in blocks]
    sentinel = sentinel_ids(tokenizer)[0]
    return [([*block[:-3], sentinel, 1], [sentinel, *block[-3:], 1]) for block in blocks]


@pytest.fixture(scope="module")
def trained(kind, tokenizer, tmp_path_factory):
    out = tmp_path_factory.mktemp("cache") / "nested" / kind
    pairs = pairs_of(kind, tokenizer)
    facts = pretrain_mini(kind, tokenizer, PretrainingData(pairs[20:], pairs[:20], 4.0), out, steps=8)
    return out, facts


@pytest.mark.parametrize("text", ["the cat sees a dog, or not.", "Scores: 3.8 (of 5), 'not_entailment'!"])
def test_tokenizer_round_trips_through_a_folder(tokenizer, text, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    ids = loaded(text)["input_ids"]
    assert ids == tokenizer(text)["input_ids"]
    assert loaded.decode(ids, skip_special_tokens=True) == text


def test_tokenizer_training_is_deterministic(kind, tokenizer):
    again = train_tokenizer(kind, DOCUMENTS, vocab_size=400)
    assert again.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()


def test_special_tokens_are_those_of_the_family(kind, tokenizer):
    if kind == "gpt2-mini":
        assert tokenizer.eos_token == tokenizer.bos_token == "<|endoftext|>"
        assert tokenizer.pad_token is None
    else:
        assert (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id) == (0, 1, 2)
        assert tokenizer("the cat")["input_ids"][-1] == tokenizer.eos_token_id


def test_each_sentinel_is_one_id_at_the_end():
    tokenizer = train_tokenizer("t5-mini", DOCUMENTS, vocab_size=400)
    ids = sentinel_ids(tokenizer)
    assert ids == list(range(len(tokenizer) - 1, len(tokenizer) - 101, -1))
    assert tokenizer("the <extra_id_0> sees <extra_id_99>.")["input_ids"].count(ids[0]) == 1
    assert tokenizer.decode(ids[:2]) == "<extra_id_0><extra_id_1>"


def test_numbers_are_spelt_digit_by_digit():
    tokenizer = train_tokenizer("t5-mini", [*DOCUMENTS, *["it scores 3.8 of 10"] * 50], vocab_size=400)
    assert [t for t in tokenizer.tokenize("10 3.8") if t != "▁"] == ["1", "0", "3", ".", "8"]


def test_pretraining_lowers_the_loss_and_its_folder_loads(kind, tokenizer, trained):
    out, facts = trained
    pairs = pairs_of(kind, tokenizer)[:20]
    torch.manual_seed(0)
    start = mean_loss(untrained_mini(kind, tokenizer), pairs)
    assert facts["held_out_loss"] < start - 0.2
    loaded = AUTO[kind].from_pretrained(out, local_files_only=True)
    assert mean_loss(loaded, pairs) == pytest.approx(facts["held_out_loss"], rel=1e-3)
    assert len(AutoTokenizer.from_pretrained(out)) == len(tokenizer)


def test_pretraining_records_what_it_did(trained):
    out, facts = trained
    assert json.loads((out / "pretraining.json").read_text()) == facts
    assert {"held_out_loss", "tokens", "seconds", "versions"} <= set(facts)
    assert (facts["steps"], facts["seed"], facts["unigram_loss"]) == (8, 0, 4.0)
    assert [path.name for path in out.parent.iterdir()] == [out.name]  # no temporary folder is left


def test_same_seed_same_weights_and_it_replaces_what_was_there(kind, tokenizer, tmp_path):
    pairs = pairs_of(kind, tokenizer)
    weights = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed + len(weights))  # the state before must not matter
        pretrain_mini(kind, tokenizer, PretrainingData(pairs, pairs[:8], 4.0), tmp_path / "m", seed=seed, steps=2)
        weights.append((tmp_path / "m" / "model.safetensors").read_bytes())
    assert weights[0] == weights[1]
    assert weights[0] != weights[2]


def test_pretraining_leaves_the_global_generator_alone(kind, tokenizer, tmp_path):
    pairs = pairs_of(kind, tokenizer)
    torch.manual_seed(11)
    expected = torch.rand(1)
    torch.manual_seed(11)
    pretrain_mini(kind, tokenizer, PretrainingData(pairs, pairs[:8], 4.0), tmp_path / "m", steps=1)
    assert torch.equal(torch.rand(1), expected)


def test_the_folder_names_kind_settings_and_corpus(tmp_path):
    names = {mini_path(kind, tmp_path, corpus).name for kind in MINI_MODELS for corpus in ("a", "b")}
    assert len(names) == 4
    assert all(name.startswith(tuple(KINDS)) for name in names)


def test_too_little_text_is_refused(kind, tokenizer, tmp_path):
    pairs = pairs_of(kind, tokenizer)
    with pytest.raises(ValueError, match="more text"):
        pretrain_mini(kind, tokenizer, PretrainingData(pairs[:1], pairs[:1], 4.0), tmp_path / "m", steps=1)
    assert not list(tmp_path.iterdir())
