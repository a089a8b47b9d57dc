"""Checks of batches of equal numbers of tokens."""

from collections.abc import Iterator

from peftkit.config.checks.rules import messages_of
from peftkit.config.errors import refusal
from peftkit.config.jobs import JOBS
from peftkit.config.kinds import kind_of
from peftkit.config.run import RunConfig

KEY = "train.train_sampling_strategy"


def sampling_errors(run: RunConfig) -> Iterator[str]:
    """Yield a message for each setting that batches of equal numbers of tokens do not support."""
    if run.train.get("train_sampling_strategy") != "token_budget" or not JOBS[run.job].trains:
        return iter(())
    return messages_of(
        (
            kind_of(run.task).loss == "contrastive training",
            refusal(
                f"{KEY}=token_budget: batches would differ in their number of in-batch negatives",
                f"{KEY}=group_by_length",
            ),
        ),
    )
