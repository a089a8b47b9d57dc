"""Lines of stdin and answers on stdout: a terminal with line editing, or a pipe."""

import sys
import unicodedata
from collections.abc import Iterator
from contextlib import suppress

from peftkit.config import UserError, is_text
from peftkit.config.console import log

PROMPT = "> "
DIRECTIONS = {chr(code) for code in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))}  # that reorder text


def read_lines(is_terminal: bool) -> Iterator[str]:
    """Yield the lines of stdin until it ends.

    Raises:
        UserError: a line of a pipe is not UTF-8.
    """
    if is_terminal and sys.stdout.isatty():
        with suppress(ImportError):
            import readline  # noqa: F401  # lines of any length, which can be edited and recalled
    number = 0
    if sys.stdin is None:  # closed by the shell, as by <&-
        return
    while (line := _typed_line() if is_terminal else sys.stdin.buffer.readline()) is not None and line != b"":
        number += 1
        text = line if isinstance(line, str) else line.decode("utf-8", "surrogateescape")
        if is_text(text):
            yield text.rstrip("\r\n")
        elif is_terminal:
            log("the line is not UTF-8; type it again")
        else:
            raise UserError(f"line {number} of the input is not UTF-8; convert it, such as by iconv -t utf-8")


def _typed_line() -> str | None:
    """Return a line typed in a terminal, empty after Ctrl-C; None after Ctrl-D."""
    try:
        if sys.stdout.isatty():
            return input(PROMPT)
        print(PROMPT, end="", file=sys.stderr, flush=True)
        return sys.stdin.readline() or None
    except EOFError:
        write_text("\n")
        return None
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return ""
    except UnicodeDecodeError:
        return "\udc80"  # which is no text


def write_text(text: str) -> None:
    """Write a part of an answer to stdout at once; a terminal gets no control characters."""
    sys.stdout.write(without_controls(text) if sys.stdout.isatty() else text)
    sys.stdout.flush()


def without_controls(text: str) -> str:
    """Return a text in which characters that a terminal may obey, such as escape sequences, are spelled out.

    Line breaks and tabs stay, and so do all letters, marks, and the joiners of scripts and emoji.
    """
    return "".join(letter if _is_harmless(letter) else letter.encode("unicode_escape").decode() for letter in text)


def _is_harmless(letter: str) -> bool:
    is_control = unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") or letter in DIRECTIONS
    return letter in "\n\t" or not is_control
