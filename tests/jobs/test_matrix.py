"""docs/reference/matrix.md is the page of matrix.json, which a new check reproduces."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from peftkit import paths
from peftkit.cli.files import options_of
from peftkit.jobs import matrix, matrix_checks
from peftkit.jobs.matrix_checks import FAILED, REFUSED, SUPPORTED, Combination, check_method, compose
from peftkit.methods import tying
from peftkit.pipeline.verify import VerificationError

DOCS = Path(__file__).parents[2] / "docs" / "reference"
RECORDED = [Combination(**each) for each in json.loads((DOCS / "matrix.json").read_text(encoding="utf-8"))]
METHODS = matrix.methods()
FAST = (("prefix", "gpt2"), ("linear_probe", "t5"))  # the long tests check all


def test_the_page_shows_the_recorded_results_and_none_failed() -> None:
    assert (DOCS / "matrix.md").read_text(encoding="utf-8") == matrix.page(RECORDED)
    assert {each.status for each in RECORDED} == {SUPPORTED, REFUSED}
    assert all("use m" in str(each.reason) for each in RECORDED if each.status == REFUSED)


def test_every_shipped_method_is_recorded_on_every_shipped_model() -> None:
    assert matrix.MODELS.keys() == options_of("model").keys()
    assert {*METHODS, matrix.GENERIC_METHOD} == options_of("method").keys()
    recorded = {(each.method, each.model) for each in RECORDED}
    assert recorded == {(method, model) for method in METHODS for model in matrix.MODELS}


@pytest.mark.parametrize(
    ("method", "model"),
    [
        pytest.param(method, model, marks=() if (method, model) in FAST else pytest.mark.slow)
        for method in METHODS
        for model in matrix.MODELS
    ],
)
def test_a_new_check_gives_the_recorded_results(method: str, model: str) -> None:
    found = list(check_method(method, model, matrix.MODELS[model][0]))
    assert found == [each for each in RECORDED if each.method == method and each.model == model]


def test_a_method_with_defaults_is_composed_as_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    conf = tmp_path / "conf"
    shutil.copytree(paths.conf_folder(), conf)
    (conf / "method" / "mine.yaml").write_text("defaults: [lora]\nname: mine\nconfig: {r: 2}\n")
    for module in (paths, matrix_checks):
        monkeypatch.setattr(module, "conf_folder", lambda: conf)
    assert "mine" in matrix.methods()
    method = compose("mine", "bert", "classification", tmp_path).method
    assert (method.name, method.config["r"], method.config["_target_"]) == ("mine", 2, "peft.LoraConfig")
    (result,) = check_method("mine", "bert", "bert", ("classification",))
    assert (result.method, result.status) == ("mine", SUPPORTED), result.reason


def test_a_planted_fault_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    from peftkit.methods.soft_prompt.prompt import PromptLayer

    (result,) = check_method("prompt", "bert", "bert", ("token_classification",))
    assert result.status == SUPPORTED
    monkeypatch.setattr(PromptLayer, "_remove_prompt", lambda self, stack, args, outputs: outputs)
    (result,) = check_method("prompt", "bert", "bert", ("token_classification",))
    assert result.status == FAILED


def test_a_weight_without_a_gradient_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch import nn

    from peftkit.methods import LinearProbe

    def apply(self: LinearProbe, model: nn.Module) -> nn.Module:
        model.requires_grad_(True)
        model.register_parameter("unused", nn.Parameter(next(model.parameters()).detach().clone()))
        return model

    monkeypatch.setattr(LinearProbe, "apply", apply)
    (result,) = check_method("linear_probe", "gpt2", "gpt2", ("classification",))
    reason = f"{VerificationError.__name__}: 1 trainable weights get no gradient, the first is unused"
    assert (result.status, result.reason) == (FAILED, reason)


def test_a_head_that_two_tasks_share_fails_the_check(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tying, "is_task_head", lambda name, base: False)
    (result,) = check_method("linear_probe", "bert", "bert", ("classification",))
    assert result.status == FAILED and "share a weight of their heads" in str(result.reason)
