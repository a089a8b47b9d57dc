"""peftkit's bottleneck adapters and mixes compute the same as the `adapters` library with the same weights."""

from __future__ import annotations

import pytest
from helpers.adapters_library import CELLS, Cells, difference, reference

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Cells:
    return reference(tmp_path_factory.mktemp("adapters"))


@pytest.mark.parametrize(("name", "kind"), CELLS)
def test_outputs_equal_those_of_the_adapters_library(cells: Cells, name: str, kind: str) -> None:
    found = difference(cells, name, kind)
    assert found["states"] < 1e-5
    assert found["moved"] > 0.5
