"""The end of a run: its leftovers are removed, or its failure is recorded."""

import shutil
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from peftkit.config import UserError, error_summary
from peftkit.config.console import is_main_process, log
from peftkit.config.errors import WriteError
from peftkit.config.secrets import without_secrets
from peftkit.config.write_failures import write_failure
from peftkit.results import run_folder


def remove_leftovers(folder: Path) -> None:
    """Remove what a finished run does not need, which a process that was killed after its result left there."""
    checkpoints = folder / "checkpoints"
    try:
        run_folder.clear_torn(folder)
        if (checkpoints / "runs").is_dir():  # TensorBoard's files, written by transformers
            shutil.copytree(checkpoints / "runs", folder / "tensorboard", dirs_exist_ok=True)
        if checkpoints.is_dir():
            shutil.rmtree(checkpoints)
    except OSError as error:  # the result is complete
        log(f"!! {error.filename or folder} remains ({error.strerror}); the same command removes it")


@contextmanager
def recorded_failure(folder: Path, result: dict[str, Any], check: Callable[[], None]) -> Iterator[None]:
    """Record in a run folder why the run in this block failed or was interrupted, and raise its error.

    Args:
        result: what the run recorded so far.
        check: raises an error if the folder is not that of the run any more.
    """
    try:
        yield
    except BaseException as error:
        failed = cause_of(error, folder, check)
        if is_main_process():
            record_failure(folder, result, failed, check)
        if failed is error:
            raise
        raise failed from error


def cause_of(error: BaseException, folder: Path, check: Callable[[], None]) -> BaseException:
    """Return what a run failed with: a folder that is gone, a write that failed, or else the error itself.

    Args:
        check: raises an error if the folder is not that of the run any more.
    """
    if isinstance(error, Exception) and not isinstance(error, UserError):
        try:
            check()
        except WriteError as replaced:
            return replaced
    return write_failure(error, folder) or error


def record_failure(folder: Path, result: dict[str, Any], error: BaseException, check: Callable[[], None]) -> None:
    """Record in a run folder why the run failed or was interrupted; where it cannot be written, log that.

    Args:
        result: what the run recorded so far.
        check: raises an error if the folder is not that of the run any more.
    """
    status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
    result.pop("files", None)
    result["meta"] |= {"status": status, "reason": without_secrets(error_summary(error))}
    try:
        check()
        run_folder.write_result(folder, result)
        with (folder / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(run_folder.line({"error": without_secrets(traceback.format_exc())}))
    except OSError as failed:  # such as of the full disk that ended the run
        log(f"!! the run {status}, which is not recorded: {failed}")
