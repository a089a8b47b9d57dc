"""Heads of a finished run are judged as by hand, removed, and the pruned run is one like any other."""

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
from helpers.interruption import leave_unfinished

import peftkit
from peftkit.config import UserError
from peftkit.jobs.prune import _judging_examples, _new_context
from peftkit.models.attention_heads import attention_layers
from peftkit.pipeline.artifacts import load_bundle
from peftkit.pipeline.pruning import head_importance, least_important
from peftkit.results.run_result import RunResult

Overrides = Callable[..., list[str]]
FP32 = "train.bf16=false"


def pruned(folder: Path, *more: str) -> tuple[Path, dict[str, Any]]:
    """Return the folder of the pruned run and its result."""
    found = commands.run(["job=prune", f"run={folder}", "prune.samples=6", *more])
    return found, json.loads((found / "result.json").read_text())


def importance_by_hand(bundle: Any, examples: Any) -> dict[str, np.ndarray]:
    """Return the mean over examples of |head's output times the derivative of the loss by it|, summed over tokens."""
    model, layers, total = bundle.model.eval(), attention_layers(bundle.model), {}
    for example in bundle.format.encode_training(examples, 0).inputs:
        outputs: dict[str, torch.Tensor] = {}

        def record(name: str, kept: dict[str, torch.Tensor] = outputs) -> Any:
            def hook(_: Any, inputs: Any) -> None:
                inputs[0].retain_grad()
                kept[name] = inputs[0]

            return hook

        handles = [layer.output.register_forward_pre_hook(record(layer.name)) for layer in layers]
        model.requires_grad_(True)
        model(**bundle.format.collator()([example])).loss.backward()
        for handle in handles:
            handle.remove()
        for layer in layers:
            product = (outputs[layer.name] * outputs[layer.name].grad).sum(dim=(0, 1))
            found = product.view(layer.heads, layer.width).sum(-1).abs().detach().numpy()
            total[layer.name] = total.get(layer.name, 0) + found / len(examples)
    return total


@pytest.mark.parametrize(
    ("model", "method"), [("bert", "full"), pytest.param("gpt2", "lora", marks=pytest.mark.slow), ("t5", "ia3")]
)
def test_importance_is_that_of_the_outputs_and_their_gradients(tiny: Overrides, model: str, method: str) -> None:
    (folder,) = commands.finetune(*tiny(model, "task=mrpc", f"method={method}", FP32, "train.learning_rate=0.01"))
    run = RunResult.finished(folder)
    config = commands.choose(["job=prune", f"run={folder}", "prune.heads=0.5", "prune.samples=5"])[0]
    examples = _judging_examples(_new_context(config, run))
    assert len(examples) == 5
    bundle = load_bundle(run)
    if method != "full":
        bundle.model = bundle.model.merge_and_unload()
    found = head_importance(bundle, attention_layers(bundle.model), examples, 0)
    wanted = importance_by_hand(bundle, examples)
    assert found.keys() == wanted.keys() and len(found) == (6 if model == "t5" else 2)
    for name, values in wanted.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-4, atol=1e-8)
        assert values.max() > 0


def test_the_least_important_heads_of_all_layers_are_chosen_by_normalized_importance() -> None:
    importance = {"a": np.array([3.0, 4.0, 0.0]), "b": np.array([0.1, 0.1, 0.1]), "c": np.array([0.0, 0.0, 0.0])}
    # 0.6, 0.8, 0; 0.577 each; all zero: one of each layer stays
    assert least_important(importance, 1 / 9) == {"a": [2]}
    assert least_important(importance, 3 / 9) == {"a": [2], "c": [0, 1]}
    assert least_important(importance, 5 / 9) == {"a": [2], "b": [0, 1], "c": [0, 1]}
    assert least_important(importance, 0.99) == {"a": [0, 2], "b": [0, 1], "c": [0, 1]}


def test_a_saved_classifier_names_no_code_that_is_not_beside_it(tiny: Overrides, tmp_path: Path) -> None:
    (folder,) = commands.finetune(*tiny("bert", "task=mrpc", "method=full", "model.pooling=mean", FP32))
    found, _ = pruned(folder, "prune.heads=0.25")
    peftkit.load(folder)[0].save_pretrained(tmp_path / "mine")
    for model in (folder / "model", found / "model", tmp_path / "mine"):
        settings = json.loads((model / "config.json").read_text())
        assert ("auto_map" in settings) == (model / "modeling_peftkit.py").is_file() == (model.parent == folder)


