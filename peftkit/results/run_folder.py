"""Run folders: their names, and atomic reading and writing of their files."""

import hashlib
import json
import platform
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml

from peftkit.config import NON_RESULT_KEYS, RunConfig, UserError
from peftkit.config.console import log
from peftkit.config.json_files import read_json
from peftkit.config.sections import OBJECTIVE_KEYS
from peftkit.config.shipped_files import PREDICTIONS, damaged_file
from peftkit.paths import atomic_write, clear_parts, safe_name
from peftkit.results.locks import LOCK, SOFT, locked_folder

SCHEMA = 2  # of result.json, see docs/reference/run-folder.md; version 0.1 has none
AGAIN = "train the run again"
SCRATCH = ".base"  # the folder of the base of an adapter while it is saved
WRITTEN = ("result.json", "config.yaml", "README.md", "report.html", "taught.jsonl", *PREDICTIONS)  # by training
LOCATIONS = {"model": ("model", ("checkpoint", "revision")), "data": ("task", ("dataset", "subset", "revision"))}
PREDICTION_COLUMNS = (  # of predictions.parquet, besides those of the texts
    "id", "split", "label", "prediction", "scores", "label_name", "prediction_name", "probabilities",
    "domain",
)  # fmt: skip
PACKAGES = ("peftkit", "torch", "transformers", "peft", "accelerate", "datasets", "bitsandbytes")


def run_id(config: RunConfig, sources: Mapping[str, Mapping[str, Any]], setup: Mapping[str, Any]) -> str:
    """Return an eight-digit hash of what determines the result: settings, contents of model and data, processes.

    Contents are identified by the hash of local files and the commit of Hub data, not by their location. Null settings
    and a search without candidates count as absent, so that keys added later do not change ids.

    Args:
        sources: the records of model and data; if they are missing, their locations count.
        setup: further properties that determine the result, from `execution_setup`.
    """
    settings = {key: value for key, value in config.to_dict().items() if key not in NON_RESULT_KEYS}
    for part in ("method", "train", "combine"):
        settings[part] = {key: value for key, value in settings[part].items() if f"{part}.{key}" not in NON_RESULT_KEYS}
    if not config.trial and not config.search.is_set:
        del settings["trial"], settings["search"]
    if config.weights is None:
        del settings["combine"]
    if config.calibration.holdout is None:
        del settings["calibration"]
    if not config.domains.is_set:
        del settings["domains"]
    for key in {*OBJECTIVE_KEYS.values()} - {OBJECTIVE_KEYS.get(str(config.domains.objective))}:
        if config.domains.is_set:
            settings["domains"][key] = None
    if config.prune.heads is None:
        del settings["prune"]
    if config.distill.teacher is None:
        del settings["distill"]
    else:
        settings["distill"]["teacher"] = None  # its hash is in the set-up
    if config.tasks is None:
        del settings["multitask"]
    else:
        settings["tasks"] = [task.name for task in config.tasks]  # the hash of all tasks is in the set-up
    contents = {}
    for part, source in sources.items():
        section, keys = LOCATIONS[part]
        kind = "hub" if source["kind"] == "cache" else source["kind"]
        contents[part] = {**source, "kind": kind}
        if kind == "folder":
            contents[part] |= {"name": None, "substituted_for": None}
        dropped = {"folder": keys, "hub": ("revision",)}.get(kind, ())
        settings[section] = {key: value for key, value in settings[section].items() if key not in dropped}
    return digest([_without_nulls(settings), contents, setup])


def digest(values: Any) -> str:
    """Return an eight-digit hash of values, for the name of a folder."""
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()[:8]


def _without_nulls(values: Any) -> Any:
    if not isinstance(values, Mapping):
        return values
    return {name: _without_nulls(value) for name, value in values.items() if value is not None}


def run_folder(config: RunConfig, sources: Mapping[str, Mapping[str, Any]], setup: Mapping[str, Any]) -> Path:
    """Return <out>/<suite>/<task>/<model>/<method>/seed-<n>-<id>, or trial-<n>-<id> for a trial of a search; of a
    fold, fold-<k>- precedes that.

    <model> is the trained checkpoint.
    """
    data = sources["data"]
    suite = data["name"] if data["kind"] == "offline" else config.task.suite
    names = [suite, config.task.name, checkpoint_name(sources["model"]), config.method.name]
    kind = "trial" if config.trial else "seed"
    if config.task.fold is not None:
        kind = f"fold-{config.task.fold}-{kind}"
    return Path(config.out, *map(safe_name, names), f"{kind}-{config.seed}-{run_id(config, sources, setup)}")


