"""Hidden states of tokens, and the text embeddings that are pooled from them."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from peftkit.models.classifiers import masked_mean


class TextEmbedder:
    """Computes text embeddings: a layer's states, pooled, truncated to `dim` components, and normalized.

    `pooling` is mean (of the non-padding tokens), cls (the first of them) or last. `layer` counts hidden states from
    the embeddings (0), or back from the last (-1); None is the model's output, the last layer or a learned weighted
    sum of all.
    """

    def __init__(self, pooling: str, layer: int | None = None, normalize: bool = True, dim: int | None = None) -> None:
        self.pooling, self.layer, self.normalize, self.dim = pooling, layer, normalize, dim

    def __call__(self, model: nn.Module, batch: Mapping[str, Any]) -> torch.Tensor:
        """Return (examples, columns, dim): an example may have several texts, see `columns_of`."""
        return torch.stack([self.of(model, inputs) for inputs in columns_of(batch)], dim=1)

    def of(self, model: nn.Module, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return embeddings (texts, dim) in fp32."""
        outputs = model(**inputs, output_hidden_states=True) if self.layer is not None else model(**inputs)
        states = outputs[0] if self.layer is None else outputs.hidden_states[self.layer]
        embeddings = pool_states(states.float(), inputs["attention_mask"], self.pooling)[:, : self.dim]
        return nn.functional.normalize(embeddings, dim=-1) if self.normalize else embeddings


def columns_of(batch: Mapping[str, Any]) -> list[dict[str, torch.Tensor]]:
    """Return a batch's inputs by text: `query_input_ids` and `query_attention_mask` belong to one.

    Names without a prefix are the inputs of the only text.
    """
    starts = [name.removesuffix("input_ids") for name in batch if name.endswith("input_ids")]
    return [{name.removeprefix(start): batch[name] for name in batch if name.startswith(start)} for start in starts]


def pool_states(states: torch.Tensor, attention_mask: torch.Tensor, pooling: str) -> torch.Tensor:
    """Pool states (texts, tokens, dim) to (texts, dim); padding on either side is ignored.

    Where states of a soft prompt precede the text's, the mask covers the last ones.
    """
    states = states[:, -attention_mask.shape[1] :]
    if pooling == "mean":
        return masked_mean(states, attention_mask)
    real = attention_mask.long()
    position = real.argmax(dim=1) if pooling == "cls" else real.shape[1] - 1 - real.flip(1).argmax(dim=1)
    return states[torch.arange(states.shape[0], device=states.device), position]


def stack_of(model: Any) -> Any:
    """Return the backbone below a model's head, with the layers of a method; for T5 the encoder."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    return base.get_encoder() if base.config.is_encoder_decoder else base.base_model


@torch.no_grad()
def token_states(model: PreTrainedModel, blocks: Sequence[list[int]], batch_size: int = 8) -> torch.Tensor:
    """Return the last hidden state of each token of blocks of one length (blocks, tokens, dim), for T5 of its encoder.

    The states are on the CPU, in fp32.
    """
    stack = stack_of(model)
    batches = [blocks[first : first + batch_size] for first in range(0, len(blocks), batch_size)]
    states = [stack(input_ids=torch.tensor(batch, device=model.device))[0].float().cpu() for batch in batches]
    return torch.cat(states)


def state_drift(before: torch.Tensor, after: torch.Tensor) -> float:
    """Return the mean over tokens of 1 - cosine between two states of each (..., dim): 0 where they are parallel."""
    cosines = nn.functional.cosine_similarity(before.double(), after.double(), dim=-1)
    return float((1 - cosines).clamp(min=0).mean())  # the cosine of equal states may exceed 1 in the last digit
