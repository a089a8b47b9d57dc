"""Dropout's masks on a CPU, four from one random number of torch's generator.

torch draws a random number of 64 bits for each element, on one thread: a tenth of a training step of MiniLM.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch

LEVELS = 2**16  # of 16 random bits
PRECISION = 1e-3  # relative, of the rarer outcome's probability, with which 16 bits are enough


@contextmanager
def fast_masks() -> Iterator[None]:
    """Draw the masks of dropout faster on a CPU: `Tensor.bernoulli_(p)`, which all dropout of torch uses.

    A mask follows the seed of torch's generator as before, but is another one than torch's of the same seed. The
    probability is rounded to a multiple of 2^-16, except near 0 and 1.
    """
    library = torch.library.Library("aten", "IMPL")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"(?s).*Overriding a previously registered kernel")
        library.impl("bernoulli_.float", _bernoulli, "CPU")
    try:
        yield
    finally:
        library._destroy()


def _bernoulli(values: torch.Tensor, p: float = 0.5, *, generator: torch.Generator | None = None) -> torch.Tensor:
    """Fill a tensor with ones of probability p, else zeros.

    Raises:
        RuntimeError: p is no probability.
    """
    if not 0 <= p <= 1:
        raise RuntimeError(f"bernoulli_ expects p to be in [0, 1], but got p={p}")
    count, ones = values.numel(), round(p * LEVELS)
    if abs(ones / LEVELS - p) > PRECISION * min(p, 1 - p):
        return values.copy_(torch.rand(values.shape, generator=generator, dtype=torch.float64) < p)
    numbers = torch.empty(-(-count // 4), dtype=torch.int64).random_(-(2**63), None, generator=generator)
    drawn = numbers.view(torch.int16)[:count].view(values.shape)
    return values.copy_(drawn < ones - LEVELS // 2) if ones < LEVELS else values.fill_(1)
