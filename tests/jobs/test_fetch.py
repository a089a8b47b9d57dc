"""job=fetch brings what a command reads into the caches, from which the command runs without the Hub."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import commands
from helpers.hub_server import Hub, hub, use_hub

from peftkit.config import UserError
from peftkit.jobs import fetch as job

ROWS = [{"text": f"{word} film {n}", "label": n % 2} for n in range(12) for word in ("good", "bad")]
OTHERS = "".join(
    json.dumps({"text": f"{word} plot", "label": n}) + "\n" for n, word in enumerate(("bad", "good"))
).encode()
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()


@pytest.fixture
def server(checkpoints: dict[str, Path]) -> Iterator[Hub]:
    with hub() as found:
        files = {each.name: each.read_bytes() for each in checkpoints["bert"].iterdir()}
        found.add(
            "me/base", {**files, "pytorch_model.bin": b"x", "onnx/model.onnx": b"x", "model.fp16.safetensors": b"x"}
        )
        found.add("me/pickled", {"config.json": b"{}", "pytorch_model.bin": b"x"})
        found.add("me/reviews", {"train.jsonl": LINES, "validation.jsonl": OTHERS}, kind="dataset")
        yield found


def given(*more: str) -> list[str]:
    return [
        "task=classification", "task.dataset=me/reviews", "task.text=[text]", "task.label=label", "model=bert",
        "model.checkpoint=me/base", "model.revision=main", "train.num_train_epochs=1", *more,
    ]  # fmt: skip


@pytest.fixture
def cache(server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    use_hub(server, monkeypatch, tmp_path / "hub")
    monkeypatch.setattr("peftkit.models.checkpoints.hub_is_reachable", lambda: True)
    job._checkpoint.cache_clear()
    return tmp_path / "hub"


def test_a_checkpoint_is_fetched_once_for_all_runs_without_other_formats(
    server: Hub, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "train.jsonl").write_bytes(LINES)
    for seed in (0, 1):
        found = commands.run(["job=fetch", *given(f"task.dataset={tmp_path}/train.jsonl", f"seed={seed}")])
    ((kind, name, revision, size),) = found
    assert (kind, name, revision) == ("checkpoint", "me/base", server.repository("me/base").branches["main"])
    (snapshot,) = (cache / "models--me--base" / "snapshots").iterdir()
    names = {each.name for each in snapshot.rglob("*")}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= names
    assert not {"pytorch_model.bin", "onnx", "model.fp16.safetensors"} & names
    assert size == sum(each.stat().st_size for each in snapshot.iterdir())
    assert capsys.readouterr().out.count(f"me/base at {revision}") == 1
    assert len([path for _, path in server.requests if path.endswith("model.safetensors")]) <= 2  # head and content


def test_it_is_repeated_without_the_hub_where_the_cache_is_whole(
    server: Hub, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "train.jsonl").write_bytes(LINES)
    command = ["job=fetch", *given(f"task.dataset={tmp_path}/train.jsonl")]
    (fetched,) = commands.run(command)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("peftkit.models.checkpoints.hub_is_reachable", lambda: False)

    def repeated() -> list[job.Fetched]:
        job._checkpoint.cache_clear()
        found: list[job.Fetched] = commands.run(command)
        return found

    assert repeated() == [fetched]
    (snapshot,) = (cache / "models--me--base" / "snapshots").iterdir()
    weights = snapshot / "model.safetensors"
    weights.rename(snapshot / "model-00001-of-00002.safetensors")
    with pytest.raises(UserError, match=r"lacks model\.safetensors; repeat the command where the Hub answers"):
        repeated()
    # as where transformers filled the cache, in a new folder because huggingface_hub keeps the lists in memory
    shutil.copytree(cache / "models--me--base", tmp_path / "other" / "models--me--base", symlinks=True)
    shutil.rmtree(tmp_path / "other" / "models--me--base" / "trees")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "other"))
    (snapshot,) = (tmp_path / "other" / "models--me--base" / "snapshots").iterdir()
    with pytest.raises(UserError, match=r"lacks model\.safetensors"):
        repeated()
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (snapshot / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}), encoding="utf-8")
    with pytest.raises(UserError, match=r"lacks model-00002-of-00002\.safetensors"):
        repeated()
    (snapshot / shards["b"]).write_bytes(b"")
    assert repeated()[0].revision == fetched.revision
    for file in snapshot.glob("*"):
        if file.suffix != ".safetensors" and "config" not in file.name and "index" not in file.name:
            file.unlink()
    with pytest.raises(UserError, match="lacks a tokenizer"):
        repeated()


def test_a_hub_that_fails_is_not_a_reason_for_another_checkpoint(server: Hub, cache: Path, tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_bytes(LINES)
    server.fault = lambda method, path: 403 if path.endswith("/model.safetensors") else None
    with pytest.raises(UserError, match=r"me/base at main: .*; repeat the command where the Hub answers"):
        commands.run(["job=fetch", *given(f"task.dataset={tmp_path}/train.jsonl")])


def test_weights_that_are_pickled_only_are_refused(cache: Path) -> None:
    with pytest.raises(UserError, match=r"me/pickled at main: it has no \.safetensors files"):
        commands.run(["job=fetch", *given("model.checkpoint=me/pickled")])


def test_offline_and_files_need_no_fetching(tiny: object, checkpoints: dict[str, Path], tmp_path: Path) -> None:
    assert commands.run(["job=fetch", "task=sst2", "source=offline"]) == []
    (tmp_path / "train.jsonl").write_bytes(LINES)
    local = given(f"task.dataset={tmp_path}/train.jsonl", f"model.checkpoint={checkpoints['bert']}", "source=hub")
    assert commands.run(["job=fetch", *local]) == []


def test_a_corpus_that_is_streamed_is_refused_with_its_download(cache: Path) -> None:
    with pytest.raises(UserError, match="run hf download me/corpus --repo-type dataset --local-dir FOLDER"):
        commands.run(["job=fetch", "task=language_modeling", "task.dataset=me/corpus", *given()[4:7]])


def test_data_of_job_generate_are_not_generated(
    cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def generate(*_: object, **__: object) -> None:
        raise AssertionError("job=fetch sends requests to a model")

    monkeypatch.setattr("peftkit.jobs.generate.generate", generate)
    generated = ["task=instructions", "task.dataset=self_instruct", "generate.generator=endpoint", *given()[4:7]]
    found = commands.run(["job=fetch", *generated])
    assert [each.name for each in found] == ["me/base"]
    assert "task.dataset=self_instruct is generated where the run trains" in capsys.readouterr().err


@pytest.mark.slow
def test_after_it_the_command_runs_without_the_hub(server: Hub, tmp_path: Path) -> None:
    environment = {**os.environ, **server.environment, "HF_HOME": str(tmp_path / "home"), "NO_COLOR": "1"}
    command = [sys.executable, "-m", "peftkit", *given("source=hub", f"out={tmp_path}/outputs")]

    def run(*more: str, **changed: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*command, *more], capture_output=True, text=True, env={**environment, **changed})

    before = run(HF_HUB_OFFLINE="1")
    assert before.returncode == 2 and "me/base is not in its cache" in before.stderr
    done = run("job=fetch")
    commits = [
        server.repository(name, kind).branches["main"]
        for name, kind in (("me/base", "model"), ("me/reviews", "dataset"))
    ]
    assert done.returncode == 0, done.stderr
    assert f"me/base at {commits[0]}" in done.stdout and f"me/reviews at {commits[1]}" in done.stdout
    server.requests.clear()
    trained = run(HF_HUB_OFFLINE="1")
    assert trained.returncode == 0, trained.stderr[-2000:]
    assert server.requests == []
    (file,) = tmp_path.glob("outputs/**/result.json")
    sources = json.loads(file.read_text(encoding="utf-8"))["audit"]["sources"]
    assert (sources["model"]["kind"], sources["model"]["revision"]) == ("cache", commits[0])
    assert sources["data"]["kind"] == "cache"
