"""Features of texts: what the head of a model receives, read while the model computes their scores."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from peftkit.models.pooling import pool_states, stack_of


class FeatureReader:
    """Computes scores and features of a batch, (examples, labels + dim).

    Features are the input of the model's last linear layer; where that has a state for each token, that of the last
    one, from which a decoder's head predicts. Of a text-to-text model they are the mean of the encoder's states (Ren
    et al. 2023, section 3).

    Args:
        model: its layers are read until `detach` is called.
        read_scores: a function of model and batch that returns (examples, labels).
    """

    def __init__(self, model: Any, read_scores: Callable[..., torch.Tensor]) -> None:
        self.read_scores, self.pooling = read_scores, "last"
        self.states: torch.Tensor | None = None
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        if base.config.is_encoder_decoder:
            self.pooling, self.handles = "mean", [stack_of(model).register_forward_hook(self._keep_output)]
        else:
            layers = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
            self.handles = [layer.register_forward_pre_hook(self._keep_input) for layer in layers]

    def __call__(self, model: nn.Module, batch: Mapping[str, Any]) -> torch.Tensor:
        scores = self.read_scores(model, batch)
        states, self.states = self.states, None
        assert states is not None
        features = states if states.ndim == 2 else pool_states(states, batch["attention_mask"], self.pooling)
        return torch.cat([scores.float(), features.float()], dim=-1)

    def detach(self) -> None:
        """Stop reading the model's layers."""
        for handle in self.handles:
            handle.remove()

    def _keep_input(self, layer: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        self.states = inputs[0].detach()

    def _keep_output(self, encoder: nn.Module, inputs: tuple[Any, ...], outputs: Any) -> None:
        self.states = outputs[0].detach()
