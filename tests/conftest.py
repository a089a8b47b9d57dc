"""Tiny checkpoints of the three families and a small real task, made once a session."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from helpers.caches import keep_config_files, keep_generated_data
from helpers.fork_server import ForkServer

gc.disable()  # until all is imported
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests fork this process, which more threads would not survive
os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # the processes of the tests share the cores
os.environ["HF_HUB_OFFLINE"] = "1"
# scripts that tests start in other processes import tests/helpers too
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(Path(__file__).parent), os.environ.get("PYTHONPATH"))))
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

ROWS = 24
finished_tests = 0


def pytest_collection_finish() -> None:
    """Leave the libraries, those of a run too, out of garbage collections: these were half of a run's time."""
    for name in ("sklearn.model_selection", "scipy.stats", "peftkit.jobs.finetune"):
        import_module(name)
    keep_config_files()
    keep_generated_data()
    freeze_objects()
    import_module("peftkit.pipeline.verify").fork_verifier()  # a fresh process would import all again
    gc.set_threshold(50_000, 20, 20)
    gc.enable()


@pytest.hookimpl(trylast=True)
def pytest_runtest_logfinish() -> None:
    """Leave out what the libraries keep since, such as the tables of a parser."""
    global finished_tests
    finished_tests += 1
    if finished_tests % 20 == 0:
        freeze_objects()


def freeze_objects() -> None:
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return folders of tiny models of every family by the name of their model part."""
    from peftkit.data.miniglue import sentences
    from peftkit.models.tiny import tiny_checkpoints

    return tiny_checkpoints(tmp_path_factory.mktemp("checkpoints"), list(sentences(300)))


@pytest.fixture(scope="session")
def places(checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return tiny checkpoints that can go on pretraining: a BERT that knows a mask, with a head (bert_head) and without."""
    import torch
    from transformers import AutoConfig, AutoTokenizer, BertForMaskedLM, BertModel

    tokenizer: Any = AutoTokenizer.from_pretrained(str(checkpoints["bert"]))
    tokenizer.add_special_tokens({"mask_token": "[MASK]"})
    config: Any = AutoConfig.from_pretrained(str(checkpoints["bert"]))
    config.vocab_size = len(tokenizer)
    torch.manual_seed(0)
    found = dict(checkpoints)
    for name, kind in (("bert", BertModel), ("bert_head", BertForMaskedLM)):
        model: Any = kind(config)
        if name == "bert_head":
            torch.nn.init.normal_(model.cls.predictions.bias)
        found[name] = tmp_path_factory.mktemp(name)
        model.save_pretrained(str(found[name]))
        tokenizer.save_pretrained(str(found[name]))
    return found


@pytest.fixture
def tiny(checkpoints: dict[str, Path], tmp_path: Path):
    """Return the words of a run on a tiny checkpoint: tiny("bert", "task=mrpc", ...)."""

    def words(model: str, *more: str) -> list[str]:
        return [
            f"model={model}", f"model.checkpoint={checkpoints[model]}", "source=offline", f"out={tmp_path}/outputs",
            f"task.max_train_samples={ROWS}", f"task.max_eval_samples={ROWS}", "train.num_train_epochs=1",
            "train.per_device_train_batch_size=8", "train.disable_tqdm=true", *more,
        ]  # fmt: skip

    return words


@pytest.fixture(scope="session")
def fork_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkServer]:
    """Return a process that has imported peftkit and runs each command in a child."""
    server = ForkServer(tmp_path_factory.mktemp("fork_server"))
    yield server
    server.close()
