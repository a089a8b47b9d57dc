"""Seconds of training steps on this machine with and without each means of saving them, and with lengths padded to multiples.

    python tests/benchmarks/training_step.py

A BERT of MiniLM's size with LoRA of all linear layers, or trained as a whole; eager attention, bf16 autocast, batches of
32 random texts of the lengths below, whose tokens are a seventh of the vocabulary. Passes over all batches with and
without alternate; the first pass of each, in which kernels are compiled for new shapes, is left out.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from statistics import median
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import BertConfig, BertForSequenceClassification

from peftkit import training
from peftkit.compat.dropout import fast_masks
from peftkit.compat.lora import fused_lora
from peftkit.compat.peft import lora_without_casts
from peftkit.models.frozen_weights import frozen_in
from peftkit.training.embedding_rows import used_rows
from peftkit.training.outputs import OutputReader

SIZES = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
LENGTHS = np.random.default_rng(0).geometric(1 / 10, size=8) + 4  # of batches, like those of SST-2: 5 to about 40
TOKENS = 30522 // 7  # that occur
TURNS = 7

Means = Callable[[Any], AbstractContextManager[Any]]  # of a trainer


def trainer_of(method: str) -> training.ScoringTrainer:
    torch.manual_seed(0)
    model: Any = BertForSequenceClassification(BertConfig(attn_implementation="eager", **SIZES))
    if method == "lora":
        model = get_peft_model(model, LoraConfig(r=8, target_modules="all-linear", task_type="SEQ_CLS"))
    rows = Dataset.from_dict({"input_ids": [list(range(TOKENS))]})
    arguments = training.training_arguments({"report_to": "none", "disable_tqdm": True}, 0)
    trainer = training.ScoringTrainer(
        model=model.train(), args=arguments, train_dataset=rows, reader=OutputReader("logits")
    )
    trainer.added_ids = []
    return trainer


def seconds(
    trainer: training.ScoringTrainer, means: Means, width: Callable[[int], int] = lambda length: length
) -> float:
    """Return the seconds of a step on each batch, padded to these widths; the first makes the optimizer's states."""
    with means(trainer):
        trained = [weight for weight in trainer.model.parameters() if weight.requires_grad]
        optimizer = torch.optim.AdamW(trained, fused=True)
        found = [_step(trainer.model, optimizer, trained, int(length), width) for length in (LENGTHS[0], *LENGTHS)]
    return sum(found[1:])


def _step(model: Any, optimizer: Any, trained: list[Any], length: int, width: Callable[[int], int]) -> float:
    ids = torch.randint(0, TOKENS, (32, width(length)))
    mask = (torch.arange(ids.shape[1]) < length).long().expand_as(ids)
    started = time.perf_counter()
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(input_ids=ids, attention_mask=mask, labels=ids[:, 0] % 2).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(trained, 1.0)
    optimizer.step()
    optimizer.zero_grad()
    return time.perf_counter() - started


@contextmanager
def together(trainer: Any, *several: Means) -> Iterator[None]:
    with ExitStack() as stack:
        for means in several:
            stack.enter_context(means(trainer))
        yield


def without(trainer: Any) -> AbstractContextManager[None]:
    return nullcontext()


def compare(name: str, method: str, means: Means, width: Callable[[int], int] = lambda length: length) -> None:
    """Print the seconds without and with a means, and their ratio: median of the turns, lowest and highest."""
    trainer, pairs = trainer_of(method), []
    for turn in range(TURNS):
        order = [(False, without, lambda length: length), (True, means, width)][:: 1 if turn % 2 else -1]
        taken = {has: seconds(trainer, each, padded) for has, each, padded in order}
        pairs.append((taken[False], taken[True]))
    ratios = sorted(on / off for off, on in pairs[1:])
    off, on = (median(column) for column in zip(*pairs[1:], strict=True))
    print(
        f"{method:<6}{name:<32}{off:>6.2f}s{on:>6.2f}s{median(ratios):>7.2f}  ({ratios[0]:.2f} to {ratios[-1]:.2f})",
        flush=True,
    )


def main() -> None:
    masks: Means = lambda trainer: fast_masks()  # noqa: E731
    casts: Means = lambda trainer: lora_without_casts(trainer.model)  # noqa: E731
    frozen: Means = lambda trainer: frozen_in(trainer.model, torch.bfloat16)  # noqa: E731
    fused: Means = lambda trainer: fused_lora(trainer.model)  # noqa: E731
    print(
        f"{torch.get_num_threads()} threads, mean length {LENGTHS.mean():.0f}\n{'':<38}{'without':>7}{'with':>7}{'ratio':>7}"
    )
    compare("masks of 16 bits", "lora", masks)
    compare("LoRA without casts to fp32", "lora", casts)
    compare("frozen weights in bf16", "lora", frozen)
    compare("LoRA in one function", "lora", fused)
    compare("all of these", "lora", lambda trainer: together(trainer, masks, casts, frozen, fused))
    compare("masks of 16 bits", "full", masks)
    compare("used rows of word embeddings", "full", used_rows)
    compare("all of these", "full", lambda trainer: together(trainer, masks, used_rows))
    for size in (8, 16, 32):
        compare(f"padded to multiples of {size}", "lora", without, lambda length, size=size: -(-length // size) * size)  # type: ignore[misc]


if __name__ == "__main__":
    main()
