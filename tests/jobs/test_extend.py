"""New tokens have embedding rows that train, are saved and merged; old rows stay bitwise identical."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import commands
from helpers.commands import check, compose_config
from omegaconf import OmegaConf
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

import peftkit
from peftkit.config import UserError

Overrides = Callable[..., list[str]]
TEXT = "the film is {} zyxwort blau and qux/zed zyxwort today"
TERMS = ("zyxwort", "zyxwort blau", "qux/zed")
AUTO: dict[str, Any] = {"gpt2": AutoModelForCausalLM, "t5": AutoModelForSeq2SeqLM}
NEW = {"bert": 3, "gpt2": 6, "t5": 6}  # rows: with and without the space before it, where that is a part of a token


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a list of terms, a corpus that has them, and rows for each kind of task."""
    folder = tmp_path_factory.mktemp("words")
    (folder / "terms.txt").write_text("\n".join(TERMS) + "\n")
    texts = [TEXT.format(word) for word in ("good", "bad") * 20]
    (folder / "corpus.txt").write_text("\n".join(texts) + "\n")
    rows = [{"text": text, "label": text.split()[3], "more": "zyxwort is " + text.split()[3]} for text in texts]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="session")
def checkpoint(checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, bool], Path]:
    """Return checkpoint("gpt2", tied=False): a tiny one, with an output layer of its own where it is not tied."""
    made: dict[tuple[str, bool], Path] = {(name, True): folder for name, folder in checkpoints.items()}

    def find(name: str, tied: bool) -> Path:
        if (name, tied) not in made:
            model = AUTO[name].from_pretrained(str(checkpoints[name]))
            torch.manual_seed(1)
            model.lm_head.weight = torch.nn.Parameter(0.1 * torch.randn_like(model.lm_head.weight))
            # T5 v1.1 is recognized only by its weights: in transformers 5 its config has them tied
            model.config.tie_word_embeddings = name == "t5"
            model.config.scale_decoder_outputs = False
            model.all_tied_weights_keys.pop("lm_head.weight")
            made[name, tied] = tmp_path_factory.mktemp(name)
            model.save_pretrained(str(made[name, tied]))
            AutoTokenizer.from_pretrained(str(checkpoints[name])).save_pretrained(str(made[name, tied]))
        return made[name, tied]

    return find


def extended(base: Path, model: str, data: Path, out: Path, *more: str) -> Path:
    overrides = [
        "job=extend", f"model={model}", f"model.checkpoint={base}", "source=offline", f"out={out}",
        *(more or (f"extend.terms={data}/terms.txt",)),
    ]  # fmt: skip
    assert check(overrides) == []
    folder = commands.run(overrides)
    assert folder is not None
    return folder


def trained(base: Path, model: str, vocab: Path, data: Path, out: Path, *more: str) -> tuple[Path, dict[str, Any]]:
    kind = {"bert": "classification", "gpt2": "causal_lm", "t5": "seq2seq"}[model]
    label = {"bert": "label", "gpt2": "null", "t5": "more"}[model]
    (folder,) = commands.finetune(
        f"model={model}", f"model.checkpoint={base}", "source=offline", f"out={out}", f"vocab={vocab}", f"task={kind}",
        f"task.dataset={data}/rows.jsonl", "task.text=[text]", f"task.label={label}", "task.metrics=[accuracy]"
        if kind == "classification" else "task.metrics=[perplexity]", "task.max_length=32", "train.bf16=false",
        "train.per_device_train_batch_size=8", "train.max_steps=40", "train.disable_tqdm=true", *more,
    )  # fmt: skip
    return folder, json.loads((folder / "result.json").read_text())


def embedding(model: Any) -> torch.Tensor:
    return model.get_input_embeddings().weight.detach()


def output(model: Any) -> torch.Tensor:
    return model.get_output_embeddings().weight.detach()


