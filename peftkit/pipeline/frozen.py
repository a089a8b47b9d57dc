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
    if not config.caches_features:
        yield {}
        return
    if not is_frozen(bundle.model):
        log("!! the base of this model is computed in each epoch, with dropout: a part of it trains")
        yield {}
        return
    kept, width = _choose_kept(config, bundle, train), int(max(train.lengths, default=0))
    states = FrozenStates(bundle.model, kept, width if kept == "padded" else 0)
    try:
        yield {"feature_seconds": 0.0 if kept == "none" else _fill(config, bundle, states, train)}
    finally:
        states.detach()
        if states.dropped:
            log(f"   {states.dropped:,} states of the frozen base did not fit into memory and were computed again")


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
        pairs = zip(expected, found, strict=True)
        if states.computed and all((a - b).abs().max() <= TOLERANCE * a.abs().max() for a, b in pairs):
            return kept
    log("!! the frozen base is computed in each epoch: its states depend on the other examples of a batch")
    return "none"


def _scores_and_gradients(bundle: TrainingBundle, batch: dict[str, Any]) -> list[torch.Tensor]:
    """Return the scores of a batch, and the gradients of trained weights for a weighted sum of them."""
    weights = [weight for weight in bundle.model.parameters() if weight.requires_grad]
    inputs = {name: value.to(weights[0].device) for name, value in batch.items() if value is not None}
    with torch.enable_grad():
        scores = output_reader(bundle)(bundle.model.eval(), inputs)
        if scores.ndim == 3 and bundle.format.output_kind == "logits":  # of padding, which no loss reads
            scores = scores * inputs["attention_mask"][..., None]
        factors = torch.linspace(0.5, 1.5, scores.numel(), device=scores.device).view_as(scores)
        gradients = torch.autograd.grad((scores * factors).sum(), weights, allow_unused=True)
    return [scores.detach(), *(each for each in gradients if each is not None)]


def _fill(config: RunConfig, bundle: TrainingBundle, states: FrozenStates, train: Encoded) -> float:
    """Compute the states of training examples, and return the seconds."""
    trainer = predictor(config, bundle)
    seconds = training.predict_scores(trainer, train.inputs, train.lengths, "computing the frozen base").seconds
    training.reset_preparation(trainer)
    if states.computed:
        reused = f", {states.reused:,} are known" if states.reused else ""
        log(f"   the frozen base is computed once: {states.computed:,} examples in {seconds:.1f} s{reused}")
    return seconds
