"""Templates with {column} where a text belongs; a column may have dots, brackets or spaces in its name."""

import re
from collections.abc import Iterator

FIELD = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")


def parse_template(template: str) -> Iterator[tuple[str, str | None]]:
    """Yield each text with the column after it, which is None at the end; {{ and }} are braces.

    Raises:
        ValueError: a brace is single.
    """
    literal, last = "", 0
    for match in FIELD.finditer(template):
        literal, last = literal + template[last : match.start()], match.end()
        if match[0] in "{}":
            raise ValueError(f"a single {match[0]}, which is written {match[0] * 2} as a character")
        if match[1] is None:
            literal += match[0][0]
        else:
            yield literal, match[1]
            literal = ""
    yield literal + template[last:], None
