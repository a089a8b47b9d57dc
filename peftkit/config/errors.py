"""The error that users can fix, messages with their fix, and one-line summaries of errors."""

from typing import Self

from peftkit.config.secrets import without_secrets


class Refusal(str):
    """A message about what is wrong, and the overrides that correct it.

    `fix` has alternatives, each as typed: overrides that replace those of their keys, and ~key for a key to drop.
    """

    fix: tuple[str, ...]

    def __new__(cls, message: str, *fix: str) -> Self:
        refusal = super().__new__(cls, message)
        refusal.fix = fix
        return refusal


class UserError(Exception):
    """An error that the user can fix: the message states what is wrong, where, and what to type."""

    @property
    def message(self) -> Refusal:
        """The message, with its fix."""
        return Refusal(str(self), *self.fix)

    @property
    def fix(self) -> tuple[str, ...]:
        """The alternatives that correct it, empty for what overrides cannot correct."""
        return getattr(self.args[0], "fix", ()) if self.args else ()


class BusyError(UserError):
    """Another process writes a folder, and this one does not wait."""


class ExportError(Exception):
    """An export cannot be read, or gives other answers than its run: its record has the reason, the exit code is 1."""


class WriteError(OSError):
    """A file or folder cannot be written: the message has its path, the cause and what to do."""

    def __init__(self, message: str, cause: OSError | None = None) -> None:
        super().__init__(message)
        self.message = message
        if cause is not None:
            self.errno, self.strerror = cause.errno, cause.strerror

    def __str__(self) -> str:
        return self.message


def refusal(wrong: str, *fix: str, verb: str = "use") -> Refusal:
    """Return the message about what is wrong, with each alternative that corrects it."""
    return Refusal(f"{wrong}; {', or '.join(_instruction(wrong, each, verb) for each in fix)}", *fix)


def _instruction(wrong: str, fix: str, verb: str) -> str:
    parts = fix.split(" ")
    dropped = [part.removeprefix("~") for part in parts if part.startswith("~")]
    typed = [part for part in parts if not part.startswith("~")]
    names = "it" if len(dropped) == 1 and not typed and wrong.startswith(dropped[0]) else " and ".join(dropped)
    drop = f"drop {names}" if dropped else ""
    return " and ".join(filter(None, [f"{verb} {' '.join(typed)}" if typed else "", drop]))


def refuse(*rules: tuple[object, str]) -> None:
    """Raise a `UserError` with the message of the first rule whose condition holds."""
    for holds, message in rules:
        if holds:
            raise UserError(message)


def error_summary(error: BaseException) -> str:
    """Return the first line of an error's message without secrets, or its class name where the message is empty."""
    return without_secrets((str(error).strip() or type(error).__name__).splitlines()[0])


def is_text(value: str) -> bool:
    """Return whether a text can be written to a file and named in a path: it is valid Unicode without NUL."""
    return "\0" not in value and not any("\ud800" <= letter <= "\udfff" for letter in value)
