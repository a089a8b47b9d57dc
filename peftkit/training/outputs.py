"""Turn a model and a batch into the scores that a kind of task is answered from."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from accelerate.utils import extract_model_from_parallel
from torch import nn
from transformers.modeling_outputs import BaseModelOutput

LABELS = ("labels", "start_positions", "end_positions")
CHUNK = 256  # tokens whose vocabularies are in fp32 at once: 50 MB of GPT-2's, where a batch of them is gigabytes


class Scores:
    """Read a model's output as `reads` says; text-to-text chooses among `words`, token ids (labels, tokens).

    logits: what a head says of a row (rows, labels) or of each token (rows, tokens, labels).
    spans: start and end scores (rows, tokens, 2).
    words: log-likelihoods of the labels' words (rows, labels), which a decoder writes behind what it reads.
    likelihoods: those of each of the row's own labels (rows, tokens), 0 where there is none.
    masked: the same of labels that stand where the model sees a mask, not one place before.
    preferences: those of a chosen and of a rejected answer, each summed over its tokens (pairs, 2).
    """

    def __init__(self, reads: str, words: np.ndarray | None = None) -> None:
        self.reads, self.words = reads, None if words is None else torch.as_tensor(words)

    def __call__(self, model: nn.Module, batch: dict[str, Any]) -> torch.Tensor:
        if self.words is not None:
            of = extract_model_from_parallel(model).config
            likelihoods = label_likelihoods if of.is_encoder_decoder else continuation_likelihoods
            return likelihoods(model, batch["input_ids"], batch["attention_mask"], self.words)
        if self.reads == "likelihoods":
            return token_likelihoods(model, batch)
        if self.reads == "preferences":
            return answer_likelihoods(model, batch)
        out = model(**{name: value for name, value in batch.items() if name not in LABELS})
        if self.reads == "masked":
            return _taken(out.logits, batch["labels"])
        if self.reads == "spans":
            return torch.stack([out.start_logits, out.end_logits], dim=-1)
        return out.logits  # type: ignore[no-any-return]


def label_likelihoods(
    model: nn.Module, input_ids: torch.Tensor, attention_mask: torch.Tensor, label_ids: torch.Tensor
) -> torch.Tensor:
    """Return log p(label word | input), (rows, labels), summed over the word's tokens (T5 paper, section 2.4).

    The encoder runs once a row; a soft prompt, which only the whole model adds, is in the states that it returns.

    Args:
        input_ids: (rows, tokens). attention_mask: (rows, tokens).
        label_ids: (labels, tokens), padded with -100.
    """
    rows, labels = len(input_ids), len(label_ids)
    label_ids = label_ids.to(input_ids.device)
    first = label_ids[:1].repeat(rows, 1)
    states = model(input_ids=input_ids, attention_mask=attention_mask, labels=first).encoder_last_hidden_state
    prompt = states.shape[1] - attention_mask.shape[1]
    mask = torch.cat([attention_mask.new_ones(rows, prompt), attention_mask], dim=1)
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    targets = label_ids.repeat(rows, 1)
    out = base(
        encoder_outputs=BaseModelOutput(last_hidden_state=states.repeat_interleave(labels, dim=0)),
        attention_mask=mask.repeat_interleave(labels, dim=0),
        labels=targets,
    )
    return _taken(out.logits, targets).sum(dim=-1).view(rows, labels)


def continuation_likelihoods(
    model: nn.Module, input_ids: torch.Tensor, attention_mask: torch.Tensor, label_ids: torch.Tensor
) -> torch.Tensor:
    """Return log p(label word | text before it), (rows, labels), summed over the word's tokens, of a decoder.

    It reads a row once, moved to the end of its batch, and each word of several tokens from its cache.

    Args:
        input_ids: (rows, tokens), padded on the right. attention_mask: (rows, tokens).
        label_ids: (labels, tokens), padded with -100.
    """
    (rows, width), label_ids = input_ids.shape, label_ids.to(input_ids.device)
    lengths = attention_mask.sum(dim=1, keepdim=True)
    moved = (torch.arange(width, device=input_ids.device) + lengths) % width  # the padding comes first
    mask = attention_mask.gather(1, moved)
    out = model(
        input_ids=input_ids.gather(1, moved),
        attention_mask=mask,
        position_ids=(mask.cumsum(dim=1) - 1).clamp(min=0),
        use_cache=True,
        logits_to_keep=1,  # over all tokens of a batch they would take gigabytes
    )
    found = out.logits[:, -1].float().log_softmax(dim=-1)[:, label_ids[:, 0]]
    for label, word in enumerate(label_ids):
        word = word[word >= 0].expand(rows, -1)
        if (more := word.shape[1] - 1) > 0:
            logits = model(
                input_ids=word[:, :-1],
                attention_mask=torch.cat([mask, mask.new_ones(rows, more)], dim=1),
                position_ids=lengths + torch.arange(more, device=input_ids.device),
                past_key_values=out.past_key_values,
                use_cache=True,
            ).logits
            found[:, label] += _taken(logits, word[:, 1:]).sum(dim=-1)
            out.past_key_values.crop(-more)
    return found


def token_likelihoods(model: nn.Module, batch: dict[str, Any]) -> torch.Tensor:
    """Return log p(label token | all before it), (rows, tokens); a decoder's stand at the label's own place."""
    labels = batch["labels"]
    config = extract_model_from_parallel(model).config
    if config.is_encoder_decoder:
        inputs = {name: value for name, value in batch.items() if name != "decoder_input_ids"}
        return _taken(model(**inputs).logits, labels)
    logits = model(**{name: value for name, value in batch.items() if name not in LABELS}).logits
    found = _taken(logits[:, :-1], labels[:, 1:])
    return torch.cat([found.new_zeros(len(labels), 1), found], dim=1)


def answer_likelihoods(model: nn.Module, batch: dict[str, Any]) -> torch.Tensor:
    """Return log p(answer | prompt), (pairs, 2), of a batch whose first half are chosen answers, the second rejected.

    `completion_mask` (2 x pairs, tokens) tells the tokens of answers.
    """
    labels = batch["input_ids"].masked_fill(batch["completion_mask"] == 0, -100)
    inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"], "labels": labels}
    return torch.stack(token_likelihoods(model, inputs).sum(dim=-1).chunk(2), dim=-1)


def _taken(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the log-probability of each target (rows, tokens), 0 where it is -100."""
    found = torch.zeros(targets.shape, dtype=torch.float32, device=logits.device)
    rows, tokens = (targets >= 0).nonzero(as_tuple=True)
    for row, token in zip(rows.split(CHUNK), tokens.split(CHUNK), strict=True):
        chosen = logits[row, token].float()
        taken = chosen.gather(-1, targets[row, token].unsqueeze(-1)).squeeze(-1)
        found[row, token] = taken - chosen.logsumexp(dim=-1)
    return found
