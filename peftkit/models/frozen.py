"""States of a frozen backbone, computed once for each example and reused in all epochs, trials and seeds of a process.

An example's states are those of a pass of fixed shape, so that they do not depend on the other examples of a batch, on
the order of training or on what was computed before: a run gets the same bits alone and in a sweep.
"""

import hashlib
import inspect
import json
import math
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from transformers.modeling_outputs import BaseModelOutputWithPoolingAndCrossAttentions, ModelOutput

from peftkit.compat.transformers import apply_pooler, attention_implementation
from peftkit.models.pooling import masked_mean, stack_of

LIMIT = 2 * 2**30  # bytes of the states of all runs of a process
OBJECT = 700  # bytes of a tensor besides its values
WIDTH = 8  # padded lengths are multiples of this
TOKENS = {"cpu": 512, "cuda": 16_384}  # of a pass, about
POOLED = ("first", "last", "mean")  # vectors of an example that its head reads; all: one for each token
UNUSED = ("id2label", "label2id", "problem_type", "architectures", "_name_or_path", "dtype")  # settings of a backbone
States = tuple[torch.Tensor, ...]  # of an example: its last hidden state, or all of them, each (dim,) or (tokens, dim)


class StateCache:
    """States by the digest of all that determines them; states of earlier runs make room for those of the current."""

    def __init__(self, limit: int = LIMIT) -> None:
        self.limit, self.bytes, self.run = limit, 0, 0
        self.entries: OrderedDict[bytes, tuple[int, States]] = OrderedDict()

    def get(self, key: bytes) -> States | None:
        """Return the states of an example, or None."""
        if (found := self.entries.get(key)) is None:
            return None
        if found[0] != self.run:
            self.entries[key] = self.run, found[1]
            self.entries.move_to_end(key)
        return found[1]

    def add(self, key: bytes, states: States) -> bool:
        """Keep the states of an example, and return whether there is room."""
        size = _bytes(states)
        while self.bytes + size > self.limit and self.entries:
            if next(iter(self.entries.values()))[0] == self.run:
                return False
            _, (_, oldest) = self.entries.popitem(last=False)
            self.bytes -= _bytes(oldest)
        if self.bytes + size > self.limit:
            return False
        self.entries[key] = self.run, tuple(each.clone() for each in states)
        self.bytes += size
        return True


CACHE = StateCache()


