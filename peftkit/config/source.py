"""Turn the user's `source` into one decision: from the Hub, from its cache, from disk, or offline."""

from __future__ import annotations

import hashlib
import os
import threading
import urllib.error
import urllib.request
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

HUB_TIMEOUT = 3.0  # seconds; asked once a process


def fingerprint(path: Path, endings: tuple[str, ...] = ("",)) -> str:
    """Return twelve hex digits over the bytes of a file, or of a folder's files with these endings."""
    digest = hashlib.sha256()
    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
        if file.is_file() and file.name.endswith(endings):
            digest.update(file.name.encode() if path.is_dir() else b"")
            with file.open("rb") as data:
                while block := data.read(1 << 20):
                    digest.update(block)
    return digest.hexdigest()[:12]


@dataclass(frozen=True)
class Source:
    """Where a model or a dataset was read from.

    `kind` is hub, cache (the Hub's, offline), folder, or offline; `substituted_for` names what the user asked for
    where something offline stands in for it.
    """

    kind: str
    name: str
    revision: str | None = None
    substituted_for: str | None = None
    folder: str | None = None  # where it lies on this machine; no part of a result

    def sentence(self, what: str) -> str:
        """Say loudly what stands in for what; empty where nothing was substituted."""
        if self.substituted_for is None:
            return ""
        kind = "offline" if self.kind == "offline" else "made from what is offline"
        return f"{what}: {self.name} ({kind}) stands in for {self.substituted_for}; its scores say nothing about it"


@lru_cache(maxsize=1)
def hub_answers() -> bool:
    """Ask the Hub once, for three seconds at most, and keep the answer for this process."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "TRUE", "YES", "ON"}:
        return False
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    answered = threading.Event()

    def ask() -> None:
        try:
            urllib.request.urlopen(urllib.request.Request(endpoint, method="HEAD"), timeout=HUB_TIMEOUT)
            answered.set()
        except urllib.error.HTTPError:  # any status is an answer
            answered.set()
        except (OSError, ValueError):
            return

    # a thread, because the timeout of urlopen does not bound a name look-up
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(HUB_TIMEOUT)
    return answered.is_set()
