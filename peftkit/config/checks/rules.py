"""Tables of rules: a condition that makes a config wrong, and its message."""

from collections.abc import Iterator


def messages_of(*rules: tuple[object, str]) -> Iterator[str]:
    """Yield the message of each rule whose condition holds."""
    return (message for holds, message in rules if holds)
