"""What a bench measures once: the faster attention, the FLOPs of training, and the peak of the machine.

It runs in a process of its own: python -m peftkit.pipeline.bench.probe SPEC.json
"""

import json
import sys
import time
from collections import Counter
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from peftkit.pipeline.bench.plain_script import Loop, batches, load_model, load_tokenizer, read_examples

ATTENTIONS = ("sdpa", "eager")
TIMED_BATCHES, REPETITIONS = 8, 3
SIZES = {"cpu": (1024, 2048), "cuda": (4096, 8192)}  # of the square matrices, by type of device
PEAK_SECONDS = 0.5  # of products of one size
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def probe(spec: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of `records.Probe`."""
    tokenizer = load_tokenizer(spec)
    examples = read_examples(spec, tokenizer)["train"]
    seconds, loop = {}, None
    for attention in ATTENTIONS:  # the last is counted: the counter of torch knows its matrix products
        try:
            model = load_model({**spec, "attention": attention}, tokenizer)
        except ValueError:  # some models have no SDPA
            continue
        loop = Loop(spec, model, tokenizer, examples)
        seconds[attention] = time_steps(loop)
    assert loop is not None
    return {
        "threads": torch.get_num_threads(),
        "attention": min(seconds, key=seconds.__getitem__),
        "attention_seconds": seconds,
        "flops": count_flops(loop),
        "peaks": {name: peak(DTYPES[name], loop.arguments.device) for name in {"fp32", spec["precision"]}},
    }


def time_steps(loop: Loop) -> float:
    """Return the fewest seconds of a few training steps; the first pass over them compiles kernels."""
    chosen = list(islice(batches(loop.lengths, loop.size, loop.arguments.seed, 0), TIMED_BATCHES))

    def steps() -> None:
        for indices in chosen:
            loop.step(indices)

    return _fewest_seconds(steps, REPETITIONS + 1)


def count_flops(loop: Loop) -> float:
    """Return the FLOPs of all training steps, forward and backward.

    They are proportional to the examples of a batch, so one example of each length is counted.
    """
    lengths: Counter[int] = Counter()
    left = loop.steps
    for epoch in range(10**6):
        for indices in islice(batches(loop.lengths, loop.size, loop.arguments.seed, epoch), left):
            lengths[int(loop.lengths[indices].max())] += len(indices)
            left -= 1
        if not left:
            break
    return float(sum(number * flops_of_example(loop, length) for length, number in lengths.items()))


def flops_of_example(loop: Loop, length: int) -> int:
    """Return the FLOPs of the forward and backward pass of an example with this number of tokens."""
    chosen = int(np.argmax(loop.lengths == length))
    counter = FlopCounterMode(display=False)
    with counter:
        loop.model(**loop.batch(np.array([chosen]))).loss.backward()
    loop.optimizer.zero_grad(set_to_none=True)
    return int(counter.get_total_flops())


def peak(dtype: torch.dtype, device: torch.device) -> float:
    """Return the most FLOP per second of a product of square matrices: 2 n^3 / seconds."""
    rates = []
    for size in SIZES["cuda" if device.type == "cuda" else "cpu"]:
        first, second = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))

        def product(first: torch.Tensor = first, second: torch.Tensor = second) -> Any:
            return first @ second.T

        once = _fewest_seconds(product, 2)
        rates.append(2 * size**3 / _fewest_seconds(product, max(3, int(PEAK_SECONDS / once))))
    return max(rates)


def _fewest_seconds(function: Callable[[], Any], repetitions: int) -> float:
    found = []
    for _ in range(repetitions):
        started = time.perf_counter()
        function()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        found.append(time.perf_counter() - started)
    return min(found)


if __name__ == "__main__":
    settings = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    Path(settings["output"]).write_text(json.dumps(probe(settings)), encoding="utf-8")
