"""Where plain PEFT is right, peftkit computes the same."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.plain_peft import MODELS, SOFT, soft_prompt_difference, training_differences

FAST = {("bert", "lora"), ("bert", "full"), ("gpt2", "ia3")}
CELLS = [
    pytest.param(model, method, marks=() if (model, method) in FAST else pytest.mark.slow)
    for model in MODELS
    for method in ("lora", "ia3", "full")
]


@pytest.mark.parametrize(("model", "method"), CELLS)
def test_a_run_trains_as_a_loop_by_hand_does(
    checkpoints: dict[str, Path], tmp_path: Path, model: str, method: str
) -> None:
    found = training_differences(model, checkpoints[model], method, tmp_path)
    assert found["losses"] < 1e-5 and found["scores"] < 1e-4 and found["weights"] < 1e-3
    assert found["moved"] > 1e-2


@pytest.mark.parametrize("case", SOFT)
def test_a_soft_prompt_equals_pefts(checkpoints: dict[str, Path], case: str) -> None:
    found = soft_prompt_difference(case, checkpoints[SOFT[case][3]])
    assert found["logits"] < 1e-5
    assert found["moved"] > 1e-2
