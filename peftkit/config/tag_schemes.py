"""Schemes of the tags of spans (IOB1, IOB2, IOE1, IOE2, IOBES, BILOU), detected from tags."""

import re
from collections import Counter
from collections.abc import Collection, Sequence

from peftkit.config.errors import UserError

SPAN_TAG = re.compile(r"O|[BIESLU]-.+")


def scheme_of(sentences: Collection[Sequence[str]], names: Collection[str]) -> str | None:
    """Return the scheme of tags; None where no span of the sentences distinguishes IOB1 from IOB2, or IOE1 from IOE2.

    Their prefixes decide between the others. Spans begin with B in IOB2, and in IOB1 only after one of the same type;
    likewise they end with E in IOE2 and IOE1. The scheme is the one that more tags follow.

    Args:
        names: all tags that may occur.

    Raises:
        UserError: the prefixes are those of two schemes.
    """
    prefixes = {name[0] for name in names} - {"O"}
    if prefixes & {"L", "U"}:
        if mixed := sorted(prefixes & {"E", "S"}):
            raise UserError(
                f"tags begin with {', '.join(sorted(prefixes))}: L and U are of BILOU, and {' and '.join(mixed)} of "
                "IOBES; write L as E and U as S"
            )
        return "BILOU"
    if "S" in prefixes or {"B", "E"} <= prefixes:
        return "IOBES"
    if "E" in prefixes:
        return _decided([[*reversed(tags)] for tags in sentences], "E", "IOE")
    return "IOB1" if prefixes == {"I"} else _decided(sentences, "B", "IOB")


def _decided(sentences: Collection[Sequence[str]], mark: str, name: str) -> str | None:
    """Return the variant 2 where as many spans that follow none of their type begin with `mark` as with I, else 1."""
    found: Counter[str] = Counter()
    for tags in sentences:
        found.update(tag[0] for before, tag in zip(["O", *tags], tags, strict=False) if tag[1:] != before[1:])
    del found["O"]
    return None if not found else f"{name}{2 if found[mark] >= found['I'] else 1}"