class FrozenStates:
    """Replaces the forward pass of a frozen backbone by a look-up of its states, which have no dropout.

    A new pooler and a weighted sum of layers, which train, are computed from the states.

    Args:
        kept: first, last or mean: the head reads this vector of each example; all: each token's; padded: also those of
            padding, which a softmax over positions includes, up to `width` tokens; none: each batch is computed.
    """

    def __init__(self, model: Any, kept: str = "all", width: int = 0, cache: StateCache | None = None) -> None:
        self.stack, self.kept, self.width = stack_of(model), kept, _rounded(width)
        self.cache = CACHE if cache is None else cache
        self.cache.run += 1
        self.computed = self.reused = self.dropped = 0  # examples; `dropped` have no room in the cache
        self.seconds, self.computed_tokens = 0.0, 0  # of computing states
        self.original, self.signature = self.stack.forward, inspect.signature(self.stack.forward)
        self.before = vars(self.stack).get("forward")  # of a library that replaced it, too
        self.mixes = bool(_mixes(self.stack))
        self.identity = self._identity()
        self.stack.forward = self.forward

    def detach(self) -> None:
        """Restore the backbone's own forward pass."""
        del self.stack.forward
        if self.before is not None:
            self.stack.forward = self.before

    def needed_bytes(self, lengths: Sequence[int] | np.ndarray) -> int:
        """Return the bytes that the cache takes for examples of these lengths; 0 before the first state is computed."""
        states = next((states for _, states in self.cache.entries.values()), ())
        vectors = len(lengths) if self.kept in POOLED else len(lengths) * self.width or int(np.sum(lengths))
        size = sum(each.nbytes // (len(each) if each.ndim > 1 else 1) for each in states)
        return min(self.cache.limit, vectors * size + len(lengths) * len(states) * OBJECT)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return the output of the backbone for a batch."""
        given = self._arguments(args, kwargs)
        if (columns := self._columns(given)) is None:
            return self._finish(self._compute(args, kwargs), given)
        lengths = columns.pop("attention_mask").sum(dim=1).tolist()
        keys = self._keys(columns, lengths)
        found = {key: states for key in keys if (states := self.cache.get(key)) is not None}
        self.reused += sum(key in found for key in keys)
        if missing := {key: row for row, key in enumerate(keys) if key not in found}:
            started = time.perf_counter()
            found |= self._compute_missing(columns, lengths, missing)
            self.seconds += time.perf_counter() - started
        ids, layers = given["input_ids"], range(len(found[keys[0]]))
        stacked = [self._stacked([found[key][layer] for key in keys], ids.shape[1]).to(ids.device) for layer in layers]
        output = BaseModelOutputWithPoolingAndCrossAttentions(
            last_hidden_state=stacked[-1], hidden_states=tuple(stacked) if self.mixes else None
        )
        return self._finish(output, given)

    def _arguments(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments of a call by name, without those that are None."""
        bound = self.signature.bind(*args, **kwargs).arguments
        extra = {key: value for name, value in bound.items() if self._is_extra(name) for key, value in value.items()}
        named = {name: value for name, value in bound.items() if not self._is_extra(name)}
        return {name: value for name, value in {**named, **extra}.items() if value is not None}

    def _is_extra(self, name: str) -> bool:
        return self.signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD

    def _columns(self, given: Mapping[str, Any]) -> dict[str, torch.Tensor] | None:
        """Return the inputs by token (examples, tokens) on the CPU; None for more than a padded batch."""
        ids, mask = given.get("input_ids"), given.get("attention_mask")
        if ids is None or mask is None or mask.shape != ids.shape or given.get("output_attentions"):
            return None
        if self.kept == "none" or (self.width and ids.shape[1] > self.width):
            return None
        columns = {}
        for name, value in given.items():
            if isinstance(value, torch.Tensor) and value.shape == ids.shape and not value.is_floating_point():
                columns[name] = value.cpu()
            elif not isinstance(value, bool) and name != "num_items_in_batch":
                return None
        mask = columns["attention_mask"]
        is_right_padded = bool((mask[:, :-1] >= mask[:, 1:]).all() and (mask[:, 0] == 1).all())
        return columns if is_right_padded else None

    def _keys(self, columns: Mapping[str, torch.Tensor], lengths: Sequence[int]) -> list[bytes]:
        """Return the digest of each example: its tokens, the backbone and the precision of this call."""
        device = next(self.stack.parameters()).device
        computation = [
            torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else None,
            torch.get_float32_matmul_precision(),
            torch.cuda.get_device_name(device) if device.type == "cuda" else torch.get_num_threads(),
        ]
        prefix = hashlib.sha256(self.identity + str((computation, sorted(columns))).encode())
        keys = []
        for row, length in enumerate(lengths):
            key = prefix.copy()
            for name in sorted(columns):
                key.update(columns[name][row, :length].to(torch.int64).numpy().tobytes())
            keys.append(key.digest())
        return keys

    def _identity(self) -> bytes:
        """Return the digest of the backbone: its frozen weights, its settings, and how it is computed and kept."""
        stack = self.stack
        config = {name: value for name, value in stack.config.to_dict().items() if name not in UNUSED}
        settings = [
            type(stack).__module__, type(stack).__qualname__, config, attention_implementation(stack.config),
            self.kept, self.width, self.mixes, torch.__version__,
        ]  # fmt: skip
        found = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
        trained = {name for name, weight in stack.named_parameters() if weight.requires_grad}
        for name, values in stack.state_dict().items():
            if name not in trained and isinstance(values, torch.Tensor):
                found.update(f"{name} {values.dtype} {tuple(values.shape)}".encode())
                found.update(values.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        return found.digest()

    def _compute(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Return the output of the backbone without dropout and gradients."""
        was_training = self.stack.training
        self.stack.eval()
        try:
            with torch.no_grad():
                return self.original(*args, **kwargs)
        finally:
            self.stack.train(was_training)

    def _compute_missing(
        self, columns: Mapping[str, torch.Tensor], lengths: Sequence[int], missing: Mapping[bytes, int]
    ) -> dict[bytes, States]:
        """Compute and keep the states of examples, in passes of one shape for each padded length."""
        self.computed += len(missing)
        self.computed_tokens += sum(lengths[row] for row in missing.values())
        device = next(self.stack.parameters()).device
        by_width: dict[int, list[bytes]] = {}
        for key, row in missing.items():
            by_width.setdefault(self._padded_width(lengths[row]), []).append(key)
        found = {}
        for width, keys in by_width.items():
            size = 2 ** int(math.log2(max(1, TOKENS.get(device.type, TOKENS["cuda"]) // width)))
            for first in range(0, len(keys), size):
                chunk = keys[first : first + size]
                rows = [missing[key] for key in chunk]
                rows += rows[-1:] * (size - len(chunk))
                batch = self._batch(columns, rows, torch.tensor([lengths[row] for row in rows]), width)
                inputs = {name: values.to(device) for name, values in batch.items()}
                out = self._compute((), {**inputs, "output_hidden_states": self.mixes, "return_dict": True})
                layers = [self._kept(each.cpu(), batch) for each in (out.hidden_states if self.mixes else out[:1])]
                for number, key in enumerate(chunk):
                    found[key] = tuple(layer[number] for layer in layers)
                    self.dropped += not self.cache.add(key, found[key])
        return found

    def _padded_width(self, length: int) -> int:
        """Return the tokens that an example of this length is padded to."""
        if self.width:
            return self.width
        width = _rounded(length)
        limit = getattr(self.stack.config, "max_position_embeddings", None)
        return width if limit is None or width <= limit - 2 else length  # RoBERTa's positions start at 2

    def _batch(
        self, columns: Mapping[str, torch.Tensor], rows: list[int], lengths: torch.Tensor, width: int
    ) -> dict[str, torch.Tensor]:
        """Return the inputs of examples, padded to `width`."""
        mask = torch.arange(width)[None] < lengths[:, None]
        batch = {"attention_mask": mask.long()}
        for name, values in columns.items():
            own = nn.functional.pad(values[rows, :width], (0, max(0, width - values.shape[1])))
            batch[name] = own.masked_fill(~mask, self._pad_id if name == "input_ids" else 0)
        return batch

    @property
    def _pad_id(self) -> int:
        return int(getattr(self.stack.config, "pad_token_id", None) or 0)

    def _kept(self, states: torch.Tensor, batch: Mapping[str, torch.Tensor]) -> Sequence[torch.Tensor]:
        """Return what is kept of the states (examples, tokens, dim) of each example."""
        mask = batch["attention_mask"]
        if self.kept == "first":
            return states[:, 0]
        if self.kept == "last":  # as heads of decoders find it
            is_real = mask.bool() & (batch["input_ids"] != self._pad_id)
            last = (torch.arange(mask.shape[1]) * is_real).argmax(dim=1)
            return states[torch.arange(len(states)), last]
        if self.kept == "mean":
            return masked_mean(states, mask)
        if self.kept == "padded":
            return states
        return [each[:length] for each, length in zip(states, mask.sum(dim=1).tolist(), strict=True)]

    def _stacked(self, states: list[torch.Tensor], width: int) -> torch.Tensor:
        """Return the states of a batch (examples, tokens, dim); a kept vector is that of every token."""
        if self.kept in POOLED:
            return torch.stack(states)[:, None].expand(-1, width, -1)
        padded = pad_sequence(states, batch_first=True)[:, :width]
        return nn.functional.pad(padded, (0, 0, 0, width - padded.shape[1]))

    def _finish(self, output: Any, given: Mapping[str, Any]) -> Any:
        """Return the output with that of the pooler, which may train, in the requested type."""
        if getattr(self.stack, "pooler", None) is not None and isinstance(output, ModelOutput):
            output.pooler_output = apply_pooler(self.stack, output[0])
        return output.to_tuple() if given.get("return_dict") is False and isinstance(output, ModelOutput) else output


def is_frozen(model: Any) -> bool:
    """Return whether the backbone below the head is frozen, except a new pooler and a weighted sum of its layers."""
    stack = stack_of(model)
    above = {*_mixes(stack), "pooler"}
    own = [weight for name, weight in stack.named_parameters() if name.partition(".")[0] not in above]
    return stack is not model and bool(own) and not any(weight.requires_grad for weight in own)


def _mixes(stack: nn.Module) -> list[str]:
    """Return the names of weighted sums of layers: adapters that are children of the stack and read its states."""
    return [name for name, child in stack.named_children() if hasattr(child, "adapter_layer_names")]


def _bytes(states: States) -> int:
    return sum(each.nbytes + OBJECT for each in states)


def _rounded(length: int) -> int:
    return -(-length // WIDTH) * WIDTH