TOKENS_ALONE = ("method=peft", "method.config._target_=peft.TrainableTokensConfig")
CELLS = [
    ("bert", True, ("method=adapter",)),
    ("gpt2", True, ("method=lora",)),
    pytest.param("t5", False, ("method=lora",), marks=pytest.mark.slow),
    *(
        pytest.param(*cell, marks=pytest.mark.slow)
        for cell in (
            ("bert", True, ("method=lora",)),
            ("bert", True, ("method=qlora",)),
            ("bert", True, TOKENS_ALONE),
            ("gpt2", True, ("method=qlora",)),
            ("gpt2", True, ("method=mam",)),
            ("gpt2", True, TOKENS_ALONE),
            ("gpt2", False, ("method=lora",)),
            ("gpt2", False, TOKENS_ALONE),
            ("t5", True, ("method=lora",)),
            ("t5", True, ("method=qlora",)),
            ("t5", True, ("method=prompt",)),
            ("t5", True, TOKENS_ALONE),
            ("t5", False, ("method=adapter",)),
        )
    ),
]


@pytest.mark.parametrize(("model", "tied", "method"), CELLS)
def test_new_rows_train_alone_and_merge_while_every_old_row_stays(
    checkpoint: Callable[[str, bool], Path], data: Path, tmp_path: Path, model: str, tied: bool, method: tuple[str, ...]
) -> None:
    base = checkpoint(model, tied)
    vocab = extended(base, model, data, tmp_path)
    folder, result = trained(base, model, vocab, data, tmp_path, *method)
    assert result["gates"]["reload_difference"] <= 1e-6  # in a fresh process
    tables = 1 if tied or model == "bert" else 2
    weights = load_file(folder / "adapter" / "adapter_model.safetensors")
    rows = {name: tuple(weight.shape) for name, weight in weights.items() if "trainable_tokens" in name}
    assert list(rows.values()) == [(NEW[model], 64)] * tables
    assert not any(64 in weight.shape and max(weight.shape) > 500 for weight in weights.values())  # no whole matrix

    old = embedding(peftkit.load(vocab)[0])
    first = old.shape[0] - NEW[model]
    tuned, tokenizer = peftkit.load(folder)
    assert len(tokenizer) == old.shape[0]
    inputs = dict(tokenizer("the zyxwort blau, qux/zed", return_tensors="pt"))
    if model == "t5":
        inputs["decoder_input_ids"] = inputs["input_ids"]
    expected = tuned(**inputs).logits
    if {"method=adapter", "method=mam", "method=prompt"} & {*method}:
        return  # is not a linear change of the base: it cannot be merged
    if "qlora" not in str(method):
        again = tuned.merge_and_unload()
        torch.testing.assert_close(again(**inputs).logits, expected, rtol=0, atol=1e-5)
    commands.merge(folder)
    if model != "bert":
        merged = AUTO[model].from_pretrained(str(folder / "merged"))
        assert torch.equal(embedding(merged)[:first], old[:first])
        met = [number for number in tokenizer(TEXT)["input_ids"] if number >= first]
        assert len(met) == 3
        assert (embedding(merged)[met] - old[met]).abs().amax(dim=1).min() > 1e-4
        assert torch.equal(output(merged), embedding(merged)) == tied
        if not tied:
            assert torch.equal(output(merged)[:first], output(peftkit.load(vocab)[0])[:first])
            assert not torch.equal(output(merged)[first:], output(peftkit.load(vocab)[0])[first:])
        limit = 0.05 if "qlora" in str(method) else 1e-5
        torch.testing.assert_close(merged(**inputs).logits, expected, rtol=0, atol=limit)
        again = AutoTokenizer.from_pretrained(str(folder / "merged"))
        assert again("the zyxwort blau")["input_ids"] == tokenizer("the zyxwort blau")["input_ids"]


@pytest.mark.parametrize("model", ["bert", "gpt2", "t5"])
def test_mined_terms_save_pieces_on_text_that_was_not_mined(
    checkpoint: Callable[[str, bool], Path], tmp_path: Path, model: str
) -> None:
    words = ("kubelet", "etcd-backup", "ZFS/pool", "mqtt.retain")
    texts = [f"the {words[number % 4]} is {number % 7} and the film is good" for number in range(200)]
    texts[9] = "heldoutword " * 40  # every tenth is measured, and not mined
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("\n".join(texts) + "\n")
    more = (f"extend.corpus={corpus}", "extend.budget=12", "extend.pad_to_multiple_of=64")
    folder = extended(checkpoint(model, True), model, tmp_path, tmp_path, *more)
    result = json.loads((folder / "result.json").read_text())
    terms = {entry["term"] for entry in result["terms"]["added"]}
    assert not any("heldout" in term for term in terms) and result["rows"]["rows"] % 64 == 0
    found = result["corpus"]
    assert found["held_out"]["documents"] == 20 and found["held_out"]["changed"] == 0
    if model == "bert":  # one token already: [UNK]
        return
    assert terms >= set(words)
    assert found["pieces_a_word"]["after"] < found["pieces_a_word"]["before"] - 0.1


