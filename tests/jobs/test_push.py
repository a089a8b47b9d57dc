"""What is pushed to a Hub loads from there with plain transformers and PEFT, predicts as the run, and has no secrets."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import commands
from helpers.commands import check
from helpers.hub_server import TOKEN, Hub, hub, use_hub
from huggingface_hub import snapshot_download
from peft import PeftModel
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, pipeline

import peftkit
from peftkit.config import UserError
from peftkit.config.errors import WriteError
from peftkit.paths import sha256_of
from peftkit.results.run_result import RunResult

Overrides = Callable[..., list[str]]
REPO, BASE = "ada/pairs", "ada/tiny-bert"


@pytest.fixture(scope="module")
def trained(checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return runs of LoRA, of full fine-tuning, and of mean pooling and calibration, on a checkpoint in a folder."""
    out = tmp_path_factory.mktemp("trained")
    found = {}
    pooled = ["model.pooling=mean", "calibration.holdout=0.4"]
    for name, method, more in (("lora", "lora", []), ("full", "full", []), ("pooled", "lora", pooled)):
        (found[name],) = commands.finetune(
            "model=bert", f"model.checkpoint={checkpoints['bert']}", "source=offline", f"out={out}", "task=mrpc",
            f"method={method}", "task.max_train_samples=24", "task.max_eval_samples=24", "train.num_train_epochs=1",
            "train.learning_rate=0.01", "train.bf16=false", "train.disable_tqdm=true", *more,
        )  # fmt: skip
    return found


