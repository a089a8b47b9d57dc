"""Decisions of the main process that the other processes of a run follow."""

import json
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from peftkit.compat.processes import shared_store
from peftkit.config import UserError, error_summary
from peftkit.config.console import is_main_process, number_of_processes

POLL_SECONDS = 0.1
_DECISIONS: Counter[str] = Counter()  # by name, equally many in each process


def follow_main_process(name: str, decide: Callable[[], Any]) -> Any:
    """Return what the main process decides, once it has decided, however long that takes.

    Args:
        name: of the decision, the same in each process.
        decide: called in the main process only; returns a value of JSON.

    Raises:
        UserError: it raised one; or, in the other processes, any error.
    """
    if number_of_processes() == 1:
        return decide()
    store = shared_store()
    key = f"peftkit/{name}/{_DECISIONS[name]}"
    _DECISIONS[name] += 1
    if is_main_process():
        try:
            found = decide()
        except BaseException as error:
            store.set(key, json.dumps({"error": error_summary(error)}))
            raise
        store.set(key, json.dumps({"found": found}))
        return found
    while not store.check([key]):  # no call with a time limit: the main process may wait for another command
        time.sleep(POLL_SECONDS)
    answer = json.loads(store.get(key))
    if "error" in answer:
        raise UserError(f"process 0: {answer['error']}")
    return answer["found"]
