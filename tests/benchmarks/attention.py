"""Seconds of attention on this CPU by length: forward and backward pass of two layers of MiniLM's size, sdpa and eager.

    python tests/benchmarks/attention.py [LENGTH ...]

Batches of 32 in bf16 autocast; the fewest CPU seconds of three turns, in which the two alternate.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import torch
from transformers import BertConfig, BertModel

LENGTHS = (8, 16, 32, 64, 128, 256)
SIZES = {"hidden_size": 384, "num_hidden_layers": 2, "num_attention_heads": 12, "intermediate_size": 1536}
BATCH, TURNS, TOKENS = 32, 3, 512


def seconds(model: Any, length: int, trains: bool) -> float:
    """Return the CPU seconds of a pass over a batch."""
    ids, mask = torch.randint(0, 100, (BATCH, length)), torch.ones(BATCH, length, dtype=torch.long)
    mask[::3, length // 2 :] = 0
    started = time.process_time()
    with torch.autocast("cpu", torch.bfloat16), torch.set_grad_enabled(trains):
        output = model(input_ids=ids, attention_mask=mask).last_hidden_state
    if trains:
        output.float().square().mean().backward()
    return time.process_time() - started


def main(lengths: list[int]) -> None:
    print(
        f"{torch.get_num_threads()} threads, eager / sdpa\n{'tokens':>6} {'training':>9} {'no dropout':>11} {'scoring':>8}"
    )
    for length in lengths:
        ratios = []
        for dropout, trains in ((0.1, True), (0.0, True), (0.0, False)):
            fewest = {}
            models = {}
            for name in ("sdpa", "eager"):
                config = BertConfig(
                    vocab_size=100, attention_probs_dropout_prob=dropout, attn_implementation=name, **SIZES
                )
                models[name] = BertModel(config).train(trains)
                seconds(models[name], length, trains)  # compiles kernels
            repetitions = max(2, TOKENS // length)
            for _ in range(TURNS):
                for name, model in models.items():
                    found = sum(seconds(model, length, trains) for _ in range(repetitions)) / repetitions
                    fewest[name] = min(found, fewest.get(name, found))
            ratios.append(fewest["eager"] / fewest["sdpa"])
        print(f"{length:>6} {ratios[0]:>9.2f} {ratios[1]:>11.2f} {ratios[2]:>8.2f}", flush=True)


if __name__ == "__main__":
    main([int(each) for each in sys.argv[1:]] or list(LENGTHS))
