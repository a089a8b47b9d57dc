"""Values are shared within a block only, at most a few of a kind, and a large one is dropped before the next is made."""

import gc
import weakref

import pytest

from peftkit.config import shared as module
from peftkit.config.shared import drop_shared, shared, sharing


class Value:
    """An object that has no equal."""


def kept(kind: str, key: object, size: int = 0) -> Value:
    return shared(kind, key, Value, lambda _: size)


def test_a_value_is_made_once_within_a_block() -> None:
    assert kept("a", 1) is not kept("a", 1)
    with sharing():
        first = kept("a", (1, [2]))
        with sharing():
            assert kept("a", (1, [2])) is first
        assert kept("a", (1, [2])) is first
        assert kept("b", (1, [2])) is not first and kept("a", (1, [3])) is not first
    assert kept("a", (1, [2])) is not first and not module._KEPT


def test_the_values_used_least_recently_are_dropped() -> None:
    with sharing():
        values = [kept("a", number) for number in range(module.MAX_VALUES)]
        assert kept("a", 0) is values[0]
        kept("a", "new")
        assert kept("a", 0) is values[0] and kept("a", 1) is not values[1]


def test_a_large_value_is_dropped_before_the_next_is_made() -> None:
    with sharing():
        large = weakref.ref(kept("a", 1, module.MAX_BYTES + 1))
        small = weakref.ref(kept("b", 1))

        def make() -> Value:
            gc.collect()
            assert large() is None
            return Value()

        shared("a", 2, make)
        assert small() is not None
        drop_shared()
        gc.collect()
        assert small() is None


def test_a_value_without_a_size_is_not_kept() -> None:
    with sharing():
        assert shared("a", 1, Value, lambda _: None) is not shared("a", 1, Value, lambda _: None)


def test_an_error_is_not_kept() -> None:
    def fail() -> Value:
        raise ValueError("no")

    with sharing():
        with pytest.raises(ValueError, match="no"):
            shared("a", 1, fail)
        assert isinstance(kept("a", 1), Value)
    assert not module._KEPT
