"""The cumulative distribution of the binomial without scipy.stats, whose import takes half a second."""

from typing import Any

try:
    from scipy.special._ufuncs import _binom_cdf as cumulative
except ImportError:  # scipy before 1.15
    from scipy.stats import binom

    cumulative = binom.cdf


def binomial_cdf(successes: int, trials: int, probability: float) -> float:
    """Return the probability of at most this many successes, to the bit that of `scipy.stats.binom.cdf`."""
    found: Any = cumulative(successes, trials, probability)
    return min(max(float(found), 0.0), 1.0) if successes < trials else 1.0
