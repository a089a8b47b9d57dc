"""A model that is sharded in training is scored, saved and verified whole; the files of accelerate are valid."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from helpers import commands
from helpers.commands import check
from helpers.two_processes import torchrun
from peft import PeftModel
from safetensors.torch import load_file

import peftkit
from peftkit.cli.help import help_text
from peftkit.paths import conf_folder

Overrides = Callable[..., list[str]]
CONFIGS = sorted((conf_folder() / "accelerate").glob("*.yaml"))


def run(*arguments: str) -> None:
    done = torchrun("-m", *arguments, CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "method", "task"), [("bert", "lora", "sst2"), ("t5", "lora", "sst2"), ("bert", "full", "sst2")]
)
def test_a_sharded_run_is_the_run_of_two_processes_and_whole_on_disk(
    tiny: Overrides, tmp_path: Path, model: str, method: str, task: str
) -> None:
    more = [f"method={method}", f"task={task}", "train.bf16=false", "train.max_grad_norm=0", "train.save_strategy=no"]
    if method == "lora":
        (tmp_path / "terms.txt").write_text("zyxwort\nqux/zed\n")
        base = [each for each in tiny(model) if each.startswith(("model", "source"))]
        more.append(
            f"vocab={commands.run(['job=extend', *base, f'extend.terms={tmp_path}/terms.txt', f'out={tmp_path}'])}"
        )
    overrides = [each for each in tiny(model, *more) if not each.startswith("out=")]
    run("helpers.sharded_run", str(tmp_path / "seen.json"), *overrides, f"out={tmp_path}/sharded")
    run("peftkit", *overrides, f"out={tmp_path}/plain")
    seen = json.loads((tmp_path / "seen.json").read_text())
    assert seen["whole"] == [] and 0.4 < seen["local"] / seen["total"] < 0.6
    folder, (plain,) = Path(seen["folder"]), (file.parent for file in (tmp_path / "plain").rglob("result.json"))
    record = json.loads((folder / "result.json").read_text())
    assert record["meta"]["status"] == "finished" and record["gates"]["reload_difference"] <= 1e-4
    scores = [np.stack(pq.read_table(each / "predictions.parquet")["scores"].to_pylist()) for each in (folder, plain)]
    np.testing.assert_allclose(*scores, atol=1e-5)
    name = "adapter/adapter_model.safetensors" if method == "lora" else "model/model.safetensors"
    weights, expected = (load_file(each / name) for each in (folder, plain))
    assert {key: each.shape for key, each in weights.items()} == {key: each.shape for key, each in expected.items()}
    for key, weight in weights.items():
        torch.testing.assert_close(weight, expected[key], rtol=0, atol=1e-5)
    if method == "lora":
        assert any("token" in key for key in weights)  # the rows of the new tokens
        assert model == "t5" or any("classifier" in key for key in weights)
        loaded: Any = peftkit.load(folder)[0]
        assert isinstance(loaded, PeftModel)


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_a_config_of_accelerate_is_valid_and_no_option_of_a_command(file: Path) -> None:
    from accelerate.commands.config.config_args import ClusterConfig
    from accelerate.commands.launch import launch_command_parser

    config = ClusterConfig.from_yaml_file(str(file))
    assert config.num_processes == 2
    known = vars(launch_command_parser().parse_args(["x.py"])).keys()
    for key in config.fsdp_config:
        assert key in known
    for key in config.deepspeed_config:
        assert key in known
    assert check([f"+accelerate={file.stem}"]) and check([f"accelerate={file.stem}"])
    header = file.read_text(encoding="utf-8").splitlines()[0]
    assert header.startswith("# ") and f"--config_file conf/accelerate/{file.name}" in header


def test_the_help_does_not_list_them() -> None:
    pages = "".join(help_text(arguments) for arguments in ([], ["keys"], ["method"], ["model"], ["task"], ["recipe"]))
    assert CONFIGS and "accelerate" not in pages
