"""The states of a frozen base, which the epochs of a run, its evaluation, and other runs of the process share."""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object

from peftkit.config import RunConfig, kind_of
from peftkit.config.console import is_main_process, log
from peftkit.config.kinds import DECODER
from peftkit.config.progress import stage
from peftkit.config.shared import shared
from peftkit.data.array_cache import MAX_BYTES, code_digest, read_arrays, write_arrays
from peftkit.data.formats import Encoded
from peftkit.models.frozen import FrozenStates, Texts
from peftkit.models.frozen_weights import digest_of, is_frozen
from peftkit.models.state_cache import OBJECT, StateCache, pack_states, unpack_states
from peftkit.pipeline.build import TrainingBundle
from peftkit.pipeline.evaluate import output_reader, predictor
from peftkit.pipeline.examples import EncodedSplits
from peftkit.pipeline.sources import device_name

PART = 2**16  # tokens of a file, about
RECORDED, WAITING = 256, 4096  # examples of a batch that is looked up, and that are computed together
CHECKED = 4  # examples of which a model has the same scores and gradients with and without reused states
TOLERANCE = 1e-4  # of the largest one, in fp32


@dataclass(frozen=True)
class StateSeconds:
    """Seconds of computing the states of a frozen base once, in this run or in the one that stored them."""

    train: float = 0.0
    validation: float = 0.0


@contextmanager
def reused_states(config: RunConfig, bundle: TrainingBundle, splits: EncodedSplits) -> Iterator[StateSeconds | None]:
    """Compute the states of a frozen base once for each example of a run, without dropout; None elsewhere."""
    with attached_states(config, bundle, splits.train) as states:
        if states is None or states.kept == "none":
            yield None if states is None else StateSeconds()
            return
        validation = list(splits.validation.values())
        others = [
            each
            for each in (splits.holdout, splits.calibration)
            if each is not None and all(each is not v for v in validation)
        ]
        seconds = _fill(config, bundle, states, [splits.train, *validation, *filter(None, others)])
        if states.computed:
            log(f"   the frozen base is computed once: {states.computed:,} examples in {states.seconds:.1f} s")
        yield StateSeconds(seconds[0], sum(seconds[1 : 1 + len(validation)]))
        if states.dropped:
            log(f"   {states.dropped:,} states of the frozen base did not fit into memory and were computed again")


@contextmanager
def attached_states(
    config: RunConfig, bundle: TrainingBundle, train: Encoded, cache: StateCache | None = None
) -> Iterator[FrozenStates | None]:
    """Replace the base of the run's model by its states within this block, where it is frozen; yield None elsewhere."""
    if not config.caches_features:
        yield None
        return
    if not is_frozen(bundle.model):
        log("!! the base of this model is computed in each epoch, with dropout: a part of it trains")
        yield None
        return
    weights = digest_of(bundle.model)
    determines = weights, repr(bundle.model), bundle.format.output_kind, config.task.kind, config.model.family
    kept = shared("kept states", determines, lambda: _choose_kept(config, bundle, train))
    width = int(max(train.lengths, default=0)) if kept == "padded" else 0
    states = FrozenStates(bundle.model, kept, width, cache, weights)
    try:
        yield states
    finally:
        states.detach()


def _choose_kept(config: RunConfig, bundle: TrainingBundle, train: Encoded) -> str:
    """Return the least of each example's states with which the model's scores and gradients are unchanged."""
    kinds = ["all"]
    if bundle.format.output_kind == "spans":
        kinds = ["padded"]
    elif bundle.format.output_kind == "embeddings" or kind_of(config.task).has_sequence_head:
        kinds = ["last", "all"] if config.model.family == DECODER else ["first", "mean", "all"]
    order = np.argsort(np.asarray(train.lengths), kind="stable")
    chosen = order[np.linspace(0, len(order) - 1, CHECKED).astype(int)]
    batch = bundle.format.collator()([train.inputs[int(index)] for index in chosen])
    expected = _scores_and_gradients(bundle, batch)
    for kept in kinds:
        states = FrozenStates(bundle.model, kept, batch["input_ids"].shape[1] if kept == "padded" else 0, StateCache())
        states.tokens = 0  # passes of one text, which are short
        try:
            found = _scores_and_gradients(bundle, batch)
        finally:
            states.detach()
        if states.computed and all(_is_close(a, b) for a, b in zip(expected, found, strict=True)):
            return kept
    log("!! the frozen base is computed in each epoch: its states depend on the other examples of a batch")
    return "none"