def test_a_list_is_extended_with_what_is_mined_and_every_refusal_is_kept(
    checkpoint: Callable[[str, bool], Path], data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "terms.txt").write_text("today\n\nqux/zed\nqux/zed\n")
    more = (f"extend.terms={tmp_path}/terms.txt", f"extend.corpus={data}/corpus.txt", "extend.budget=1")
    folder = extended(checkpoint("gpt2", True), "gpt2", data, tmp_path, *more)
    result = json.loads((folder / "result.json").read_text())
    assert [entry["term"] for entry in result["terms"]["added"]] == ["today", "qux/zed", "zyxwort"]
    assert [entry["count"] for entry in result["terms"]["added"]] == [None, None, 72]
    assert [entry["reason"] for entry in result["terms"]["refused"]] == [
        "it is blank",
        "it is a duplicate of qux/zed",
    ]
    assert "refused 'qux/zed': it is a duplicate" in capsys.readouterr().err
    assert extended(checkpoint("gpt2", True), "gpt2", data, tmp_path, *more) == folder
    assert "finished already" in capsys.readouterr().err


def test_an_extended_vocabulary_loads_and_merges_before_any_training(
    checkpoint: Callable[[str, bool], Path], data: Path, tmp_path: Path
) -> None:
    folder = extended(checkpoint("gpt2", True), "gpt2", data, tmp_path)
    model, tokenizer = peftkit.load(folder)
    inputs = tokenizer("the zyxwort blau", return_tensors="pt")
    commands.merge(folder)
    merged = AutoModelForCausalLM.from_pretrained(str(folder / "merged"))
    torch.testing.assert_close(merged(**inputs).logits, model(**inputs).logits, rtol=0, atol=1e-6)
    base = AutoModelForCausalLM.from_pretrained(str(checkpoint("gpt2", True)))
    assert torch.equal(embedding(model)[: len(embedding(base))], embedding(base))


def test_plain_peft_and_transformers_load_what_was_trained(
    checkpoint: Callable[[str, bool], Path], data: Path, tmp_path: Path
) -> None:
    from peft import PeftModel

    base, out = checkpoint("gpt2", True), tmp_path
    folder, _ = trained(base, "gpt2", extended(base, "gpt2", data, out), data, out, "train.max_steps=2")
    tokenizer = AutoTokenizer.from_pretrained(str(folder / "adapter"))
    config = AutoConfig.from_pretrained(str(folder / "adapter" / "base"))
    plain = AutoModelForCausalLM.from_pretrained(str(base), config=config)
    plain.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    assert "base.resize_token_embeddings(len(" in (folder / "README.md").read_text()
    plain = PeftModel.from_pretrained(plain, str(folder / "adapter")).eval()
    inputs = tokenizer("the zyxwort blau", return_tensors="pt")
    torch.testing.assert_close(plain(**inputs).logits, peftkit.load(folder)[0](**inputs).logits, rtol=0, atol=1e-6)


def test_all_rows_train_with_full_fine_tuning(
    checkpoint: Callable[[str, bool], Path], data: Path, tmp_path: Path
) -> None:
    base = checkpoint("gpt2", True)
    vocab = extended(base, "gpt2", data, tmp_path)
    folder, _ = trained(base, "gpt2", vocab, data, tmp_path, "method=full", "train.max_steps=5")
    moved = (embedding(peftkit.load(folder)[0]) - embedding(peftkit.load(vocab)[0])).abs().amax(dim=1) > 0
    assert moved.all()


