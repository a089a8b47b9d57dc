"""Turn a run into a folder that holds all it learned, spent and decided; and back."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from peftkit.config import INCIDENTAL, UserError
from peftkit.paths import safe_name

PACKAGES = ("peftkit", "torch", "transformers", "peft", "accelerate", "datasets", "bitsandbytes")


def run_id(config: Mapping[str, Any], sources: Mapping[str, Any], setup: Mapping[str, Any]) -> str:
    """Return eight hex digits over what determines the result: settings, sources, and the set-up of processes.

    A setting that is null counts as one that is not there, and so does a search that is none: a key of a later version
    changes no id.
    """
    settings = {key: value for key, value in config.items() if key not in INCIDENTAL}
    if not config.get("trial") and (config.get("search") or {}).get("lr_multipliers") is None:
        settings = {key: value for key, value in settings.items() if key not in ("trial", "search")}
    teaching = settings.pop("distill", None) or {}
    if teaching.get("teacher") is not None:  # which one is in the set-up, wherever it lies
        settings["distill"] = {**teaching, "teacher": None}
    settings["train"] = {key: value for key, value in config["train"].items() if f"train.{key}" not in INCIDENTAL}
    text = json.dumps([_said(settings), sources, setup], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _said(values: Any) -> Any:
    if not isinstance(values, Mapping):
        return values
    return {name: _said(value) for name, value in values.items() if value is not None}


def run_folder(config: Mapping[str, Any], sources: Mapping[str, Any], setup: Mapping[str, Any]) -> Path:
    """Return outputs/<suite>/<task>/<model>/<method>/seed-<n>-<id>, under `out`; a trial's begins with trial-."""
    task = config["task"]
    suite = sources["data"]["name"] if sources["data"]["kind"] == "embedded" else task["suite"]
    parts = [suite, task["name"], config["model"]["name"], config["method"]["name"]]
    safe = [safe_name(str(part)) for part in parts]
    kind = "trial" if config["trial"] else "seed"
    return Path(config["out"], *safe, f"{kind}-{config['seed']}-{run_id(config, sources, setup)}")


def read_result(folder: Path) -> dict[str, Any] | None:
    """Return the folder's result, or None where there is none."""
    file = folder / "result.json"
    return json.loads(file.read_text()) if file.is_file() else None


def is_finished(folder: Path) -> bool:
    result = read_result(folder)
    return result is not None and result["meta"]["status"] == "finished"


def write_result(folder: Path, result: Mapping[str, Any]) -> None:
    """Write result.json whole or not at all."""
    write_text(folder / "result.json", json.dumps(result, indent=1, default=str) + "\n")


def amend_result(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change a finished run's result.json, as one of several that may do so at once."""
    with FileLock(folder / ".amending"):
        result = read_result(folder) or {}
        change(result)
        write_result(folder, result)


def write_text(file: Path, text: str) -> None:
    """Write a file by way of a neighbour and a rename, so that a reader never sees half of it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}-")
    with os.fdopen(handle, "w") as out:
        out.write(text)
    Path(name).chmod(0o644)
    Path(name).replace(file)


def lock(stack: ExitStack, folder: Path) -> None:
    """Keep other processes from writing the folder until the stack is left.

    Raises:
        UserError: one does already.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        stack.enter_context(FileLock(folder / ".lock", timeout=0))
    except Timeout as error:
        raise UserError(f"another process writes {folder}; wait for it, then say the same again") from error


def line(entry: Mapping[str, Any]) -> str:
    """Return an entry as a line of log.jsonl."""
    return json.dumps(entry, default=str) + "\n"


def write_config(folder: Path, config: Mapping[str, Any]) -> None:
    write_text(folder / "config.yaml", yaml.safe_dump(dict(config), sort_keys=False))


def write_predictions(file: Path, columns: Mapping[str, list]) -> None:
    """Write id, split, label, prediction and scores, one row an example, as parquet."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f".{file.name}.part")
    pq.write_table(pa.table(dict(columns)), part)
    part.replace(file)


def meta(seed: int, device: str, precision: str, started: str) -> dict[str, Any]:
    """Return what a reader needs to run it again: versions, machine, seed; no environment, no secret."""
    return {
        "seed": seed,
        "git": _git(),
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        "device": device,
        "precision": precision,
        "started": started,
        "status": "running",
        "reason": None,
    }


def folder_bytes(folder: Path, endings: tuple[str, ...] = (".safetensors", ".bin")) -> int:
    """Return the bytes of the weight files in a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.suffix in endings)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git() -> str | None:
    """Return the commit of peftkit's own checkout, with a + where files differ from it; None in an installed wheel."""
    here = Path(__file__).resolve().parents[1]
    if not (here / "pyproject.toml").is_file():
        return None
    command = ["git", "-C", str(here), "describe", "--always", "--dirty=+", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
