"""The states of a frozen base, which the epochs of a run, its evaluation, and other runs of the process share."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from peftkit import training
from peftkit.config import RunConfig, kind_of
from peftkit.config.console import log
from peftkit.config.kinds import DECODER
from peftkit.data.formats import Encoded
from peftkit.models.frozen import FrozenStates, StateCache, is_frozen
from peftkit.pipeline.build import TrainingBundle
from peftkit.pipeline.evaluate import output_reader, predictor

CHECKED = 4  # examples of which a model has the same scores and gradients with and without reused states
TOLERANCE = 1e-4  # of the largest one, in fp32


@contextmanager
def reused_states(config: RunConfig, bundle: TrainingBundle, train: Encoded) -> Iterator[dict[str, float]]:
    """Compute the states of a frozen base once for each example, without dropout; yield the seconds it took.

    Those of the training examples are computed first, those of others when they are scored.
    """
    with attached_states(config, bundle, train) as states:
        yield {} if states is None else {"feature_seconds": _fill(config, bundle, states, train)}
        if states is not None and states.dropped:
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
    kept = _choose_kept(config, bundle, train)
    width = int(max(train.lengths, default=0)) if kept == "padded" else 0
    states = FrozenStates(bundle.model, kept, width, cache)
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


def _fill(config: RunConfig, bundle: TrainingBundle, states: FrozenStates, train: Encoded) -> float:
    """Compute the states of training examples, and return the seconds."""
    if states.kept == "none":
        return 0.0
    trainer = predictor(config, bundle)
    seconds = training.predict_scores(trainer, train.inputs, train.lengths, "computing the frozen base").seconds
    training.reset_preparation(trainer)
    if states.computed:
        reused = f", {states.reused:,} are known" if states.reused else ""
        log(f"   the frozen base is computed once: {states.computed:,} examples in {seconds:.1f} s{reused}")
    return seconds
