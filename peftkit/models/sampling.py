"""Sampling of tokens in which each sequence has random numbers of its own, whatever else is in its batch."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import (
    EpsilonLogitsWarper,
    EtaLogitsWarper,
    LogitsProcessor,
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopHLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

from peftkit.config.decoding import OF_SAMPLING

_WARPERS: dict[str, Any] = {  # in the order of transformers' `generate`
    "temperature": TemperatureLogitsWarper,
    "top_h": TopHLogitsWarper,
    "top_k": TopKLogitsWarper,
    "top_p": TopPLogitsWarper,
    "min_p": MinPLogitsWarper,
    "typical_p": TypicalLogitsWarper,
    "epsilon_cutoff": EpsilonLogitsWarper,
    "eta_cutoff": EtaLogitsWarper,
}
_NEUTRAL: dict[str, Any] = {**OF_SAMPLING, "top_k": 0}  # of top_k, 50 is the default and not without effect


def sampling_processors(values: Mapping[str, Any], seeds: Sequence[int], device: torch.device) -> LogitsProcessorList:
    """Return processors with which greedy decoding samples.

    Args:
        values: settings of sampling by the names of transformers.GenerationConfig; one that is None has no effect.
        seeds: of each sequence of the batch.
    """
    chosen = {name: values.get(name) for name in _WARPERS}
    used = {name: value for name, value in chosen.items() if value not in (None, _NEUTRAL[name])}
    on_device = {"eta_cutoff": {"device": device}}
    warpers = [_WARPERS[name](value, **on_device.get(name, {})) for name, value in used.items()]
    return LogitsProcessorList([*warpers, GumbelNoise(seeds)])


class GumbelNoise(LogitsProcessor):
    """Adds Gumbel noise to the logits, so that greedy decoding samples from their softmax (the Gumbel-max trick).

    Each sequence has noise from its own seed, so that a reply does not depend on the rest of the batch.
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        self.streams = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: torch.LongTensor, scores: torch.Tensor) -> torch.Tensor:
        uniform = torch.stack([torch.rand(scores.shape[1], generator=stream) for stream in self.streams])
        noise = -torch.log(-torch.log(uniform.clamp(1e-20, 1 - 1e-7)))
        return scores.float() + noise.to(scores.device)
