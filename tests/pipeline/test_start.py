"""A run starts from the weights of another one: the same method goes on training the same weights, with the head or a new one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import commands
from helpers.commands import check
from helpers.disks import flip
from helpers.interruption import broken_off
from helpers.unbroken import learned
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from torch.utils.data import DataLoader
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    get_linear_schedule_with_warmup,
    set_seed,
)

from peftkit.cli.compose import open_composer
from peftkit.cli.start import with_start
from peftkit.config import UserError
from peftkit.leaderboard.reading import collect

Overrides = Callable[..., list[str]]
STILL = ("train.learning_rate=1e-30", "train.max_steps=1", "train.bf16=false")  # too small to change a bit
LARGE = ("train.learning_rate=1e-2", "train.bf16=false")
OUTPUTS = ("classifier", "score", "qa_outputs")


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    file = next(file for file in folder.glob("*/*model.safetensors"))
    return load_file(file)


def split(weights: dict[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Return the weights of the head's output, and the others."""
    head = {name: each for name, each in weights.items() if any(part in OUTPUTS for part in name.split("."))}
    return head, {name: each for name, each in weights.items() if name not in head}


def equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    assert first.keys() == second.keys()
    return all(torch.equal(each, second[name]) for name, each in first.items())


def start_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "result.json").read_text())["audit"]["start"]
    return found


def with_settings(overrides: list[str]) -> list[str]:
    """Return a command with what it takes from its start."""
    with open_composer(None) as composer:
        return [each.lstrip("+") for each in with_start(overrides, composer, None)]


def test_the_same_weights_train_on_with_their_head_or_a_new_one(tiny: Overrides) -> None:
    (first,) = commands.finetune(*tiny("bert", "task=mrpc", "method.config.r=3", *LARGE))
    overrides = [each for each in tiny("bert", f"start={first}", *STILL) if not each.startswith("model")]
    command = with_settings([*overrides, "task=mrpc"])
    assert "method.config.r=3" in command and not any(each.startswith("method=") for each in command)
    (same,) = commands.finetune(*command)
    assert equal(weights_of(same), weights_of(first))
    record = json.loads((first / "result.json").read_text())["files"]
    assert start_of(same) | {"weights": "", "settings": ""} == {
        "name": first.name, "task": "mrpc", "method": "lora", "weights": "", "settings": "", "head": "kept",
    }  # fmt: skip
    assert "adapter/adapter_model.safetensors" in record

    (other,) = commands.finetune(*with_settings([*overrides, "task=rte"]))
    (fresh,) = commands.finetune(*tiny("bert", "task=rte", "method.config.r=3", *STILL))
    (head, body), (fresh_head, fresh_body) = split(weights_of(other)), split(weights_of(fresh))
    assert equal(body, split(weights_of(first))[1]) and equal(head, fresh_head) and not equal(body, fresh_body)
    assert start_of(other)["head"] == "new"
    runs = collect([first, same, other, fresh])
    settings = {run.folder: run.settings for run in runs}  # type: ignore[union-attr]
    assert settings[other].pop("start") == f"mrpc ({start_of(other)['settings']})"
    assert settings[other] == settings[fresh]


