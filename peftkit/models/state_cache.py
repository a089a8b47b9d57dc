"""States of examples in memory, and as arrays for a file."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

LIMIT = 2 * 2**30  # bytes of the states of all runs of a process, except those that are mapped from files
OBJECT = 700  # bytes of a tensor besides its values
States = tuple[torch.Tensor, ...]  # of an example: its last hidden state, or all of them, each (dim,) or (tokens, dim)


@dataclass(slots=True)
class _Entry:
    run: int  # the last one that used it
    states: States
    seconds: float  # of computing it
    bytes: int  # that it takes of the limit


class StateCache:
    """States by the digest of all that determines them; states of earlier runs make room for those of the current."""

    def __init__(self, limit: int = LIMIT) -> None:
        self.limit, self.bytes, self.run = limit, 0, 0
        self.entries: OrderedDict[bytes, _Entry] = OrderedDict()

    def get(self, key: bytes) -> States | None:
        """Return the states of an example, or None."""
        if (found := self.entries.get(key)) is None:
            return None
        if found.run != self.run:
            found.run = self.run
            self.entries.move_to_end(key)
        return found.states

    def seconds(self, key: bytes) -> float:
        """Return the seconds of computing the states of an example, whenever that was; 0 where there are none."""
        found = self.entries.get(key)
        return 0.0 if found is None else found.seconds

    def add(self, key: bytes, states: States, seconds: float = 0.0, is_mapped: bool = False) -> bool:
        """Keep the states of an example, and return whether there is room.

        Args:
            seconds: of computing them.
            is_mapped: they are parts of a file, whose pages the system reads and drops as it needs.
        """
        size = sum(OBJECT + (0 if is_mapped else each.nbytes) for each in states)
        while self.bytes + size > self.limit and self.entries:
            if next(iter(self.entries.values())).run == self.run:
                return False
            _, oldest = self.entries.popitem(last=False)
            self.bytes -= oldest.bytes
        if self.bytes + size > self.limit:
            return False
        kept = states if is_mapped else tuple(each.clone() for each in states)
        if (before := self.entries.pop(key, None)) is not None:
            self.bytes -= before.bytes
        self.entries[key] = _Entry(self.run, kept, seconds, size)
        self.bytes += size
        return True


def pack_states(states: Sequence[States], seconds: Sequence[float]) -> dict[str, torch.Tensor]:
    """Return the states of examples, and the seconds of computing each, as arrays: one for each layer, by its number.

    Where an example has states of several tokens, they follow those of the example before, and `lengths` has their
    number.
    """
    arrays = {"seconds": torch.tensor(seconds, dtype=torch.float64)}
    if states[0][0].ndim == 1:
        return arrays | {str(layer): torch.stack(each) for layer, each in enumerate(zip(*states, strict=True))}
    arrays["lengths"] = torch.tensor([len(each[0]) for each in states])
    return arrays | {str(layer): torch.cat(each) for layer, each in enumerate(zip(*states, strict=True))}


def unpack_states(arrays: Mapping[str, torch.Tensor]) -> tuple[list[States], list[float]]:
    """Return the states of each example, which are views of the arrays, and the seconds of computing each."""
    layers = [arrays[str(layer)] for layer in range(len(arrays) - 1 - ("lengths" in arrays))]
    lengths = arrays["lengths"].tolist() if "lengths" in arrays else None
    parts = [each.unbind() if lengths is None else each.split(lengths) for each in layers]
    return list(zip(*parts, strict=True)), arrays["seconds"].tolist()
