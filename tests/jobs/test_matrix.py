"""docs/reference/matrix.md tells what a fresh probe finds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from peftkit.cli.validate import options_of
from peftkit.jobs import matrix
from peftkit.pipeline.verify import GateError

DOCS = Path(__file__).parents[2] / "docs" / "reference"
TOLD = [matrix.Cell(**cell) for cell in json.loads((DOCS / "matrix.json").read_text())]
METHODS = {method.name: method for method in matrix.methods()}
FAST = (("prefix", "gpt2"), ("unipelt", "bert"), ("linear_probe", "t5"))  # the long tests try all


def test_the_page_is_what_the_cells_say_and_no_cell_is_wrong() -> None:
    assert (DOCS / "matrix.md").read_text() == matrix.page(TOLD)
    assert {cell.status for cell in TOLD} == {"right", "refused"}
    assert all("try m" in str(cell.reason) for cell in TOLD if cell.status == "refused")


def test_every_method_of_the_drawer_is_in_it_on_every_model_of_the_drawer() -> None:
    assert matrix.FAMILIES.keys() == options_of("model").keys()
    assert {cell.method for cell in TOLD} == METHODS.keys()
    assert {(cell.method, cell.model) for cell in TOLD} == {
        (name, model) for name in METHODS for model in matrix.FAMILIES
    }


@pytest.mark.parametrize(
    ("method", "model"),
    [
        pytest.param(name, model, marks=() if (name, model) in FAST else pytest.mark.slow)
        for name in METHODS
        for model in matrix.FAMILIES
    ],
)
def test_a_fresh_probe_finds_the_same(method: str, model: str) -> None:
    found = list(matrix.probe(METHODS[method], model))
    assert found == [cell for cell in TOLD if cell.method == method and cell.model == model]


def test_the_probe_sees_a_planted_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    from peftkit.methods.soft_prompt.layer import PromptLayer

    (fine,) = matrix.probe(METHODS["prompt"], "bert", ("token_classification",))
    assert fine.status == "right"
    monkeypatch.setattr(PromptLayer, "_cut", lambda self, stack, args, kwargs, outputs: outputs)
    (cell,) = matrix.probe(METHODS["prompt"], "bert", ("token_classification",))
    assert cell.status == "wrong"


def test_a_weight_without_a_gradient_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch import nn

    from peftkit.methods import LinearProbe

    def apply(self: LinearProbe, model: nn.Module) -> nn.Module:
        model.requires_grad_(True)
        model.register_parameter("unused", nn.Parameter(next(model.parameters()).detach().clone()))
        return model

    monkeypatch.setattr(LinearProbe, "apply", apply)
    (cell,) = matrix.probe(METHODS["linear_probe"], "gpt2", ("classification",))
    assert (cell.status, cell.reason) == (
        "wrong",
        f"{GateError.__name__}: 1 weights train without a gradient, unused the first",
    )
