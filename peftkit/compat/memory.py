"""The memory of the tensors that PyTorch's operations allocate, by its private dispatch mode."""

import weakref
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class AllocatedMemory(TorchDispatchMode):
    """Count the bytes of the tensors that operations return in this block, also during backward.

    Each storage counts once, from its first operation until it is freed. Tensors that exist before are not counted if
    they are in `existing`. Buffers inside of an operation's kernel are not seen.
    """

    def __init__(self, existing: list[torch.Tensor]) -> None:
        super().__init__()
        self.bytes = self.peak = 0
        self._storages: dict[int, Any] = {}  # by address, so that an address that is used again is another storage
        self._existing = {each.untyped_storage().data_ptr() for each in existing}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **kwargs or {})
        for each in tree_leaves(found):
            if isinstance(each, torch.Tensor):
                self._count(each.untyped_storage())
        return found

    def _count(self, storage: torch.UntypedStorage) -> None:
        address, size = storage.data_ptr(), storage.nbytes()
        if not size or address in self._storages or address in self._existing:
            return

        def free(_: Any) -> None:
            del self._storages[address]
            self.bytes -= size

        self._storages[address] = weakref.ref(storage, free)
        self.bytes += size
        self.peak = max(self.peak, self.bytes)
