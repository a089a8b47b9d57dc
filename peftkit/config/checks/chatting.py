"""Checks of job=chat against the run that answers."""

from collections.abc import Iterator

from peftkit.config.checks.rules import messages_of
from peftkit.config.checks.run_folders import readable_config
from peftkit.config.errors import refusal
from peftkit.config.kinds import kind_of
from peftkit.config.run import RunConfig


def chat_errors(run: RunConfig) -> Iterator[str]:
    """Yield a message for a run that answers no messages; an unfinished run has a message already."""
    config = readable_config(run.run) if run.job == "chat" else None
    if config is not None:
        kind = kind_of(config.task)
        yield from messages_of(
            (
                not kind.chat_template,
                refusal(f"{run.run} is a run of {kind.name}, which answers no messages", "job=predict input='a text'"),
            ),
        )
