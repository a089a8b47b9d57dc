"""States of a frozen backbone, computed once for each example and reused in all epochs, trials and seeds.

An example's states are those of a pass of fixed shape, so that they do not depend on the other examples of a batch, on
the order of training or on what was computed before: a run gets the same bits alone and in a sweep.
"""

import hashlib
import inspect
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from transformers.modeling_outputs import BaseModelOutputWithPoolingAndCrossAttentions, ModelOutput

from peftkit.compat.transformers import apply_pooler
from peftkit.models.classifiers import masked_mean
from peftkit.models.frozen_weights import cast_once, digest_of, mixes_of
from peftkit.models.pooling import stack_of
from peftkit.models.state_cache import OBJECT, StateCache, States

WIDTH = 8  # padded lengths are multiples of this
TOKENS = {"cpu": 960, "cuda": 16_384}  # of a pass, about; 960 is a multiple of most widths, which share their kernels
POOLED = ("first", "last", "mean")  # vectors of an example that its head reads; all: one for each token
Columns = dict[str, torch.Tensor]  # inputs by name, of one example (tokens,) or of several (examples, tokens)
Texts = dict[bytes, Columns]  # by the digest of all that determines their states
CACHE = StateCache()


class FrozenStates:
    """Replaces the forward pass of a frozen backbone by a look-up of its states, which have no dropout.

    A new pooler and a weighted sum of layers, which train, are computed from the states.

    Args:
        kept: first, last or mean: the head reads this vector of each example; all: each token's; padded: also those of
            padding, which a softmax over positions includes, up to `width` tokens; none: each batch is computed.
        weights: their digest, by default computed here.
    """

    def __init__(
        self,
        model: Any,
        kept: str = "all",
        width: int = 0,
        cache: StateCache | None = None,
        weights: str | None = None,
    ) -> None:
        self.stack, self.kept, self.width = stack_of(model), kept, _rounded(width)
        self.cache = CACHE if cache is None else cache
        self.cache.run += 1
        self.computed = self.reused = self.dropped = 0  # examples; `dropped` have no room in the cache
        self.seconds, self.computed_tokens = 0.0, 0  # of computing states, with padding
        self.tokens: int | None = None  # of a pass, in place of `TOKENS`
        self.recorded: Texts | None = None
        self.original, self.signature = self.stack.forward, inspect.signature(self.stack.forward)
        self.before = vars(self.stack).get("forward")  # of a library that replaced it, too
        self.mixes = bool(mixes_of(self.stack))
        how = (self.kept, self.width, self.mixes, WIDTH, TOKENS)
        self.identity = f"{how} {weights or digest_of(model)}".encode()
        self.stack.forward = self.forward

    def detach(self) -> None:
        """Restore the backbone's own forward pass."""
        del self.stack.forward
        if self.before is not None:
            self.stack.forward = self.before

    def needed_bytes(self, lengths: Sequence[int] | np.ndarray) -> int:
        """Return the bytes that the cache takes for examples of these lengths; 0 before the first state is computed."""
        states = next((each.states for each in self.cache.entries.values()), ())
        vectors = len(lengths) if self.kept in POOLED else len(lengths) * self.width or int(np.sum(lengths))
        size = sum(each.nbytes // (len(each) if each.ndim > 1 else 1) for each in states)
        return min(self.cache.limit, vectors * size + len(lengths) * len(states) * OBJECT)

    def predicted_seconds(self, lengths: Sequence[int] | np.ndarray) -> float:
        """Return the seconds of computing the states of examples of these lengths, after some were computed."""
        tokens = sum(self._padded_width(int(length)) for length in lengths)
        return self.seconds / self.computed_tokens * tokens

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return the output of the backbone for a batch."""
        given = self._arguments(args, kwargs)
        if (columns := self._columns(given)) is None:
            with cast_once(self.stack):
                output = self._compute(args, kwargs)
            return self._finish(output, given)
        lengths = columns.pop("attention_mask").sum(dim=1).tolist()
        keys, ids = self._keys(columns, lengths), given["input_ids"]
        rows = {key: row for row, key in enumerate(keys) if self.recorded is not None or self.cache.get(key) is None}
        texts = {key: {name: each[row, : lengths[row]] for name, each in columns.items()} for key, row in rows.items()}
        if self.recorded is not None:
            self.recorded |= texts
            return self._finish(self._zeros(ids), given)
        self.reused += sum(key not in texts for key in keys)
        found = {key: states for key in keys if (states := self.cache.get(key)) is not None}
        for key, (states, seconds) in (self.compute(texts) if texts else {}).items():
            found[key] = states
            self.dropped += not self.cache.add(key, states, seconds)
        layers = range(len(found[keys[0]]))
        stacked = [self._stacked([found[key][layer] for key in keys], ids.shape[1]).to(ids.device) for layer in layers]
        return self._finish(self._output(stacked), given)

    @contextmanager
    def recording(self) -> Iterator[Texts]:
        """Collect the texts of all calls within this block, whose output is zeros; all keys and texts are yielded."""
        self.recorded = {}
        try:
            yield self.recorded
        finally:
            self.recorded = None

    def context(self) -> bytes:
        """Return what determines the states of a text besides its tokens: the backbone and the precision of a call."""
        device = next(self.stack.parameters()).device
        computation = [
            torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else None,
            torch.get_float32_matmul_precision(),
            torch.cuda.get_device_name(device) if device.type == "cuda" else torch.get_num_threads(),
        ]
        return self.identity + str(computation).encode()

    def compute(self, texts: Texts, together: bool = False) -> dict[bytes, tuple[States, float]]:
        """Return the states of each text, computed in passes of one shape for each padded length, and the seconds.

        Args:
            together: all processes of a distributed run compute the same texts, each a share of them.
        """
        started = time.perf_counter()
        passes: list[list[bytes]] = []
        by_width: dict[int, list[bytes]] = {}
        for key, text in texts.items():
            by_width.setdefault(self._padded_width(len(text["input_ids"])), []).append(key)
        for width, keys in by_width.items():
            size = self._pass_size(width)
            passes += [keys[first : first + size] for first in range(0, len(keys), size)]
        found: dict[bytes, tuple[States, float]] = {}
        world = PartialState() if together else None
        with cast_once(self.stack):
            for keys in passes if world is None else passes[world.process_index :: world.num_processes]:
                found |= self._compute_pass({key: texts[key] for key in keys})
        self.computed += len(found)
        self.seconds += time.perf_counter() - started
        if world is not None and world.num_processes > 1:
            found = {key: each for part in gather_object([found]) for key, each in part.items()}
        return found

    def _zeros(self, ids: torch.Tensor) -> Any:
        """Return an output of the shape of the states of a batch."""
        zeros = next(self.stack.parameters()).new_zeros(()).expand(*ids.shape, self.stack.config.hidden_size)
        return self._output([zeros] * (self.stack.config.num_hidden_layers + 1 if self.mixes else 1))

    def _output(self, layers: list[torch.Tensor]) -> Any:
        return BaseModelOutputWithPoolingAndCrossAttentions(
            last_hidden_state=layers[-1], hidden_states=tuple(layers) if self.mixes else None
        )

    def _arguments(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments of a call by name, without those that are None."""
        bound = self.signature.bind(*args, **kwargs).arguments
        extra = {key: value for name, value in bound.items() if self._is_extra(name) for key, value in value.items()}
        named = {name: value for name, value in bound.items() if not self._is_extra(name)}
        return {name: value for name, value in {**named, **extra}.items() if value is not None}

    def _is_extra(self, name: str) -> bool:
        return self.signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD

    def _columns(self, given: Mapping[str, Any]) -> Columns | None:
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
        prefix = hashlib.sha256(self.context() + str(sorted(columns)).encode())
        keys = []
        for row, length in enumerate(lengths):
            key = prefix.copy()
            for name in sorted(columns):
                key.update(columns[name][row, :length].to(torch.int64).numpy().tobytes())
            keys.append(key.digest())
        return keys

    def _compute(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Return the output of the backbone without dropout and gradients."""
        was_training = self.stack.training
        self.stack.eval()
        try:
            with torch.no_grad():
                return self.original(*args, **kwargs)
        finally:
            self.stack.train(was_training)

    def _compute_pass(self, texts: Texts) -> dict[bytes, tuple[States, float]]:
        """Return the states of texts of one padded length, computed in one pass, and the seconds of each."""
        started = time.perf_counter()
        rows = list(texts.values())
        width = self._padded_width(len(rows[0]["input_ids"]))
        rows += rows[-1:] * (self._pass_size(width) - len(rows))
        batch = self._batch(rows, width)
        self.computed_tokens += batch["attention_mask"].numel()
        device = next(self.stack.parameters()).device
        inputs = {name: values.to(device) for name, values in batch.items()}
        out = self._compute((), {**inputs, "output_hidden_states": self.mixes, "return_dict": True})
        layers = [self._kept(each.cpu(), batch) for each in (out.hidden_states if self.mixes else out[:1])]
        seconds = (time.perf_counter() - started) / len(texts)
        return {key: (tuple(layer[row] for layer in layers), seconds) for row, key in enumerate(texts)}

    def _pass_size(self, width: int) -> int:
        """Return the texts of a pass."""
        device = next(self.stack.parameters()).device.type
        tokens = TOKENS.get(device, TOKENS["cuda"]) if self.tokens is None else self.tokens
        return max(1, tokens // width)

    def _padded_width(self, length: int) -> int:
        """Return the tokens that an example of this length is padded to."""
        if self.width:
            return self.width
        width = _rounded(length)
        limit = getattr(self.stack.config, "max_position_embeddings", None)
        return width if limit is None or width <= limit - 2 else length  # RoBERTa's positions start at 2

    def _batch(self, texts: Sequence[Columns], width: int) -> Columns:
        """Return the inputs of texts, padded to `width`."""
        lengths = torch.tensor([len(text["input_ids"]) for text in texts])
        batch = {"attention_mask": (torch.arange(width)[None] < lengths[:, None]).long()}
        for name in texts[0]:
            fill = self._pad_id if name == "input_ids" else 0
            own = pad_sequence([text[name] for text in texts], batch_first=True, padding_value=fill)
            batch[name] = nn.functional.pad(own, (0, width - own.shape[1]), value=fill)
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


def _rounded(length: int) -> int:
    return -(-length // WIDTH) * WIDTH
