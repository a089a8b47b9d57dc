"""Run folders: ids follow contents, names follow the trained checkpoint, files are written whole."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from helpers.commands import compose_config
from omegaconf import OmegaConf

from peftkit.config import RunConfig, UserError
from peftkit.config import source as sources_module
from peftkit.config.source import Source, fingerprint
from peftkit.data.datasets import load_task_dataset
from peftkit.models.checkpoints import locate
from peftkit.pipeline.sources import describe_sources, execution_setup
from peftkit.results import run_folder

OWN = ("task=classification", "task.text=[text]", "task.label=label")


def config_of(*overrides: str) -> RunConfig:
    return RunConfig.from_config(OmegaConf.to_container(compose_config(overrides), resolve=True))  # type: ignore[arg-type]


def folder_of(*overrides: str) -> Path:
    """Return the run folder of a run on local files, as a job computes it."""
    run = config_of("source=offline", *overrides)
    data = load_task_dataset(run.task, run.data_root, run.source).source
    sources = describe_sources(run, locate(run.model, run.source), data)
    return run_folder.run_folder(run, sources, execution_setup(run))


@pytest.fixture
def files(tmp_path: Path, checkpoints: dict[str, Path]) -> Path:
    """Return a folder with a checkpoint, own data in a file and in a folder, and a suite for data_root."""
    examples = "".join(json.dumps({"text": f"a film {n}", "label": n % 2}) + "\n" for n in range(20))
    place = tmp_path / "here"
    shutil.copytree(checkpoints["bert"], place / "my bert")
    for name in ("films.jsonl", "split/train.jsonl", "split/validation.jsonl"):
        (place / name).parent.mkdir(exist_ok=True)
        text = examples.replace("film", "show") if "validation" in name else examples
        (place / name).write_text(text, encoding="utf-8")
    return place


@pytest.mark.parametrize("data", ["films.jsonl", "split"])
def test_an_id_follows_contents_and_not_paths(files: Path, data: str) -> None:
    def run_at(place: Path) -> Path:
        return folder_of(f"model.checkpoint='{place}/my bert'", *OWN, f"task.dataset={place}/{data}")

    first = run_at(files)
    moved = files.with_name("elsewhere")
    shutil.copytree(files, moved)
    assert run_at(moved) == first
    file = moved / data / "train.jsonl" if data == "split" else moved / data
    text = file.read_text(encoding="utf-8")
    file.write_text(text.replace("film 3", "film 4"), encoding="utf-8")
    assert run_at(moved) != first
    file.write_text(text, encoding="utf-8")
    assert run_at(moved) == first
    weights = moved / "my bert" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x00\x00")
    assert run_at(moved) != first


def test_the_hub_s_cache_gives_the_id_of_the_hub_and_another_commit_another() -> None:
    config = config_of("task=rte")
    data = {"kind": "hub", "name": "nyu-mll/glue", "revision": "b" * 40, "substituted_for": None}

    def id_of(setting: str = "main", **model: str) -> str:
        source = {"kind": "hub", "name": "a/b", "revision": "a" * 40, "substituted_for": None, "pooling": "cls"}
        chosen = replace(config, model=replace(config.model, revision=setting))
        return run_folder.run_id(chosen, {"model": {**source, **model}, "data": data}, {})

    assert id_of() == id_of(kind="cache") == id_of("a" * 40)
    assert len({id_of(), id_of(revision="c" * 40), id_of(name="a/c"), id_of(pooling="mean")}) == 4


@pytest.mark.parametrize(
    ("source", "name"),
    [
        (Source("hub", "google-bert/bert-base-uncased"), "google-bert--bert-base-uncased"),
        (Source("offline", "minilm", substituted_for="google-bert/bert-base-uncased"), "minilm"),
        (Source("folder", "/data/my bert"), "my-bert"),
        (Source("folder", "outputs/own/films/minilm/full/seed-0-1a2b3c4d/model"), "seed-0-1a2b3c4d"),
    ],
)
def test_a_run_folder_is_named_after_the_checkpoint_that_is_trained(source: Source, name: str) -> None:
    config = config_of("task=rte", "method=ia3", "seed=3", "out=here")
    entries = {"model": {**asdict(source), "pooling": "cls"}, "data": asdict(Source("offline", "miniglue"))}
    folder = run_folder.run_folder(config, entries, {})
    assert folder.parent == Path("here", "miniglue", "rte", name, "ia3") and folder.name.startswith("seed-3-")
    assert run_folder.run_folder(replace(config, trial=True), entries, {}).name.startswith("trial-3-")


def test_the_hash_of_a_large_file_is_cached_until_the_file_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PEFTKIT_HOME", str(tmp_path / "home"))
    file = tmp_path / "large"
    file.write_bytes(b"abc")
    os.utime(file, (1, 1))
    small = fingerprint(file)
    monkeypatch.setattr(sources_module, "MIN_CACHED_SIZE", 2)
    assert fingerprint(file) == small
    (cached,) = (tmp_path / "home" / "fingerprints").iterdir()
    cached.write_text("from cache")
    assert fingerprint(file) == "from cache"
    os.utime(file, (2, 2))
    assert fingerprint(file) == small
    file.write_bytes(b"abd")  # just now: it may change again within the resolution of its time
    assert fingerprint(file) != small and len(list(cached.parent.iterdir())) == 2


def test_results_are_utf_8_and_one_of_an_earlier_version_is_refused(tmp_path: Path) -> None:
    run_folder.write_result(tmp_path, {"meta": {"status": "failed", "reason": "größer"}})
    assert run_folder.read_result(tmp_path) == {
        "schema": run_folder.SCHEMA,
        "meta": {"status": "failed", "reason": "größer"},
    }
    assert [file.name for file in tmp_path.iterdir()] == ["result.json"]  # no part is left
    (tmp_path / "result.json").write_text('{"meta": {"status": "finished"}}')
    with pytest.raises(UserError, match=r"written by another version of peftkit, .* run it again"):
        run_folder.read_result(tmp_path)
    assert run_folder.read_result(tmp_path / "none") is None


def test_a_result_records_the_commit_of_the_checkout() -> None:
    checkout = Path(run_folder.__file__).parents[2]
    head = subprocess.run(["git", "-C", str(checkout), "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    commit = run_folder.meta(0, "cpu", "fp32")["git"]
    assert commit is not None and head.stdout.startswith(commit.removesuffix("+"))