@pytest.fixture
def server(checkpoints: dict[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    with hub() as found:
        found.add(BASE, checkpoints["bert"])
        use_hub(found, monkeypatch, tmp_path / "cache")
        yield found


def push(folder: Path, *more: str, repo: str = REPO) -> None:
    commands.run(["job=push", f"run={folder}", f"repo={repo}", *more])


def copy_of(run: Path, parent: Path) -> Path:
    return Path(shutil.copytree(run, parent / run.name))


def change_record(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    record = json.loads((folder / "result.json").read_text())
    change(record)
    (folder / "result.json").write_text(json.dumps(record))


def downloaded(server: Hub, name: str, tmp_path: Path) -> Path:
    return Path(snapshot_download(name, local_dir=tmp_path / "downloads" / name, endpoint=server.address, token=TOKEN))


def scores_of(model: Any, tokenizer: Any, run: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the logits of a model for the run's validation pairs, one at a time, and those that the run recorded."""
    table = RunResult(run).predictions()
    with torch.no_grad():
        logits = [
            model(**tokenizer(first, second, truncation=True, max_length=128, return_tensors="pt")).logits[0].numpy()
            for first, second in zip(table["sentence1"], table["sentence2"], strict=True)
        ]
    return np.array(logits), np.stack(table["scores"].to_list())


@pytest.mark.parametrize("what", ["adapter", pytest.param("both", marks=pytest.mark.slow)])
def test_an_adapter_loads_from_the_hub_with_peft_and_predicts_as_its_run(
    server: Hub, trained: dict[str, Path], tmp_path: Path, what: str
) -> None:
    push(trained["lora"], f"push.what={what}", f"push.base_model={BASE}")
    folder, base = downloaded(server, REPO, tmp_path), downloaded(server, BASE, tmp_path)
    part = folder / "adapter" if what == "both" else folder
    config = AutoConfig.from_pretrained(part / "base")
    found = AutoModelForSequenceClassification.from_pretrained(base, config=config)
    model = PeftModel.from_pretrained(found, str(part)).eval()
    np.testing.assert_allclose(*scores_of(model, AutoTokenizer.from_pretrained(part), trained["lora"]), atol=1e-5)
    settings, commit = json.loads((part / "adapter_config.json").read_text()), server.repository(BASE).sha("main")
    assert (settings["base_model_name_or_path"], settings["revision"]) == (BASE, commit)
    assert server.repository(REPO).private and server.repository(REPO).branches.keys() == {"main"}


@pytest.mark.parametrize(
    ("method", "more"),
    [
        ("lora", ["push.what=merged"]),
        pytest.param("lora", ["push.what=both", f"push.base_model={BASE}"], marks=pytest.mark.slow),
        ("full", []),
    ],
)
def test_a_whole_model_loads_from_the_hub_with_transformers_and_predicts_as_its_run(
    server: Hub, trained: dict[str, Path], tmp_path: Path, method: str, more: list[str]
) -> None:
    push(trained[method], "push.private=false", "push.revision=v1", "push.commit_message=Version 1", *more)
    repository = server.repository(REPO)
    assert not repository.private and repository.messages[-1] == "Version 1"
    assert repository.files("main").keys() == {".gitattributes"}
    repository.branches["main"] = repository.branches["v1"]
    folder = downloaded(server, REPO, tmp_path)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    np.testing.assert_allclose(*scores_of(model, AutoTokenizer.from_pretrained(folder), trained[method]), atol=1e-5)
    assert model.config.id2label == {0: "not_equivalent", 1: "equivalent"}
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert ("`adapter/` has the adapter alone." in card) == ("push.what=both" in more)


def test_a_merged_model_with_mean_pooling_loads_in_a_pipeline_with_calibrated_probabilities(
    server: Hub, trained: dict[str, Path], tmp_path: Path
) -> None:
    url = peftkit.push(trained["pooled"], REPO, what="merged")
    folder, table = downloaded(server, REPO, tmp_path), RunResult(trained["pooled"]).predictions()
    assert url.endswith(f"/{REPO}/commit/{server.repository(REPO).sha('main')}")
    settings = json.loads((folder / "config.json").read_text())
    name = "modeling_peftkit.MeanPoolingBertForSequenceClassification"
    assert settings["auto_map"]["AutoModelForSequenceClassification"] == name
    classify = pipeline("text-classification", model=str(folder), top_k=None, trust_remote_code=True)
    pairs = [
        {"text": one, "text_pair": other} for one, other in zip(table["sentence1"], table["sentence2"], strict=True)
    ]
    found = [{each["label"]: each["score"] for each in row} for row in classify(pairs, truncation=True)]
    for scores, row in zip(found, table["probabilities"], strict=True):
        assert scores == pytest.approx(dict(zip(["not_equivalent", "equivalent"], row, strict=True)), abs=1e-5)
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert f'from_pretrained("{REPO}", trust_remote_code=True)' in card and "in the weights of its output" in card
    assert "model(**inputs).logits.softmax" in card


def test_nothing_of_data_machine_and_secrets_is_pushed(
    server: Hub, trained: dict[str, Path], capfd: pytest.CaptureFixture[str]
) -> None:
    (trained["lora"] / "adapter" / "notes.txt").write_text("mine")
    push(trained["lora"], f"push.base_model={BASE}")
    files = server.repository(REPO).files()
    assert files.keys() == {
        ".gitattributes", "README.md", "adapter_config.json", "adapter_model.safetensors", "base/config.json",
        "peftkit.json", "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip
    texts = "\n".join(data.decode() for name, data in files.items() if not name.endswith(".safetensors"))
    output = capfd.readouterr()
    for private in (str(trained["lora"].parents[4]), str(Path.home()) + "/", str(Path.cwd()), TOKEN):
        assert private not in texts + output.out + output.err
    assert f'"{REPO}", subfolder="base"' in files["README.md"].decode() and BASE in files["README.md"].decode()
    assert server.authorizations == {TOKEN, None}  # None: whether the Hub answers


def test_a_dry_run_lists_what_goes_and_stays_without_a_request(
    server: Hub, trained: dict[str, Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    requests = len(server.requests)
    push(trained["full"], "push.dry_run=true")
    goes, stays = capsys.readouterr().out.split("stays here")
    assert {"README.md", "config.json", "model.safetensors"} <= {*goes.split()} and "private" in goes
    assert "predictions.parquet  (texts of the data)" in stays and "model.safetensors" not in stays
    assert {path for _, path in server.requests[requests:]} <= {"/"}  # whether it answers


@pytest.mark.parametrize("settings", [{"push": {"dry_run": True}}, {"push.dry_run": True}])
def test_a_dry_run_from_python_is_refused_and_nothing_is_sent(
    server: Hub, trained: dict[str, Path], settings: dict[str, Any]
) -> None:
    with pytest.raises(UserError, match=r"push.dry_run=true lists the files, .* job=push .*; drop it"):
        peftkit.push(trained["full"], REPO, **settings)
    assert ("model", REPO) not in server.repositories


def test_a_push_is_repeated_and_another_run_is_not_replaced(
    server: Hub, trained: dict[str, Path], capfd: pytest.CaptureFixture[str]
) -> None:
    push(trained["full"])
    commits = len(server.repository(REPO).commits)
    push(trained["full"])
    assert "nothing changed" in capfd.readouterr().err and len(server.repository(REPO).commits) == commits
    with pytest.raises(UserError, match=r"holds another run: full of .* on mrpc, seed-0-.*force=true"):
        push(trained["lora"], f"push.base_model={BASE}")
    push(trained["lora"], f"push.base_model={BASE}", "force=true")
    files = server.repository(REPO).files()
    assert "adapter_model.safetensors" in files and not {"model.safetensors", "config.json"} & {*files}


def test_what_somebody_else_put_into_a_repository_is_not_touched(server: Hub, trained: dict[str, Path]) -> None:
    server.add(REPO, {"README.md": b"---\n{}\n---\n", "pytorch_model.bin": b"1", "vocab.txt": b"a"}, private=True)
    with pytest.raises(UserError, match=r"holds something that peftkit did not push: pytorch_model.bin, vocab.txt"):
        push(trained["full"])
    server.add("ada/open", {})
    with pytest.raises(UserError, match=r"ada/open is public; set push.private=false"):
        push(trained["full"], repo="ada/open")
    assert len(server.repository(REPO).commits) == len(server.repository("ada/open").commits) == 1


def test_a_base_with_other_weights_is_refused(server: Hub, trained: dict[str, Path]) -> None:
    files = server.repository(BASE).files()
    server.add("ada/other", {**files, "model.safetensors": files["model.safetensors"][:-1] + b"!"})
    with pytest.raises(UserError, match="ada/other has other weights"):
        push(trained["lora"], "push.base_model=ada/other")
    with pytest.raises(UserError, match="the Hub has no such model for you"):
        push(trained["lora"], "push.base_model=ada/none")
    with pytest.raises(UserError, match=r"of this machine, which others lack; use push.what=merged, or use push.base"):
        push(trained["lora"])


@pytest.mark.parametrize("weights", ["pytorch_model.bin", "model.gguf"])
def test_a_base_whose_weights_cannot_be_compared_is_refused(
    trained: dict[str, Path], tmp_path: Path, weights: str
) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / weights).write_bytes(b"weights")
    name = tmp_path / "base" / (weights if weights.endswith(".gguf") else "")
    for method, fix in (("lora", "use push.what=merged and drop push.base_model"), ("full", "drop it")):
        folder = copy_of(trained[method], tmp_path / method)
        change_record(folder, lambda record: record["audit"]["sources"]["model"].update(name=str(name)))
        with pytest.raises(UserError, match=rf"^push.base_model={BASE}: .* has no safetensors files .*; {fix}$"):
            push(folder, f"push.base_model={BASE}", "push.dry_run=true")
        if method == "lora":
            with pytest.raises(UserError, match=r"which others lack; use push.what=merged$"):
                push(folder)


def test_files_of_tokenizers_that_are_no_texts_are_pushed(
    trained: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, base = copy_of(trained["lora"], tmp_path), f"push.base_model={BASE}"
    for text, is_private in ((b"of nobody", False), (bytes(Path.home() / "x"), True)):
        file = folder / "adapter" / "spiece.model"
        file.write_bytes(b"\n\x0e\n\x05<unk>\x15\x00\xff\xfe" + text + b"\xe2")
        entry = {"bytes": file.stat().st_size, "sha256": sha256_of(file)}
        change_record(folder, lambda record, entry=entry: record["files"].update({"adapter/spiece.model": entry}))
        if is_private:
            with pytest.raises(UserError, match=r"spiece.model would publish a path of this machine"):
                push(folder, base, "push.dry_run=true")
        else:
            push(folder, base, "push.dry_run=true")
            assert "spiece.model" in capsys.readouterr().out.split("stays here")[0]


@pytest.mark.parametrize(
    ("token", "repo", "message"),
    [
        (None, REPO, "the Hub needs a token with write access; run: hf auth login, or set HF_TOKEN"),
        ("a-wrong-token", REPO, "the Hub does not accept the token"),
        (TOKEN, "bob/pairs", "the token may not write to bob/pairs"),
    ],
)
def test_a_token_that_is_missing_wrong_or_of_another_is_a_sentence(
    server: Hub, trained: dict[str, Path], monkeypatch: pytest.MonkeyPatch, token: str | None, repo: str, message: str
) -> None:
    monkeypatch.setenv("HF_TOKEN", token or "")
    with pytest.raises(UserError, match=re.escape(message)) as raised:
        push(trained["full"], repo=repo)
    assert "a-wrong-token" not in str(raised.value)


def test_no_network_is_a_sentence(server: Hub, trained: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(WriteError, match="does not answer; connect to the network and repeat the command"):
        push(trained["full"])
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set, which forbids the network; unset it"):
        push(trained["full"])


def test_an_error_midway_is_one_sentence_and_the_same_command_is_repeated(
    server: Hub, trained: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    sentence = rf"^{REPO} cannot be written: .*; a push is one commit, so repeat the command$"
    for step, status in (("/repos/create", 0), ("/preupload/", 400), ("/objects/batch", 503), ("/commit/", 0)):
        server.fault = lambda method, path, step=step, status=status: status if step in path else None
        with pytest.raises(WriteError, match=sentence):
            push(trained["full"])
        repository = server.repositories.get(("model", REPO))
        assert repository is None or repository.files().keys() == {".gitattributes"}
    server.fault = lambda method, path: None
    push(trained["full"])
    assert "model.safetensors" in server.repository(REPO).files()


def test_a_changed_file_is_not_pushed(server: Hub, trained: dict[str, Path], tmp_path: Path) -> None:
    folder = copy_of(trained["full"], tmp_path)
    file = folder / "model" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"!")
    (message,) = check(["job=push", f"run={folder}", f"repo={REPO}"])
    assert "model.safetensors has another content than was recorded" in message
    with pytest.raises(UserError, match="another content than was recorded"):
        push(folder)
    assert ("model", REPO) not in server.repositories


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], "job=push needs the name of a repository, repo=NAMESPACE/NAME; set repo=you/name"),
        (["repo=pairs"], "repo=pairs: expected NAMESPACE/NAME of the Hub"),
        (["repo=ada/a--b"], "repo=ada/a--b: expected NAMESPACE/NAME"),
        (["repo=ada/pairs.git"], "repo=ada/pairs.git: expected NAMESPACE/NAME"),
        (["repo=datasets/ada/pairs"], "repo=datasets/ada/pairs: expected NAMESPACE/NAME"),
        ([f"repo={REPO}", "push.what=adaptor"], "push.what=adaptor: unknown value; did you mean push.what=adapter?"),
        ([f"repo={REPO}", "push.what=adapter"], "method=full trains a whole model, without an adapter; drop push.what"),
        ([f"repo={REPO}", "push.revision=a..b"], "push.revision=a..b: expected the name of a branch"),
        ([f"repo={REPO}", "push.token=x"], "unknown key push.token"),
    ],
)
def test_a_wrong_command_is_refused_before_anything_loads(
    trained: dict[str, Path], overrides: list[str], message: str
) -> None:
    (found,) = check(["job=push", f"run={trained['full']}", *overrides])
    assert message in found