def test_a_pruned_run_is_scored_loaded_predicted_trained_and_pruned_again(tiny: Overrides, tmp_path: Path) -> None:
    words = tiny("bert", "task=mrpc", FP32, "train.learning_rate=0.01")
    (folder,) = commands.finetune(*words)
    found, result = pruned(folder, "prune.heads=0.25")
    record, before = result["pruning"], json.loads((folder / "result.json").read_text())
    assert found.parent == folder.parent and record["run"] == folder.name
    assert (record["heads"], record["removed"], sum(map(len, record["pruned_heads"].values()))) == (4, 1, 1)
    assert (
        max(result["gates"][name] for name in ("slicing_difference", "reload_difference", "padding_difference")) < 1e-4
    )
    assert result["costs"]["total_params"] == record["before"]["total_params"] - 4 * 32 * 64 - 3 * 32
    assert result["costs"]["train_seconds"] == before["costs"]["train_seconds"]
    assert record["before"]["scores"] == before["scores"] and result["scores"].keys() == before["scores"].keys()
    assert "peftkit.load" in (found / "README.md").read_text() and (found / "report.html").is_file()
    model, _ = peftkit.load(found)
    assert model.config.pruned_heads == record["pruned_heads"]
    assert len(peftkit.predict(found, [("a film", "a fine film")])) == 1
    board = peftkit.leaderboard(tmp_path / "outputs").to_pandas()
    assert sum("prune.heads=0.25" in settings for settings in board["settings"]) == 1  # beside the run itself
    assert pruned(folder, "prune.heads=0.25")[0] == found  # finished already
    with pytest.raises(UserError, match=r"pruned by prune.heads=0.25 already; use prune.heads="):
        pruned(found, "prune.heads=0.25", "force=true")  # which would delete it
    assert RunResult.finished(found).record == result
    (message,) = check(["task=rte", f"start={found}", "source=offline"])
    wrong = f"start={found} has fewer attention heads than its base"
    assert message == f"{wrong}; use model.checkpoint={found} and drop start"


@pytest.mark.slow
def test_a_pruned_run_is_trained_and_pruned_again(tiny: Overrides) -> None:
    words = tiny("bert", "task=mrpc", FP32, "train.learning_rate=0.01")
    (folder,) = commands.finetune(*words)
    found, _ = pruned(folder, "prune.heads=0.25")

    def again(method: str) -> Path:
        (trained,) = commands.finetune(*words, f"method={method}", f"model.checkpoint={found}")
        return trained

    leave_unfinished(found)
    assert pruned(folder, "prune.heads=0.25")[1]["meta"]["status"] == "finished"
    again("prefix")
    _, twice = pruned(again("lora"), "prune.heads=0.34")
    assert sum(map(len, json.loads((found / "model/config.json").read_text())["pruned_heads"].values())) == 1
    assert (twice["pruning"]["heads"], twice["pruning"]["removed"]) == (3, 1)
    with pytest.raises(UserError, match="use the run that it was pruned from"):
        commands.run(["job=forgetting", f"run={found}", "source=offline"])
    with pytest.raises(UserError, match="keep_layers does not work with a model whose attention heads were pruned"):
        commands.finetune(*words, "method=full", f"model.checkpoint={found}", "model.keep_layers=[0]")


def test_what_cannot_be_pruned_is_refused(tiny: Overrides) -> None:
    (folder,) = commands.finetune(*tiny("gpt2", "task=mrpc", "method=adapter", FP32))
    for words, message in (
        ([f"run={folder}"], "needs the share of heads to remove; set prune.heads=0.3"),
        ([f"run={folder}", "prune.heads=1"], "expected a share above 0 and below 1; use prune.heads=0.3"),
        (["prune.heads=0.3"], "job=prune needs a run folder"),
        ([f"run={folder}", "prune.heads=0.3", "method=lora"], "job=prune ignores method=lora"),
    ):
        assert any(message in each for each in check(["job=prune", *words])), words
    assert any(
        "prune.heads= is not for job=finetune, only for job=prune" in each for each in check(["prune.heads=0.3"])
    )
    with pytest.raises(UserError, match="cannot be merged"):
        pruned(folder, "prune.heads=0.5")


@pytest.mark.slow
def test_runs_without_heads_to_remove_are_refused(tiny: Overrides) -> None:
    (folder,) = commands.finetune(*tiny("gpt2", "task=mrpc", "method=zero_shot", FP32))
    with pytest.raises(UserError, match="no weights were trained"):
        pruned(folder, "prune.heads=0.5")
    (folder,) = commands.finetune(*tiny("bert", "task=mrpc", "method=bag_of_words", FP32))
    with pytest.raises(UserError, match="method=bag_of_words has no attention heads; prune a run of another method"):
        pruned(folder, "prune.heads=0.5")
    (message,) = check(["job=combine", f"runs=[{folder}]", "source=offline"])
    assert "has a model of its own, which is no change of a base" in message
    (folder,) = commands.finetune(*tiny("smollm2", "task=mrpc", "method=lora", FP32))
    with pytest.raises(UserError, match="one group of heads"):
        pruned(folder, "prune.heads=0.5")
