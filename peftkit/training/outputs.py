"""Scores of examples from a model's outputs: logits, or log-likelihoods of labels and texts."""

from typing import Any

import numpy as np
import torch
from accelerate.utils import extract_model_from_parallel
from torch import nn
from transformers.modeling_outputs import BaseModelOutput

DOMAIN_COLUMN = "domain"  # of the number of each example's domain, for objectives over domains
LABEL_INPUTS = ("labels", "start_positions", "end_positions", DOMAIN_COLUMN)  # not read by the model
CHUNK_TOKENS = 256  # per conversion of logits to fp32: 50 MB with GPT-2's vocabulary; a whole batch takes gigabytes


class OutputReader:
    """Computes the scores of a model for a batch, by `kind`:

    logits: those of a head for an example (examples, labels) or for each token (examples, tokens, labels).
    spans: start and end logits (examples, tokens, 2).
    verbalizer: log-likelihoods (examples, labels) of the labels' texts, `verbalizer_ids` (labels, tokens).
    likelihoods: log-likelihoods of the example's labels (examples, tokens), 0 where there is no label.
    masked: the same for the labels of masked positions.
    preferences: those of a chosen and a rejected answer, each summed over its tokens (pairs, 2).
    """

    def __init__(self, kind: str, verbalizer_ids: np.ndarray | None = None) -> None:
        self.kind, self.verbalizer_ids = kind, None if verbalizer_ids is None else torch.as_tensor(verbalizer_ids)

    def __call__(self, model: nn.Module, batch: dict[str, Any]) -> torch.Tensor:
        if self.verbalizer_ids is not None:
            is_seq2seq = extract_model_from_parallel(model).config.is_encoder_decoder
            likelihoods = label_likelihoods if is_seq2seq else continuation_likelihoods
            return likelihoods(model, batch["input_ids"], batch["attention_mask"], self.verbalizer_ids)
        if self.kind in ("likelihoods", "preferences"):
            return (token_likelihoods if self.kind == "likelihoods" else answer_likelihoods)(model, batch)
        out = model(**{name: value for name, value in batch.items() if name not in LABEL_INPUTS})
        if self.kind == "masked":
            return _target_log_probs(out.logits, batch["labels"])
        return torch.stack([out.start_logits, out.end_logits], dim=-1) if self.kind == "spans" else out.logits


def label_likelihoods(
    model: nn.Module, input_ids: torch.Tensor, attention_mask: torch.Tensor, label_ids: torch.Tensor
) -> torch.Tensor:
    """Return log p(label | input), (examples, labels), summed over the label's tokens (T5 paper, section 2.4).

    Args:
        input_ids: (examples, tokens). attention_mask: (examples, tokens).
        label_ids: (labels, tokens), padded with -100.
    """
    logits, targets = label_logits(model, input_ids, attention_mask, label_ids)
    return _target_log_probs(logits, targets).sum(dim=-1).view(-1, len(label_ids))


def label_logits(
    model: nn.Module, input_ids: torch.Tensor, attention_mask: torch.Tensor, label_ids: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the decoder's logits for the tokens of each label (examples x labels, tokens, vocabulary), and their ids.

    The encoder runs once for each example. The full model adds soft prompts to its states.
    """
    examples, labels = input_ids.shape[0], len(label_ids)  # len() would fix the number of examples of a traced model
    targets = label_ids.to(input_ids.device).repeat(examples, 1)
    states = model(
        input_ids=input_ids, attention_mask=attention_mask, labels=targets[:1].repeat(examples, 1)
    ).encoder_last_hidden_state
    prompt = attention_mask.new_ones(examples, states.shape[1] - attention_mask.shape[1])
    mask = torch.cat([prompt, attention_mask], dim=1)
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    out = base(
        encoder_outputs=BaseModelOutput(last_hidden_state=states.repeat_interleave(labels, dim=0)),
        attention_mask=mask.repeat_interleave(labels, dim=0),
        labels=targets,
    )
    return out.logits, targets


def continuation_likelihoods(
    model: nn.Module, input_ids: torch.Tensor, attention_mask: torch.Tensor, label_ids: torch.Tensor
) -> torch.Tensor:
    """Return log p(label | text before it), (examples, labels), summed over the label's tokens, for a decoder.

    Each example runs once, with its padding moved to the left; labels of several tokens continue from its cache.

    Args:
        input_ids: (examples, tokens), padded on the right. attention_mask: (examples, tokens).
        label_ids: (labels, tokens), padded with -100.
    """
    (examples, length), label_ids = input_ids.shape, label_ids.to(input_ids.device)
    lengths = attention_mask.sum(dim=1, keepdim=True)
    order = (torch.arange(length, device=input_ids.device) + lengths) % length  # padding first
    mask = attention_mask.gather(1, order)
    out = model(
        input_ids=input_ids.gather(1, order),
        attention_mask=mask,
        position_ids=(mask.cumsum(dim=1) - 1).clamp(min=0),
        use_cache=True,
        logits_to_keep=1,  # the logits of all tokens of a batch would take gigabytes
    )
    likelihoods = out.logits[:, -1].float().log_softmax(dim=-1)[:, label_ids[:, 0]]
    for label, ids in enumerate(label_ids):
        ids = ids[ids >= 0].expand(examples, -1)
        if (more := ids.shape[1] - 1) > 0:
            logits = model(
                input_ids=ids[:, :-1],
                attention_mask=torch.cat([mask, mask.new_ones(examples, more)], dim=1),
                position_ids=lengths + torch.arange(more, device=input_ids.device),
                past_key_values=out.past_key_values,
                use_cache=True,
            ).logits
            likelihoods[:, label] += _target_log_probs(logits, ids[:, 1:]).sum(dim=-1)
            out.past_key_values.crop(-more)
    return likelihoods


def token_likelihoods(model: nn.Module, batch: dict[str, Any]) -> torch.Tensor:
    """Return log p(label token | all tokens before it), (examples, tokens), each at the position of its label."""
    labels = batch["labels"]
    if extract_model_from_parallel(model).config.is_encoder_decoder:
        inputs = {name: value for name, value in batch.items() if name != "decoder_input_ids"}
        return _target_log_probs(model(**inputs).logits, labels)
    logits = model(**{name: value for name, value in batch.items() if name not in LABEL_INPUTS}).logits
    likelihoods = _target_log_probs(logits[:, :-1], labels[:, 1:])
    return torch.cat([likelihoods.new_zeros(len(labels), 1), likelihoods], dim=1)


def answer_likelihoods(model: nn.Module, batch: dict[str, Any]) -> torch.Tensor:
    """Return log p(answer | prompt), (pairs, 2), of a batch whose first half are chosen, the second rejected answers.

    `completion_mask` (2 x pairs, tokens) is 1 at the tokens of answers.
    """
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    inputs["labels"] = inputs["input_ids"].masked_fill(batch["completion_mask"] == 0, -100)
    return torch.stack(token_likelihoods(model, inputs).sum(dim=-1).chunk(2), dim=-1)


def _target_log_probs(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the log-probability of each target (examples, tokens), 0 where it is -100."""
    log_probs = torch.zeros(targets.shape, dtype=torch.float32, device=logits.device)
    chunks = [where.split(CHUNK_TOKENS) for where in (targets >= 0).nonzero(as_tuple=True)]
    for example, token in zip(*chunks, strict=True):
        chunk = logits[example, token].float()
        chosen = chunk.gather(-1, targets[example, token].unsqueeze(-1)).squeeze(-1)
        log_probs[example, token] = chosen - chunk.logsumexp(dim=-1)
    return log_probs