def _scores_and_gradients(bundle: TrainingBundle, batch: dict[str, Any]) -> list[torch.Tensor]:
    """Return the scores of a batch, and the gradients of the trained weights for a weighted sum of them."""
    weights = [weight for weight in bundle.model.parameters() if weight.requires_grad]
    inputs = {name: value.to(weights[0].device) for name, value in batch.items() if value is not None}
    with torch.enable_grad():
        scores = output_reader(bundle)(bundle.model.eval(), inputs)
        if scores.ndim == 3 and bundle.format.output_kind == "logits":  # of padding, which no loss reads
            scores = scores * inputs["attention_mask"][..., None]
        factors = torch.linspace(0.5, 1.5, scores.numel(), device=scores.device).view_as(scores)
        gradients = torch.autograd.grad((scores * factors).sum(), weights, allow_unused=True)
    return [scores.detach(), torch.cat([each.flatten() for each in gradients if each is not None])]


def _is_close(expected: torch.Tensor, found: torch.Tensor) -> bool:
    return bool((expected - found).abs().max() <= TOLERANCE * expected.abs().max())


def _fill(config: RunConfig, bundle: TrainingBundle, states: FrozenStates, splits: Sequence[Encoded]) -> list[float]:
    """Add the states of all examples to the cache; return the seconds of computing those of each split.

    What is neither in memory nor in the cache folder is computed, in passes over all splits.
    """
    parts = [(number, rows) for number, split in enumerate(splits) for rows in _parts(split.lengths)]
    trainer, seconds, room = predictor(config, bundle), [0.0] * len(splits), MAX_BYTES // 2
    waiting: dict[int, list[Texts]] = {}
    total = sum(len(split.lengths) for split in splits)
    with trainer.accelerator.autocast(), torch.no_grad(), stage("computing the frozen base", total) as shown:
        for index, (number, rows) in enumerate(parts):
            inputs = splits[number].inputs
            record = partial(_record, bundle, states, trainer, inputs, rows)
            is_whole = len(rows) == len(inputs)  # and small, as several parts are not
            texts = shared("texts", (states.context(), inputs), record, _texts_bytes) if is_whole else record()
            waiting.setdefault(number, []).append(texts)
            shown.done += len(rows)
            if index + 1 == len(parts) or sum(len(each) for group in waiting.values() for each in group) >= WAITING:
                room -= _load_or_compute(states, [each for group in waiting.values() for each in group], room)
                for split, group in waiting.items():
                    seconds[split] += sum(states.cache.seconds(key) for each in group for key in each)
                waiting = {}
    return seconds


def _parts(lengths: Sequence[int] | np.ndarray) -> list[np.ndarray]:
    """Return the examples of each part of a split, which has a file of its own, sorted by length."""
    order = np.argsort(np.asarray(lengths), kind="stable")
    part = (np.cumsum(np.asarray(lengths)[order]) - 1) // PART
    return np.split(order, np.flatnonzero(np.diff(part)) + 1) if len(order) else []


def _record(bundle: TrainingBundle, states: FrozenStates, trainer: Any, inputs: Any, rows: np.ndarray) -> Texts:
    """Return the texts of examples, as the model's head passes them to the base."""
    collate, reader = bundle.format.collator(), output_reader(bundle)
    with states.recording() as texts:
        for first in range(0, len(rows), RECORDED):
            batch = collate(list(inputs.select(rows[first : first + RECORDED])))
            reader(bundle.model.eval(), trainer.prepare_inputs(batch))
    return texts


def _texts_bytes(texts: Texts) -> int:
    return sum(each.nbytes + OBJECT for text in texts.values() for each in text.values())


def _load_or_compute(states: FrozenStates, parts: Sequence[Texts], room: int) -> int:
    """Add the states of these parts to the cache, from its folder where they are stored; return the bytes written."""
    cache = states.cache
    lacking = [part for part in parts if any(cache.get(key) is None for key in part) and not _load(cache, part)]
    missing = {key: text for part in lacking for key, text in part.items() if cache.get(key) is None}
    if not missing:
        return 0
    found = states.compute(missing, together=True)
    without_room = {key for key, each in found.items() if not cache.add(key, *each)}
    written = 0
    for part in lacking:
        known = {key: found[key] if key in found else (cache.get(key), cache.seconds(key)) for key in sorted(part)}
        arrays = pack_states(*zip(*known.values(), strict=True))
        written += sum(each.nbytes for each in arrays.values())
        if written <= room and is_main_process():
            write_arrays("states", _file_key(part), arrays)
        if not without_room.isdisjoint(part):
            _load(cache, part)
    states.dropped += sum(cache.get(key) is None for key in without_room)
    return written


def _load(cache: StateCache, part: Texts) -> bool:
    """Add the states of a part from the cache folder, and return whether all processes have found them there."""
    stored = read_arrays("states", _file_key(part))
    if not all(gather_object([stored is not None])) or stored is None:
        return False
    for key, states, seconds in zip(sorted(part), *unpack_states(stored), strict=True):
        cache.add(key, states, seconds, is_mapped=True)
    return True


def _file_key(part: Texts) -> str:
    """Return the hash of all that determines the states of a part."""
    digest = hashlib.sha256(repr((device_name(), code_digest("models"))).encode())
    for key in sorted(part):
        digest.update(key)
    return digest.hexdigest()
