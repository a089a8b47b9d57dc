"""Run folders: their names, and atomic reading and writing of their files."""

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

SCHEMA = 2  # of result.json; version 0.1 wrote none
LOCATIONS = {"model": ("model", ("checkpoint", "revision")), "data": ("task", ("dataset", "subset", "revision"))}
PACKAGES = ("peftkit", "torch", "transformers", "peft", "accelerate", "datasets", "bitsandbytes")


def run_id(config: Mapping[str, Any], sources: Mapping[str, Any], setup: Mapping[str, Any]) -> str:
    """Return eight hex digits over what determines the result: settings, contents of model and data, processes.

    Contents of local files count by their hash, those of the Hub by their commit; where they lie does not. A setting
    that is null counts as absent, and so does a search without candidates: keys added later change no id.
    """
    settings = {key: value for key, value in config.items() if key not in INCIDENTAL}
    if not config.get("trial") and (config.get("search") or {}).get("lr_multipliers") is None:
        settings = {key: value for key, value in settings.items() if key not in ("trial", "search")}
    if (settings.pop("distill", None) or {}).get("teacher") is not None:
        settings["distill"] = {**config["distill"], "teacher": None}  # its hash is in the set-up
    settings["method"] = {key: value for key, value in config["method"].items() if f"method.{key}" not in INCIDENTAL}
    settings["train"] = {key: value for key, value in config["train"].items() if f"train.{key}" not in INCIDENTAL}
    contents = {}
    for part, source in sources.items():
        section, keys = LOCATIONS[part]
        kind = "hub" if source["kind"] == "cache" else source["kind"]
        contents[part] = {**source, "kind": kind}
        if kind == "folder":
            contents[part] |= {"name": None, "substituted_for": None}
        dropped = {"folder": keys, "hub": ("revision",)}.get(kind, ())
        settings[section] = {key: value for key, value in settings[section].items() if key not in dropped}
    text = json.dumps([_without_nulls(settings), contents, setup], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _without_nulls(values: Any) -> Any:
    if not isinstance(values, Mapping):
        return values
    return {name: _without_nulls(value) for name, value in values.items() if value is not None}


def run_folder(config: Mapping[str, Any], sources: Mapping[str, Any], setup: Mapping[str, Any]) -> Path:
    """Return <out>/<suite>/<task>/<model>/<method>/seed-<n>-<id>, or trial-<n>-<id> for a trial of a search.

    <model> is the checkpoint that is trained.
    """
    task = config["task"]
    suite = sources["data"]["name"] if sources["data"]["kind"] == "offline" else task["suite"]
    names = [suite, task["name"], checkpoint_name(sources["model"]), config["method"]["name"]]
    kind = "trial" if config["trial"] else "seed"
    return Path(config["out"], *map(safe_name, names), f"{kind}-{config['seed']}-{run_id(config, sources, setup)}")


def checkpoint_name(source: Mapping[str, Any]) -> str:
    """Return the name of a checkpoint in paths: a Hub id with -- for /, or a folder's name.

    A model that a run left is named after the run.
    """
    if source["kind"] != "folder":
        return str(source["name"]).replace("/", "--")
    folder = Path(source["name"]).absolute()
    return folder.parent.name if folder.name in ("model", "merged") else folder.name


def read_result(folder: Path) -> dict[str, Any] | None:
    """Return the folder's result, or None where there is none.

    Raises:
        UserError: an earlier version of peftkit wrote it.
    """
    file = folder / "result.json"
    if not file.is_file():
        return None
    result: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    if result.get("schema") != SCHEMA:
        raise UserError(f"{folder}: written by another version of peftkit, only job=leaderboard reads it; run it again")
    return result


def is_finished(folder: Path) -> bool:
    result = read_result(folder)
    return result is not None and result["meta"]["status"] == "finished"


def write_result(folder: Path, result: Mapping[str, Any]) -> None:
    """Write result.json whole or not at all."""
    write_text(folder / "result.json", json.dumps({"schema": SCHEMA, **result}, indent=1, default=str) + "\n")


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
    with os.fdopen(handle, "w", encoding="utf-8") as out:
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
