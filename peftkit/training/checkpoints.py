"""Checkpoints of training that are whole or not there: written aside, then named, with the hashes of their files."""

import json
import shutil
from pathlib import Path

from transformers import TrainerState
from transformers.trainer_utils import sort_checkpoints

from peftkit.compat.trainer import ASIDE
from peftkit.config.console import log
from peftkit.config.shipped_files import file_difference
from peftkit.paths import sha256_of, sync

MANIFEST = "manifest.json"  # of a checkpoint: the size and the SHA-256 of each other file
STATE = "trainer_state.json"  # transformers' file


def place(written: Path, target: Path) -> None:
    """Give a checkpoint its manifest, and then its name; all of it is on the disk before, so that no crash tears it."""
    write_manifest(written)
    remove(target)
    written.rename(target)
    sync(target.parent)


def write_manifest(checkpoint: Path) -> None:
    """Write the manifest of a checkpoint, and all of its files, to the disk."""
    files = {
        name: {"bytes": path.stat().st_size, "sha256": sha256_of(path)} for name, path in _files(checkpoint).items()
    }
    (checkpoint / MANIFEST).write_text(json.dumps(files, indent=1), encoding="utf-8")
    for path in [*checkpoint.rglob("*"), checkpoint]:
        sync(path)


def remove(checkpoint: Path) -> None:
    """Remove a checkpoint, if it exists; a crash leaves all of it under its name, or nothing."""
    if checkpoint.exists():
        removed = checkpoint.parent / ASIDE / f"removed-{checkpoint.name}"
        removed.parent.mkdir(exist_ok=True)
        shutil.rmtree(removed, ignore_errors=True)
        checkpoint.rename(removed)
        shutil.rmtree(removed, ignore_errors=True)


def rotate(folder: Path, limit: int | None, best: str | None) -> None:
    """Remove the oldest checkpoints but so many (None: keep all), never the newest or the best."""
    ordered = sort_checkpoints(str(folder), best_model_checkpoint=best)  # the best is the last but one
    if limit is not None and limit > 0:
        for checkpoint in ordered[: -max(limit, 1 if best in (None, ordered[-1]) else 2)]:
            remove(Path(checkpoint))


def newest_whole(folder: Path, processes: int, needs_best: bool) -> Path | None:
    """Return the newest whole checkpoint of a folder, if any; newer ones are removed, and the log states why.

    Args:
        processes: that train.
        needs_best: training ends with the best checkpoint, which must be whole, too.
    """
    shutil.rmtree(folder / ASIDE, ignore_errors=True)
    dropped, whole = [], None
    for checkpoint in map(Path, reversed(sort_checkpoints(str(folder)))):
        wrong = damage(checkpoint, processes)
        best = load_state(checkpoint).best_model_checkpoint if wrong is None and needs_best else None
        if best is not None and best != str(checkpoint) and (wrong := damage(Path(best), processes)) is not None:
            wrong = f"its best epoch, {Path(best).name}: {wrong}"
        if wrong is None:
            whole = checkpoint
            break
        dropped.append(f"{checkpoint.name} is damaged ({wrong})")
        remove(checkpoint)
    if dropped:
        continues = "starts again" if whole is None else f"continues from {whole.name}"
        log(f"!! {folder}: {', '.join(dropped)}; training {continues}")
    return whole


def load_state(checkpoint: Path) -> TrainerState:
    """Return upstream's state of a checkpoint; its folder may have been moved, and with it the best checkpoint."""
    state = TrainerState.load_from_json(str(checkpoint / STATE))
    if state.best_model_checkpoint is not None:
        state.best_model_checkpoint = str(checkpoint.parent / Path(state.best_model_checkpoint).name)
    return state


def damage(checkpoint: Path, processes: int) -> str | None:
    """Return what is wrong with a checkpoint of so many processes, None if it is whole."""
    if not checkpoint.is_dir():
        return "it is missing"
    generators = [f"rng_state_{rank}.pth" for rank in range(processes)] if processes > 1 else ["rng_state.pth"]
    try:
        recorded = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))
        entries = {**dict.fromkeys((STATE, *generators)), **recorded}
    except FileNotFoundError:
        return f"no {MANIFEST}, as those of earlier versions"
    except OSError as error:
        return f"it cannot be read: {error.strerror}"
    except (TypeError, ValueError):
        return f"{MANIFEST} cannot be read"
    for name, entry in entries.items():
        if (wrong := file_difference(checkpoint / name, entry)) is not None:
            return f"{name} {wrong}"
    return next((f"{name} is not in {MANIFEST}" for name in _files(checkpoint) if name not in recorded), None)


def _files(checkpoint: Path) -> dict[str, Path]:
    """Return the files of a checkpoint except its manifest by their relative paths."""
    paths = {path.relative_to(checkpoint).as_posix(): path for path in sorted(checkpoint.rglob("*"))}
    return {name: path for name, path in paths.items() if name != MANIFEST and not path.is_dir()}
