"""Forgetting is measured with the method disabled, enabled and interpolated."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import commands
from helpers.commands import check
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM, AutoTokenizer

from peftkit.config import UserError
from peftkit.config.source import Source
from peftkit.data.miniglue import sentences
from peftkit.data.offline_corpus import causal_pairs, masked_pairs
from peftkit.models.classifiers import T5EncoderConfig, T5EncoderForSequenceClassification
from peftkit.models.heads import (
    config_arguments,
    with_tuned_module,
)
from peftkit.models.load import load_language_model
from peftkit.models.pooling import state_drift
from peftkit.pipeline.verify import VerificationError

Overrides = Callable[..., list[str]]
RATE = "train.learning_rate=0.1"


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("text") / "held_out.txt"
    file.write_text("\n".join(list(sentences(80, seed=7))))
    return file


def measured(overrides: list[str], text: Path) -> tuple[Path, dict[str, Any], dict[str, Any]]:
    """Return a run's folder, its result before, and what was found."""
    (folder,) = commands.finetune(*overrides)
    before = json.loads((folder / "result.json").read_text())
    commands.run(["job=forgetting", f"run={folder}", "source=offline", f"input={text}"])
    after = json.loads((folder / "result.json").read_text())
    found = after.pop("forgetting")
    assert {**after, "forgetting": None} == before  # nothing else of the result has changed
    return folder, before, found


def causal_loss(model: Any, checkpoint: Path, text: Path) -> float:
    """Return the mean over all tokens but the first of each full block of 128, by plain transformers."""
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    lines = tokenizer(text.read_text().split("\n"))["input_ids"]
    stream = [token for ids in lines for token in (*ids, tokenizer.eos_token_id)]
    blocks = torch.tensor(stream[: len(stream) // 128 * 128]).view(-1, 128)
    blocks[-1, -1] = tokenizer.eos_token_id
    with torch.no_grad():
        logits = model.eval()(input_ids=blocks).logits[:, :-1]
    return float(torch.nn.functional.cross_entropy(logits.reshape(-1, logits.shape[-1]), blocks[:, 1:].reshape(-1)))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "full"])
