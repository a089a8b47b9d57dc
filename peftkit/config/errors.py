"""The error that users can fix, and one-line summaries of errors."""


class UserError(Exception):
    """An error that the user can fix: the message states what is wrong, where, and what to type."""


def refuse(*rules: tuple[object, str]) -> None:
    """Raise a `UserError` with the message of the first rule whose condition holds."""
    for holds, message in rules:
        if holds:
            raise UserError(message)


def error_summary(error: BaseException) -> str:
    """Return the first line of an error's message, or its class name where the message is empty."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
