"""What a run publishes: a folder with the files of its repository, without anything of its data or its machine."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import Any

from peftkit.config import UserError, refusal
from peftkit.config.sections import Push
from peftkit.config.shipped_files import WEIGHTS
from peftkit.config.source import ADAPTER_FILE, Source
from peftkit.models.custom_code import CODE
from peftkit.paths import sha256_of
from peftkit.pipeline.artifacts import load_bundle
from peftkit.pipeline.export import describe_artifact
from peftkit.pipeline.merged import write_merged
from peftkit.results import run_folder
from peftkit.results.loading_code import BASE
from peftkit.results.model_card import model_card
from peftkit.results.public import check_public, public_result
from peftkit.results.run_result import RunResult

RECORD = "peftkit.json"  # which run is in a repository, with the hashes of its files
ENDINGS = (".safetensors", ".json", ".jinja", ".txt", ".model", f"/{CODE}.py")  # of weights, settings and tokenizers
LOCAL_SETTINGS = ("is_local", "local_files_only", "_name_or_path", "name_or_path")  # of this machine


@dataclass(frozen=True)
class Base:
    """The checkpoint of the Hub on which an adapter loads."""

    name: str
    revision: str | None
    weights: tuple[Path, ...] = ()  # files that the run read, if they must be compared with those of the Hub


def hub_base(run: RunResult, push: Push) -> Base | None:
    """Return the base on the Hub of what a run publishes, None for a whole model.

    Raises:
        UserError: the base is a folder of this machine or an offline model, which nobody else has, or its weights
            cannot be compared with those of the Hub.
    """
    source, whole = run.source, (run.folder / "model").is_dir() or push.what == "merged"
    if source.kind in ("hub", "cache"):
        return None if whole else Base(source.name, source.revision)
    weights = tuple(sorted(Path(source.name).glob("model*.safetensors"))) if source.kind == "folder" else ()
    if source.kind == "folder" and push.base_model is not None:
        if weights:
            return Base(push.base_model, None, weights)
        wrong = f"push.base_model={push.base_model}: {source.name} has no safetensors files to compare with it"
        if whole:
            raise UserError(refusal(wrong, "~push.base_model"))
        if run.config.method.traits.mergeable:
            raise UserError(refusal(wrong, "push.what=merged ~push.base_model"))
        raise UserError(f"{wrong}; train the run on a checkpoint of the Hub")
    if whole:
        return None
    if source.kind == "offline" and source.substituted_for is None:  # the checkpoint itself, from a package
        return Base(run.config.model.checkpoint, None)
    fixes = ["push.what=merged"] if run.config.method.traits.mergeable else []
    fixes += ["push.base_model=HUB_ID"] if weights else []
    wrong = f"{run.folder}: its base is {_base_name(run)} of this machine, which others lack"
    raise UserError(refusal(wrong, *fixes) if fixes else f"{wrong}; train the run on a checkpoint of the Hub")


def write_release(run: RunResult, push: Push, repo: str, base: Base | None, folder: Path) -> None:
    """Write the files of a repository: the adapter or the model, the card, and the record of what they are.

    Args:
        base: of `hub_base`.

    Raises:
        UserError: a file is not the one that was trained, or it has a path of this machine or a secret.
    """
    is_whole = (run.folder / "model").is_dir()
    what = "merged" if is_whole else push.what or "adapter"
    run.check_files(*WEIGHTS)
    if not run.record.get("files"):
        wrong = f"{run.folder}: its result has no hashes of its files, so that a change would go unnoticed"
        raise UserError(f"{wrong}; train the run again")
    is_calibrated = what != "adapter" and write_merged(run, load_bundle(run, quantized=False), folder, standalone=True)
    if what != "merged":
        _copy_adapter(run, folder / "adapter" if what == "both" else folder)
    name = "adapter" if what == "adapter" else "model" if is_whole else "merged"
    artifact = describe_artifact(folder, name, repo, None if base is None else Source("hub", base.name, base.revision))
    note = f"`adapter/` has the adapter alone{', whose logits are not calibrated' if is_calibrated else ''}."
    described = replace(artifact, is_calibrated=is_calibrated)
    card = model_card(_public_result(run.record, base), described, note if what == "both" else "")
    run_folder.write_text(folder / "README.md", card)
    for file in sorted(folder.rglob("*.json")):
        _mend_settings(file, base)
    files = {file.relative_to(folder).as_posix(): file for file in sorted(folder.rglob("*")) if file.is_file()}
    record = {
        "run": run.folder.name, "task": run.config.task.name, "model": _base_name(run) if base is None else base.name,
        "method": run.config.method.name, "what": what, "peftkit": version("peftkit"),
        "files": {name: sha256_of(file) for name, file in files.items()},
    }  # fmt: skip
    run_folder.write_text(folder / RECORD, json.dumps(record, indent=1) + "\n")
    for name, file in {**files, RECORD: folder / RECORD}.items():
        if file.suffix != ".safetensors":
            check_public(name, file.read_bytes().decode("utf-8", errors="replace"), run)  # .model files are no texts


def left_behind(run: RunResult, what: str | None) -> dict[str, int]:
    """Return the bytes of each file of a run folder that is not published, by its path there."""
    parts = {"merged": ("model",)}.get(str(what), ("adapter", "model"))
    files = [file for file in sorted(run.folder.rglob("*")) if file.is_file()]
    named = {file.relative_to(run.folder).as_posix(): file.stat().st_size for file in files}
    return {name: size for name, size in named.items() if not any(_goes(run, name, part) for part in parts)}


def _goes(run: RunResult, name: str, part: str) -> bool:
    is_base = name.startswith(f"adapter/{BASE}/") and name.endswith(".safetensors")  # which is on the Hub already
    is_part = name in (run.record.get("files") or {}) and name.startswith(f"{part}/") and name.endswith(ENDINGS)
    return is_part and not is_base


def _copy_adapter(run: RunResult, folder: Path) -> None:
    """Copy the files of the run's adapter/ that its result records; anything else there stays."""
    for name in (name for name in run.record["files"] if _goes(run, name, "adapter")):
        target = folder / PurePosixPath(name).relative_to("adapter")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(run.folder / name, target)


def _mend_settings(file: Path, base: Base | None) -> None:
    """Remove what only this machine has from a file of settings, and name the base of an adapter."""
    if file.name not in (ADAPTER_FILE, "config.json", "tokenizer_config.json"):
        return
    settings: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    kept = {name: each for name, each in settings.items() if name not in LOCAL_SETTINGS}
    if file.name == ADAPTER_FILE and base is not None:
        kept |= {"base_model_name_or_path": base.name, "revision": base.revision}
    if kept != settings:
        run_folder.write_text(file, json.dumps(kept, indent=2, ensure_ascii=False) + "\n")


def _public_result(result: Mapping[str, Any], base: Base | None) -> dict[str, Any]:
    """Return a result for the card: the base by its Hub id, and of each path of this machine its last name."""
    found = public_result(result)
    if base is not None:
        source = {"kind": "hub", "name": base.name, "revision": base.revision or "main", "substituted_for": None}
        found["audit"]["sources"]["model"] |= source
    return found


def _base_name(run: RunResult) -> str:
    return run_folder.checkpoint_name(vars(run.source))
