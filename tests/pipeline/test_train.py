"""Training states what does not pay."""

from __future__ import annotations

import pytest

from peftkit import training
from peftkit.pipeline.train import warn_compilation


@pytest.mark.parametrize("compiled", [False, True])
def test_compilation_is_warned_of_on_a_cpu(compiled: bool, capsys: pytest.CaptureFixture[str]) -> None:
    warn_compilation(training.training_arguments({"torch_compile": compiled, "use_cpu": True}, 0))
    assert ("!! train.torch_compile" in capsys.readouterr().err) == compiled