@pytest.mark.slow
@pytest.mark.parametrize("task", ["classification", "token_classification"])
def test_t5_without_its_decoder_trains_the_rows_that_it_reads(
    checkpoint: Callable[[str, bool], Path], data: Path, tmp_path: Path, task: str
) -> None:
    base = checkpoint("t5", True)
    vocab = extended(base, "t5", data, tmp_path)
    lines = [
        {"tokens": TEXT.split(), "tags": ["O", "B-X"] * 5, "label": word, "text": f"the {word}"} for word in "ab" * 10
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    column = {"classification": "text", "token_classification": "tokens"}[task]
    (folder,) = commands.finetune(
        "model=t5_encoder", f"model.checkpoint={base}", "source=offline", f"out={tmp_path}", f"vocab={vocab}",
        f"task={task}", f"task.dataset={tmp_path}/rows.jsonl", f"task.text=[{column}]", "train.bf16=false",
        "train.per_device_train_batch_size=8", "train.max_steps=10", "train.disable_tqdm=true",
    )  # fmt: skip
    model, tokenizer = peftkit.load(folder)
    before = embedding(peftkit.load(vocab)[0])
    ids = tokenizer("zyxwort", add_special_tokens=False, return_tensors="pt")["input_ids"]
    encoder = model.base_model.model.transformer.encoder
    moved = (encoder.embed_tokens(ids)[0] - before[ids[0]]).abs().amax()
    assert (moved > 1e-4) == (task == "token_classification")  # the other's texts have no term


def test_a_vocabulary_of_another_base_is_refused(
    checkpoint: Callable[[str, bool], Path], data: Path, tmp_path: Path
) -> None:
    vocab = extended(checkpoint("gpt2", True), "gpt2", data, tmp_path)
    with pytest.raises(UserError, match="make one for this model with job=extend"):
        trained(checkpoint("gpt2", False), "gpt2", vocab, data, tmp_path)


def test_a_run_with_a_vocabulary_has_its_own_id(
    checkpoint: Callable[[str, bool], Path], data: Path, tmp_path: Path
) -> None:
    from peftkit.config import RunConfig
    from peftkit.pipeline.sources import execution_setup
    from peftkit.results.run_folder import run_id

    plain: Any = OmegaConf.to_container(compose_config(["model=gpt2", f"task.dataset={data}/rows.jsonl"]), resolve=True)
    vocab = extended(checkpoint("gpt2", True), "gpt2", data, tmp_path)
    runs = [RunConfig.from_config(each) for each in (plain, {**plain, "vocab": str(vocab)})]
    without, with_vocab = (run_id(run, {}, execution_setup(run)) for run in runs)
    assert without != with_vocab


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["job=extend"], "set extend.terms=FILE"),
        (["job=extend", "extend.terms=nowhere.txt"], "extend.terms=nowhere.txt: no such file"),
        (["job=extend", "extend.corpus=rows.csv"], "extend.corpus=rows.csv: no such file"),
        (["job=extend", "extend.corpus=/nowhere"], "extend.corpus=/nowhere: no such file"),
        (["job=extend", "extend.terms=a", "extend.init=pices"], "did you mean extend.init=pieces?"),
        (["extend.corpus=a.txt"], "extend.corpus= is not for job=finetune, only for job=extend"),
        (["vocab=/nowhere"], "name a folder written by job=extend"),
        (["vocab=/nowhere", "method=ia3"], "cannot train the embedding rows of vocab=; use method=lora"),
        (["job=leaderboard", "vocab=/nowhere"], "vocab= is not for job=leaderboard"),
    ],
)
def test_what_does_not_go_together_is_refused_with_what_to_type(overrides: list[str], sentence: str) -> None:
    assert any(sentence in found for found in check(overrides))


def test_a_vocabulary_is_neither_on_the_board_nor_a_run_to_predict_with(
    checkpoint: Callable[[str, bool], Path], data: Path, tmp_path: Path
) -> None:
    from peftkit.leaderboard.reading import collect

    vocab = extended(checkpoint("gpt2", True), "gpt2", data, tmp_path)
    assert collect([tmp_path]) == []
    assert any(
        "is a vocabulary, not a run" in found for found in check(["job=predict", f"run={vocab}", "input=a text"])
    )


def test_a_list_without_any_new_term_is_refused(
    checkpoint: Callable[[str, bool], Path], data: Path, tmp_path: Path
) -> None:
    (tmp_path / "terms.txt").write_text("\n")
    with pytest.raises(UserError, match=r"no term became a token .* use other terms or more text"):
        extended(checkpoint("gpt2", True), "gpt2", data, tmp_path, f"extend.terms={tmp_path}/terms.txt")