def test_gpt2_s_losses_are_those_of_its_base_and_of_the_merged_model(
    tiny: Overrides, checkpoints: dict[str, Path], text: Path, method: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, result, found = measured(tiny("gpt2", f"method={method}", "task=sst2", RATE), text)
    base = AutoModelForCausalLM.from_pretrained(checkpoints["gpt2"])
    assert found["measure"] == "causal_lm_loss" and found["unit"] == "nats per token"
    assert found["before"] == pytest.approx(causal_loss(base, checkpoints["gpt2"], text), abs=1e-4)
    assert found["off_difference"] < 1e-5
    commands.merge(folder)
    merged = AutoModelForCausalLM.from_pretrained(folder / "merged")  # its tied head moves with its embeddings
    assert found["after"] == pytest.approx(causal_loss(merged, checkpoints["gpt2"], text), abs=1e-4)
    assert abs(found["after"] - found["before"]) > 1e-3
    curve = found["curve"]
    assert [point["scale"] for point in curve] == [0, 0.25, 0.5, 0.75, 1]
    assert (curve[0]["loss"], curve[-1]["loss"]) == (pytest.approx(found["before"]), found["after"])
    assert curve[-1]["score"] == pytest.approx(result["scores"]["accuracy"]["value"])
    output = capsys.readouterr().out
    assert f"{found['before']:.4f}" in output and f"{found['tokens']} tokens of text held_out.txt" in output


@pytest.mark.slow
def test_an_encoder_without_a_language_model_head_is_given_no_loss_but_the_drift_of_its_states(
    tiny: Overrides, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, _, found = measured(tiny("bert", "method=adapter", "task=sst2", RATE), text)
    assert found["measure"] == "state_drift" and "no language model head" in found["reason"]
    assert "instead of a loss" in capsys.readouterr().err
    assert found["before"] == pytest.approx(0, abs=1e-6)
    drifts = [point["loss"] for point in found["curve"]]
    assert drifts == sorted(drifts) and 1e-5 < found["after"] < 2


@pytest.mark.slow
def test_bert_s_masked_loss_is_that_of_transformers(tiny: Overrides, masked: Path, text: Path) -> None:
    overrides = tiny("bert", "method=ia3", "task=sst2", f"model.checkpoint={masked}", "model.pooling=mean", RATE)
    _, _, found = measured(overrides, text)
    assert found["measure"] == "masked_lm_loss" and found["reason"] is None
    tokenizer = AutoTokenizer.from_pretrained(masked)
    lines = tokenizer(text.read_text().split("\n"), add_special_tokens=False)["input_ids"]
    stream = [token for ids in lines for token in (*ids, tokenizer.sep_token_id)]
    whole = [stream[: len(stream) // 62 * 62 - 1]]  # 64 places, two of them for [CLS] and [SEP]
    pairs = masked_pairs(whole, 62, tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.mask_token_id)
    ids, labels = (torch.tensor(part) for part in zip(*pairs, strict=True))
    with torch.no_grad():
        loss = AutoModelForMaskedLM.from_pretrained(masked).eval()(input_ids=ids, labels=labels).loss
    assert found["before"] == pytest.approx(float(loss), abs=1e-4)
    assert found["tokens"] == int((labels >= 0).sum()) == 9 * len(pairs)


@pytest.fixture
def masked(checkpoints: dict[str, Path], tmp_path: Path) -> Path:
    """Return the folder of the tiny BERT with a language model head of its own and a mask token."""
    torch.manual_seed(0)
    model = AutoModelForMaskedLM.from_pretrained(checkpoints["bert"])
    tokenizer = AutoTokenizer.from_pretrained(checkpoints["bert"])
    tokenizer.add_special_tokens({"mask_token": "[MASK]"})
    model.resize_token_embeddings(len(tokenizer))
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path / "masked")
    return tmp_path / "masked"


@pytest.mark.parametrize("method", ["prefix", pytest.param("prompt", marks=pytest.mark.slow)])
@pytest.mark.slow
def test_t5_s_spans_are_lost_and_a_soft_prompt_has_no_point_between(tiny: Overrides, text: Path, method: str) -> None:
    _, _, found = measured(tiny("t5", f"method={method}", "task=sst2", "train.learning_rate=3"), text)
    assert found["measure"] == "span_corruption_loss" and found["off_difference"] < 1e-5
    assert [point["scale"] for point in found["curve"]] == [0, 1]
    assert f"{method} cannot be interpolated" in found["curve_reason"]
    assert found["after"] != found["before"]


def test_the_encoder_of_t5_tuned_alone_is_read_by_its_untouched_decoder(checkpoints: dict[str, Path]) -> None:
    whole = AutoModelForSeq2SeqLM.from_pretrained(checkpoints["t5"])
    tuned = T5EncoderForSequenceClassification(T5EncoderConfig(**config_arguments(whole.config)))
    decoder, head = whole.decoder, whole.lm_head
    found = with_tuned_module(whole, tuned)
    assert found.encoder is tuned.transformer.encoder and found.decoder is decoder and found.lm_head is head


@pytest.mark.slow
@pytest.mark.parametrize("model", ["bert", "gpt2", "t5"])
@pytest.mark.parametrize(
    "method", ["qlora", "dora", "vera", "ln_tuning", "bitfit", "gradual", "mam", "linear_probe_mix"]
)
def test_other_methods_equal_their_base_when_disabled(tiny: Overrides, text: Path, method: str, model: str) -> None:
    overrides = tiny(model, f"method={method}", "task=sst2")
    if not check(overrides):
        assert measured(overrides, text)[2]["off_difference"] < 1e-5


def test_what_cannot_be_switched_off_is_not_called_forgetting(tiny: Overrides, text: Path) -> None:
    overrides = tiny("gpt2", "method=lora", "task=sst2", "method.config.bias=all", RATE)  # PEFT trains the base's own
    with pytest.raises(VerificationError, match="disabled differs from its base"):
        measured(overrides, text)


@pytest.mark.slow
def test_a_file_without_enough_text_is_refused_and_no_file_is_the_embedded_text(
    tiny: Overrides, tmp_path: Path
) -> None:
    (folder,) = commands.finetune(*tiny("gpt2", "task=sst2", "task.max_train_samples=8"))
    overrides = ["job=forgetting", f"run={folder}", "source=offline"]
    for name, content, sentence in (
        ("few.txt", b"one word\n", "too few"),
        ("none.txt", b"\n \n", "no text in it"),
        ("rows.jsonl", b'{"words": "a film"}\n', "no column text"),
        ("latin.txt", b"caf\xe9", "not in UTF-8"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=sentence):
            commands.run([*overrides, f"input={tmp_path / name}"])
    commands.run(overrides)
    result = json.loads((folder / "result.json").read_text())
    found = result["forgetting"]
    assert found["text"].startswith("offline, held out") and found["tokens"] > 10_000
    result["run"]["config"]["vocab"] = "outputs/extend/gpt2/0"
    (folder / "result.json").write_text(json.dumps(result))
    with pytest.raises(UserError, match="tokens that its base lacks"):
        commands.run(overrides)


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["job=forgetting"], "job=forgetting needs a run folder"),
        (["job=forgetting", "run=x", "input=some words"], "input=some words is not a file of texts"),
        (["job=forgetting", "run=x", "input=none.txt"], "input=none.txt: no such file"),
        (["job=forgetting", "run=x", "seed=3"], "job=forgetting ignores seed=3"),
    ],
)
def test_wrong_overrides_are_refused_before_anything_loads(overrides: list[str], sentence: str) -> None:
    assert any(sentence in each for each in check(overrides))


@pytest.mark.slow
def test_other_rows_than_those_it_was_scored_on_are_refused(tiny: Overrides, tmp_path: Path, text: Path) -> None:
    rows = tmp_path / "films.csv"
    rows.write_text("text,label\n" + "a good film,1\na bad film,0\n" * 10)
    overrides = ["task=classification", f"task.dataset={rows}", "task.text=[text]", "task.label=label"]
    (folder,) = commands.finetune(*tiny("gpt2", *overrides))
    rows.write_text("text,label\n" + "a fine film,1\na poor film,0\n" * 10)
    with pytest.raises(UserError, match="set source= and data_root= as for the run"):
        commands.run(["job=forgetting", f"run={folder}", "source=offline", f"input={text}"])


def test_only_a_newly_initialized_head_is_reported(checkpoints: dict[str, Path], masked: Path) -> None:
    for name, lacks in (("bert", True), ("gpt2", False), ("t5", False)):
        folder = str(checkpoints[name])
        source = Source("folder", folder, folder=folder)
        _, reason = load_language_model(source, AutoTokenizer.from_pretrained(folder))
        assert (reason is not None) == lacks
    source = Source("folder", str(masked), folder=str(masked))
    assert load_language_model(source, AutoTokenizer.from_pretrained(masked))[1] is None
    assert "no mask token" in str(load_language_model(source, AutoTokenizer.from_pretrained(checkpoints["bert"]))[1])


def test_drift_is_one_minus_cosine() -> None:
    before = torch.tensor([[[1.0, 0.0], [0.0, 2.0]]])
    assert state_drift(before, 3 * before) == pytest.approx(0)
    assert state_drift(before, torch.tensor([[[0.0, 1.0], [0.0, 2.0]]])) == pytest.approx(
        0.5
    )  # one of two turned by 90


def test_every_block_has_as_many_masks_and_none_where_documents_meet() -> None:
    pairs = masked_pairs([[7, 8, 9, 10]] * 30, block=20, first=1, last=2, mask=3)
    for inputs, targets in pairs:
        assert (inputs[0], inputs[-1], len(inputs)) == (1, 2, 22)
        chosen = [place for place, target in enumerate(targets) if target >= 0]
        assert len(chosen) == 3 and all(inputs[place] == 3 and targets[place] > 2 for place in chosen)
    original = causal_pairs([[7, 8, 9, 10]] * 30, 20, 2)
    assert [[t if t >= 0 else i for i, t in zip(*pair, strict=True)][1:-1] for pair in pairs] == [
        i for i, _ in original
    ]