def checkpoint_name(source: Mapping[str, Any]) -> str:
    """Return the name of a checkpoint in paths: a Hub id with -- for /, or a folder's name.

    The model of a run is named after the run.
    """
    if source["kind"] != "folder":
        return str(source["name"]).replace("/", "--")
    folder = Path(source["name"]).absolute()
    return folder.parent.name if folder.name in ("model", "merged") else folder.name


class DamagedResultError(UserError):
    """A result.json is not a result: it was cut off or edited."""


def read_result(folder: Path) -> dict[str, Any] | None:
    """Return the folder's result, or None if there is none.

    Raises:
        DamagedResultError: it is damaged.
        UserError: it cannot be read, or another version of peftkit wrote it.
    """
    file = folder / "result.json"
    if not file.exists():
        return None
    try:
        result: dict[str, Any] = read_json(file, AGAIN)
    except UserError as error:
        raise (error if isinstance(error.__cause__, OSError) else DamagedResultError(str(error))) from error
    if not isinstance(result, dict) or not isinstance(result.get("meta"), dict):
        raise DamagedResultError(f"{file} cannot be read as a result; {AGAIN}")
    if result.get("schema") != SCHEMA:
        raise UserError(f"{folder}: written by another version of peftkit, only job=leaderboard reads it; run it again")
    return result


def valid_result(folder: Path) -> dict[str, Any] | None:
    """Return the folder's result; None if there is none, and if it is damaged, which is logged."""
    try:
        return read_result(folder)
    except DamagedResultError as error:
        log(f"!! {str(error).removesuffix(f'; {AGAIN}')}: it counts as none")
        return None


def is_finished(folder: Path) -> bool:
    """Return whether a run has finished and has the files that it recorded; what is wrong with these is logged."""
    result = valid_result(folder)
    if result is None or result["meta"].get("status") != "finished":
        return False
    if (wrong := damaged_file(folder, result.get("files"))) is None:
        return True
    log(f"!! {wrong}: the run is trained again")
    return False


def write_result(folder: Path, result: Mapping[str, Any]) -> None:
    """Write result.json with its schema version, atomically."""
    write_text(folder / "result.json", json.dumps({"schema": SCHEMA, **result}, indent=1, default=str) + "\n")


@contextmanager
def updated_result(folder: Path, record: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield a finished run's result, and write it with its changes; a lock excludes other processes.

    Args:
        record: the result that was read before, from which the changes follow.

    Raises:
        UserError: the run has been trained again since.
    """
    with locked_folder(folder):
        result = read_result(folder) or {}
        if result.get("meta", {}).get("started") != record["meta"]["started"]:
            raise UserError(f"{folder} has been trained again meanwhile; repeat the command")
        yield result
        write_result(folder, result)


def write_text(file: Path, text: str) -> None:
    """Write a UTF-8 file atomically."""
    with atomic_write(file) as part:
        part.write_text(text, encoding="utf-8")


def clear_torn(folder: Path) -> None:
    """Delete what a killed process left of files that it was writing."""
    clear_parts(folder, WRITTEN)
    shutil.rmtree(folder / SCRATCH, ignore_errors=True)


def delete_files(folder: Path) -> None:
    """Delete a run's files except its lock, and judge replies, which are stored by a hash of the judged answers."""
    for entry in folder.iterdir():
        if entry.name in (LOCK, LOCK + SOFT):
            continue
        if entry.is_symlink() or not entry.is_dir():
            entry.unlink(missing_ok=True)
        elif entry.name != "judged":
            shutil.rmtree(entry, ignore_errors=True)


def line(entry: Mapping[str, Any]) -> str:
    """Return an entry as one line of log.jsonl."""
    return json.dumps(entry, default=str) + "\n"


def write_config(folder: Path, config: RunConfig) -> None:
    write_text(folder / "config.yaml", yaml.safe_dump(config.to_dict(), sort_keys=False, allow_unicode=True))


def write_predictions(file: Path, columns: Mapping[str, Any]) -> None:
    """Write columns of predictions, one row per example, as parquet."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with atomic_write(file) as part:
        pq.write_table(pa.table(dict(columns)), part)


def meta(seed: int, device: str, precision: str) -> dict[str, Any]:
    """Return metadata for reproduction: versions, machine, seed and start time; no environment variables or secrets."""
    return {
        "seed": seed,
        "git": _git(),
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        "device": device,
        "precision": precision,
        "started": now(),
        "status": "running",
        "reason": None,
    }


def now() -> str:
    """Return the time as `meta.started` has it, in UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


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
    checkout = Path(__file__).resolve().parents[2]
    if not (checkout / "pyproject.toml").is_file():
        return None
    command = ["git", "--no-optional-locks", "-C", str(checkout), "describe", "--always", "--dirty=+", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
