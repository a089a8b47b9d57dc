"""What the runs of one command share: values that are made once, such as a tokenizer or tokenized examples.

They are kept within `sharing()` only, so that a call from Python leaves nothing in memory. Shared values are never
changed. A process that is forked has those of its parent.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")
MAX_VALUES = 4  # of a kind
MAX_BYTES = 32 << 20  # of a kind, where it has several values; a larger one is dropped before the next is made
_Kept = list[tuple[Any, Any, int]]  # key, value and bytes, the least recently used one first
_KEPT: dict[str, _Kept] = {}
_DEPTH: list[None] = []  # an item for each block that is open


@contextmanager
def sharing() -> Iterator[None]:
    """Keep shared values until the outermost of such blocks ends."""
    _DEPTH.append(None)
    try:
        yield
    finally:
        _DEPTH.pop()
        if not _DEPTH:
            drop_shared()


def shared(kind: str, key: Any, make: Callable[[], T], size: Callable[[T], int | None] = lambda _: 0) -> T:
    """Return the value of a key, which is made where none of an equal key is kept.

    Args:
        key: all that determines the value; compared by ==.
        size: returns the bytes of the value; None if it is not kept.
    """
    if not _DEPTH:
        return make()
    values = _KEPT.setdefault(kind, [])
    # without a variable for each value, which would keep the last one
    index = next((index for index in range(len(values)) if values[index][0] == key), None)
    if index is not None:
        values.append(values.pop(index))
        return values[-1][1]  # type: ignore[no-any-return]
    while values and (len(values) >= MAX_VALUES or sum(count for *_, count in values) > MAX_BYTES):
        del values[0]
    made = make()
    if (count := size(made)) is not None:
        values.append((key, made, count))
    return made


def drop_shared() -> None:
    """Drop the values that are kept, which frees those that nothing else uses."""
    _KEPT.clear()
