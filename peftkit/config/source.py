"""Where models and data come from (the Hub, its cache, a folder, or offline), and the hashes of local files."""

import hashlib
import json
import os
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from peftkit.config.errors import Refusal, UserError
from peftkit.config.quoting import typed
from peftkit.paths import atomic_write, cache_folder, names_in

HUB_TIMEOUT = 3.0  # seconds; the Hub is contacted once per process
MIN_CACHED_SIZE = 16 << 20  # bytes: hashing smaller files is as fast as reading the cache
ADAPTER_FILE = "adapter_config.json"
POOLING_FOLDER = "1_Pooling"  # of sentence-transformers
PICKLED = (".bin", ".bin.index.json")  # weights that torch pickled
MIN_AGE = 2.0  # seconds: a file that changed since may change again without another size or time


def fingerprint(path: Path, endings: tuple[str, ...] = ("",)) -> str:
    """Return the first twelve hex digits of the SHA-256 of a file, or of names and bytes of a folder's files.

    Args:
        endings: of the files that count in a folder.
    """
    if not path.is_dir():
        return fingerprint_of({"": path})
    return fingerprint_of(
        {file.name: file for file in path.iterdir() if file.is_file() and file.name.endswith(endings)}
    )


def fingerprint_of(files: Mapping[str, Path]) -> str:
    """Return the first twelve hex digits of the SHA-256 of names and bytes of files, in the order of their paths.

    The hash of large files is cached by path, size and modification time.
    """
    files = dict(sorted(files.items(), key=lambda item: item[1]))
    stats = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files.values()]
    if sum(size for _, size, _ in stats) < MIN_CACHED_SIZE:
        return _sha256(files)
    key = hashlib.sha256(json.dumps([[*files] != [""], stats]).encode()).hexdigest()
    cached = cache_folder() / "fingerprints" / key
    if cached.is_file():
        return cached.read_text(encoding="utf-8")
    digest = _sha256(files)
    if max(changed for *_, changed in stats) < (time.time() - MIN_AGE) * 1e9:
        with suppress(OSError), atomic_write(cached) as part:  # a cache that cannot be written only costs time
            part.write_text(digest, encoding="utf-8")
    return digest


def _sha256(files: Mapping[str, Path]) -> str:
    digest = hashlib.sha256()
    for name, file in files.items():
        digest.update(name.encode())
        with file.open("rb") as data:
            hashlib.file_digest(data, lambda: digest)
    return digest.hexdigest()[:12]


def checkpoint_folder(folder: Path) -> Path:
    """Return the folder with the weights of a checkpoint: itself, or of a run its trained model, merged or an adapter.

    Raises:
        UserError: there are no weights in it.
    """
    if (folder / "vocabulary.json").is_file() and not (folder / "config.json").is_file():
        message = (
            f"model.checkpoint={folder} is a vocabulary of job=extend; use vocab={folder}, or job=merge run={folder} "
            f"and model.checkpoint={folder}/merged"
        )
        raise UserError(Refusal(message, f"{typed('vocab', folder)} ~model.checkpoint"))
    if (folder / "prompt" / "prompt.json").is_file():
        raise UserError(f"model.checkpoint={folder} is a run that trained no weights; use the checkpoint of its base")
    for found in (folder, *(folder / name for name in ("model", "merged", "adapter"))):
        if (found / "config.json").is_file() or (found / ADAPTER_FILE).is_file():
            return found
    raise UserError(
        f"model.checkpoint={folder} has no config.json and no {ADAPTER_FILE}; use the folder of a checkpoint, of an "
        "adapter or of a finished run"
    )


def pickled_weights(folder: Path) -> Path | None:
    """Return the file to name where the weights of a checkpoint are pickled only, otherwise None."""
    names = names_in(folder)
    if any(name.startswith("model") and ".safetensors" in name for name in names):
        return None
    return next((folder / f"pytorch_model{end}" for end in PICKLED if f"pytorch_model{end}" in names), None)


@dataclass(frozen=True)
class Source:
    """Where a model or a dataset was read from.

    `kind` is hub, cache (the Hub's), folder, or offline; `revision` is the Hub's commit, or the fingerprint of local
    files; `substituted_for` is the name in the config where something offline replaces it.
    """

    kind: str
    name: str
    revision: str | None = None
    substituted_for: str | None = None
    folder: str | None = None  # its path on this machine, not part of a result

    def substitution(self, what: str) -> str:
        """Return a warning about what replaces what; empty where nothing was substituted."""
        if self.substituted_for is None:
            return ""
        kind = "offline" if self.kind == "offline" else "derived from an offline one"
        return f"{what}: {self.name} ({kind}) replaces {self.substituted_for}; its scores are not comparable"


@lru_cache(maxsize=1)
def hub_is_reachable() -> bool:
    """Contact the Hub, for three seconds at most, and return whether it answered; once per process."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "TRUE", "YES", "ON"}:
        return False
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    answered = threading.Event()

    def request() -> None:
        try:
            urllib.request.urlopen(urllib.request.Request(endpoint, method="HEAD"), timeout=HUB_TIMEOUT)
            answered.set()
        except urllib.error.HTTPError:  # any status is an answer
            answered.set()
        except (OSError, ValueError):
            return

    # a thread, because the timeout of urlopen does not bound a name look-up
    thread = threading.Thread(target=request, daemon=True)
    thread.start()
    thread.join(HUB_TIMEOUT)
    return answered.is_set()