@pytest.mark.parametrize("method", ["full", "ia3"])
def test_labels_in_another_order_keep_their_weights(tiny: Overrides, tmp_path: Path, method: str) -> None:
    rows = [{"text": f"the film {number}", "kind": ["good", "bad", "odd"][number % 3]} for number in range(24)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    overrides = tiny(
        "bert", f"method={method}", "task=classification", f"task.dataset={tmp_path}/rows.jsonl", "task.text=[text]", "task.label=kind", *LARGE
    )  # fmt: skip
    (first,) = commands.finetune(*overrides, "task.labels=[good,bad,odd]")
    (second,) = commands.finetune(*overrides, "task.labels=[odd,good,bad]", f"start={first}", *STILL)
    (head, body), (turned, same) = split(weights_of(first)), split(weights_of(second))
    assert equal(body, same) and start_of(second)["head"] == "kept"
    assert equal({name: each[[2, 0, 1]] for name, each in head.items()}, turned)


METHODS = [
    ("bert", "adapter"),
    ("gpt2", "prefix"),
    *(
        pytest.param(model, method, marks=pytest.mark.slow)
        for model in ("bert", "gpt2", "t5")
        for method in (
            "lora",
            "dora",
            "ia3",
            "full",
            "prompt",
            "p_tuning",
            "mam",
            "unipelt",
            "vera",
            "qlora",
            "ln_tuning",
        )
    ),
    *(
        pytest.param("bert", method, marks=pytest.mark.slow)
        for method in ("bitfit", "gradual", "linear_probe_mix", "oft", "boft", "adapter_parallel")
    ),
]


@pytest.mark.parametrize(("model", "method"), METHODS)
def test_every_method_starts_on_another_task(tiny: Overrides, model: str, method: str) -> None:
    overrides = tiny(model, f"method={method}", *LARGE)
    (first,) = commands.finetune(*overrides, "task=mrpc")
    command = [each for each in overrides if not each.startswith(("model", "method"))]
    (second,) = commands.finetune(*with_settings([*command, "task=stsb", f"start={first}", *STILL]))
    assert equal(split(weights_of(second))[1], split(weights_of(first))[1])
    assert start_of(second)["head"] == ("none" if model == "t5" else "new")


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize(("first", "second"), [("ud_ewt", "mrpc"), ("mrpc", "ud_ewt"), ("mrpc", "retrieval")])
def test_other_kinds_of_task_share_the_body(
    tiny: Overrides, tmp_path: Path, method: str, first: str, second: str
) -> None:
    pairs = "".join(json.dumps({"a": f"the film {n}", "b": f"a movie {n}"}) + "\n" for n in range(24))
    (tmp_path / "pairs.jsonl").write_text(pairs)
    words = "".join(f"the\tDET\nfilm\tNOUN\n{n}\tNUM\n\n" for n in range(24))
    (tmp_path / "words.conll").write_text(words)
    data = {
        "mrpc": ["task=mrpc"],
        "retrieval": ["task=retrieval", f"task.dataset={tmp_path}/pairs.jsonl", "task.text=[a,b]"],
        "ud_ewt": [
            "task=token_classification",
            f"task.dataset={tmp_path}/words.conll",
            "task.metrics=[token_accuracy]",
        ],
    }
    overrides = tiny("bert", f"method={method}", *LARGE)
    (one,) = commands.finetune(*overrides, *data[first])
    (two,) = commands.finetune(*overrides, *data[second], f"start={one}", *STILL)
    before, after = (
        {k.removeprefix("base_model.model.").removeprefix("bert."): v for k, v in split(weights_of(f))[1].items()}
        for f in (one, two)
    )
    shared = before.keys() & after.keys()
    assert all(torch.equal(before[name], after[name]) for name in shared)
    assert {name for name in before.keys() ^ after.keys() if "pooler" not in name} == set()


def test_an_adapter_by_plain_peft_starts_and_trains_as_a_loop_by_hand(
    tiny: Overrides, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    """The adapter has settings of its own, and its head the labels of another task of numbers."""
    place, adapter = checkpoints["bert"], tmp_path / "theirs"
    set_seed(5)
    base = AutoModelForSequenceClassification.from_pretrained(place, num_labels=1)
    config = LoraConfig(
        task_type="SEQ_CLS", r=4, lora_alpha=12, target_modules=["query", "dense"], init_lora_weights=False
    )
    config.modules_to_save = ["pooler"]
    get_peft_model(base, config).save_pretrained(adapter)
    rows = [{"s1": f"the film {n}", "s2": f"a film {n % 7}", "score": float(n % 5)} for n in range(36)]
    (tmp_path / "rows").mkdir()
    for name, part in (("train", rows[:24]), ("validation", rows[24:])):
        (tmp_path / "rows" / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    command = with_settings(
        [
            *("task=regression", f"task.dataset={tmp_path}/rows", "task.text=[s1,s2]", "task.label=score"),
            *(f"start={adapter}", f"out={tmp_path}/outputs", "source=offline", "train.max_steps=3", "train.bf16=false"),
            *("train.per_device_train_batch_size=8", "train.train_sampling_strategy=sequential"),
            *("train.logging_steps=1", "train.learning_rate=1e-3", "train.disable_tqdm=true"),
        ]
    )
    assert {"method.config.r=4", "method.config.lora_alpha=12", f"model.checkpoint={place}"} <= {*command}
    (run,) = commands.finetune(*command)
    assert start_of(run)["head"] == "kept" and start_of(run)["task"] is None
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    tokenizer = AutoTokenizer.from_pretrained(place)
    net = PeftModel.from_pretrained(
        AutoModelForSequenceClassification.from_pretrained(place, num_labels=1), str(adapter), is_trainable=True
    )
    losses = _losses(net, tokenizer, rows[:24], steps=3)
    assert np.abs(np.array([each["loss"] for each in log if "loss" in each]) - losses).max() < 1e-5


def _losses(net: Any, tokenizer: Any, rows: list[dict[str, Any]], steps: int) -> np.ndarray:
    """Train three steps by hand, and return the losses."""
    from peftkit.compat.dropout import fast_masks

    weights = [weight for weight in net.parameters() if weight.requires_grad]
    names = [name for name, weight in net.named_parameters() if weight.requires_grad]
    groups = [
        {
            "params": [w for n, w in zip(names, weights, strict=True) if n.endswith("bias") == is_bias],
            "weight_decay": decay,
        }
        for is_bias, decay in ((False, 0.01), (True, 0.0))
    ]
    optimizer = torch.optim.AdamW(groups, lr=1e-3)
    schedule = get_linear_schedule_with_warmup(optimizer, 1, steps)
    items = [{**tokenizer(row["s1"], row["s2"]), "labels": row["score"]} for row in rows]
    losses: list[float] = []
    set_seed(0)
    with fast_masks():
        for batch in DataLoader(items, batch_size=8, collate_fn=DataCollatorWithPadding(tokenizer)):  # type: ignore[arg-type]
            loss = net.train()(**batch).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            losses.append(float(loss.detach()))
    return np.array(losses[:steps])


def test_an_adapter_of_the_hub_is_found_in_its_cache(
    tiny: Overrides, checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    import peftkit

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    repository, commit = tmp_path / "hub" / "models--me--adapter", "0" * 40
    base = AutoModelForSequenceClassification.from_pretrained(checkpoints["bert"])
    config = LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query"], init_lora_weights=False)
    get_peft_model(base, config).save_pretrained(repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    run = peftkit.finetune(
        task="mrpc",
        start="me/adapter",
        source="offline",
        out=tmp_path / "outputs",
        train={"learning_rate": 1e-30, "max_steps": 1, "bf16": False, "per_device_train_batch_size": 8},
        **{"task.max_train_samples": 24, "task.max_eval_samples": 24},
    )
    found = start_of(run.folder)
    assert (
        found["name"] == "me/adapter"
        and found["head"] == "new"
        and run.record["run"]["config"]["method"]["config"]["r"] == 2
    )
    expected = load_file(repository / "snapshots" / commit / "adapter_model.safetensors")
    assert equal(split(weights_of(run.folder))[1], split(expected)[1])
    with pytest.raises(UserError, match="start=me/other is no folder, and neither on the Hub nor in its cache"):
        commands.finetune(*tiny("bert", "task=mrpc", "start=me/other"))


def test_a_killed_run_resumes_from_its_checkpoint_and_not_from_the_start(tiny: Overrides, tmp_path: Path) -> None:
    (first,) = commands.finetune(*tiny("bert", "task=mrpc", *LARGE))
    overrides = tiny("bert", "task=rte", f"start={first}", *LARGE, "train.save_strategy=steps", "train.save_steps=1")
    (expected,) = commands.finetune(*overrides, f"out={tmp_path}/unbroken")
    with broken_off(step=2):
        commands.finetune(*overrides)
    (resumed,) = commands.finetune(*overrides)
    assert learned(resumed) == learned(expected)


def test_another_method_base_or_rank_is_refused_with_what_to_type(
    tiny: Overrides, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    (first,) = commands.finetune(*tiny("bert", "task=mrpc"))
    for overrides, sentence in (
        (["method.config.r=4", "method.config.lora_alpha=2"], "with r=8, lora_alpha=16, .* use method.config.r=8 method.config.lora_alpha=16"),
        (["method=full"], "is of lora; use method=lora"),
        (["method=ia3"], "is of lora; use method=lora"),
        (["method=qlora"], "over a base in another precision; use method=lora"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=sentence):
            commands.finetune(*tiny("bert", "task=rte", f"start={first}", *overrides))
    with pytest.raises(UserError, match=r"was trained from .*; use model=bert model\.checkpoint="):
        commands.finetune(*tiny("gpt2", "task=rte", f"start={first}"))
    weights = first / "adapter" / "adapter_model.safetensors"
    flip(weights)
    assert "has another content than was recorded" in str(check(tiny("bert", "task=rte", f"start={first}")))


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["start=nowhere/at/all"], "start=nowhere/at/all: no such folder"),
        (["start={bert}"], "is a checkpoint; use model.checkpoint="),
        (["start={empty}"], "is no run and no adapter"),
        (["start={bert}", "method=zero_shot", "model=gpt2"], "method=zero_shot trains nothing"),
        (["start={bert}", "method=adalora"], "method=adalora has a schedule of ranks for one training"),
        (["start={bert}", "search.config.r=[4,8]"], "search.config.r tries what the start has fixed"),
        (["start={bert}", "job=inspect"], "start= is not for job=inspect"),
        (["start={pickled}"], "pickled weights can contain code"),
        (["start={code}"], "auto_map is refused in adapter_config.json"),
    ],
)
def test_what_is_no_start_is_refused_before_anything_loads(
    checkpoints: dict[str, Path], tmp_path: Path, overrides: list[str], sentence: str
) -> None:
    (tmp_path / "empty").mkdir()
    for name, more in (("pickled", {}), ("code", {"auto_map": {"x": "y"}})):
        (tmp_path / name).mkdir()
        (tmp_path / name / "adapter_config.json").write_text(
            json.dumps({"peft_type": "LORA", "base_model_name_or_path": "x", **more})
        )
        (tmp_path / name / "adapter_model.bin").write_bytes(b"")
    places = {"bert": checkpoints["bert"], **{name: tmp_path / name for name in ("empty", "pickled", "code")}}
    found = check(["task=mrpc", "source=offline", *(each.format(**places) for each in overrides)])
    assert any(sentence in message for message in found), found
