"""Seconds of training steps on this CPU with lengths padded to multiples.

    python tests/benchmarks/step_shapes.py

A BERT of MiniLM's size with LoRA of all linear layers, eager attention, bf16 autocast, batches of 32 random texts of the
lengths below. The variants alternate; the first turn, in which kernels are compiled for new shapes, is shown by itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from transformers import BertConfig, BertForSequenceClassification

SIZES = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
LENGTHS = np.random.default_rng(0).geometric(1 / 10, size=8) + 4  # of batches, like those of SST-2: 5 to about 40
TURNS = 3


def lora_model() -> Any:
    torch.manual_seed(0)
    base = BertForSequenceClassification(BertConfig(attn_implementation="eager", **SIZES))
    return get_peft_model(base, LoraConfig(r=8, target_modules="all-linear", task_type="SEQ_CLS")).train()


def steps(model: Any, width: Callable[[int], int]) -> float:
    """Return the CPU seconds of forward and backward passes over all batches, padded to these widths."""
    optimizer = torch.optim.AdamW((weight for weight in model.parameters() if weight.requires_grad), fused=True)
    started = time.process_time()
    for length in LENGTHS:
        ids = torch.randint(0, 30522, (32, width(int(length))))
        mask = (torch.arange(ids.shape[1]) < int(length)).long().expand_as(ids)
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(input_ids=ids, attention_mask=mask, labels=ids[:, 0] % 2).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return time.process_time() - started


def main() -> None:
    model = lora_model()
    variants = {"as long as the batch": 1, **{f"multiples of {size}": size for size in (8, 16, 32)}}
    found: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(TURNS):
        for name, size in variants.items():
            found[name].append(steps(model, lambda length, size=size: -(-length // size) * size))  # type: ignore[misc]
    least = min(found["as long as the batch"][1:])
    print(
        f"{torch.get_num_threads()} threads, mean length {LENGTHS.mean():.0f}\n{'':<24}{'first':>7}{'least':>7}{'ratio':>7}"
    )
    for name, seconds in found.items():
        print(f"{name:<24}{seconds[0]:>6.1f}s{min(seconds[1:]):>6.1f}s{min(seconds[1:]) / least:>7.2f}")


if __name__ == "__main__":
    main()
