"""The key-value cache of the tokens with which all prompts of a batch begin, computed once."""

import inspect

import torch
from torch.nn.functional import pad
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

MIN_SHARED = 16  # tokens; below it a pass of its own takes longer than it saves


def shared_length(prompts: list[list[int]]) -> int:
    """Return how many first tokens all prompts have in common, leaving at least one of each."""
    shortest = min(map(len, prompts)) - 1
    columns = zip(*(prompt[:shortest] for prompt in prompts), strict=True)
    return next((at for at, column in enumerate(columns) if len({*column}) > 1), max(shortest, 0))


def prefix_cache(model: PreTrainedModel, prompts: list[list[int]]) -> DynamicCache | None:
    """Return the cache of the tokens that the prompts share, with a batch of one.

    None where they share too few, or where the model has other caches than keys and values of all tokens
    (recurrent states, sliding windows).
    """
    length = shared_length(prompts) if len(prompts) > 1 else 0
    body = model.base_model  # without the head, whose logits are not needed
    if length < MIN_SHARED or "past_key_values" not in inspect.signature(body.forward).parameters:
        return None
    cache = DynamicCache(config=model.config)
    if any(type(layer) is not DynamicLayer for layer in cache.layers):
        return None
    body(torch.tensor([prompts[0][:length]], device=model.device), past_key_values=cache, use_cache=True)
    return cache if cache.get_seq_length() == length else None


def expand_left_padded(cache: DynamicCache, padding: list[int]) -> DynamicCache:
    """Return the cache for a batch in which each prompt begins after so many tokens of padding.

    Every column keeps its position, as if the whole prompts were passed: the columns of the cache have padding and
    then as much of the shared tokens as fits; the remaining ones are computed again. Keys and values
    are (1, heads, tokens, size), those returned (batch, heads, tokens, size).
    """
    expanded = DynamicCache()
    length = cache.get_seq_length()
    for index, layer in enumerate(cache.layers):
        states = (
            torch.cat([pad(state, (0, 0, count, 0))[:, :, :length] for count in padding])
            for state in (layer.keys, layer.values)
        )
        expanded.update(*states, index)
    return expanded
