"""Write a run's model for other programs; it must answer as the run does."""

import json
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from peftkit.config import RunConfig, UserError, error_summary
from peftkit.config.console import log
from peftkit.config.export_formats import EXPORT_FORMATS
from peftkit.config.secrets import without_secrets
from peftkit.config.sections import EXPORT_RECORD
from peftkit.paths import replaced_folder
from peftkit.pipeline.exports.base import Exported, answers, check_agreement, compare, latency_of, open_run, reading
from peftkit.results import run_folder
from peftkit.results.locks import locked_file


def export(config: RunConfig) -> Path:
    """Export a finished run, compare the export with it on some examples, and return the new folder.

    `export-<format>.json` in the run folder records what was compared, or why it failed.

    Raises:
        UserError: the format has no such model; nothing is written.
        ExportError: the export gives other answers than the run; it is deleted, and an earlier one remains.
    """
    name, folder = str(config.format), Path(str(config.run))
    target, file = Path(config.output or folder / f"export-{name}"), folder / f"export-{name}.json"
    with locked_file(file), locked_file(target):
        record: dict[str, Any] = {"format": name, "folder": str(target), "status": "running", "reason": None}
        record |= {"started": run_folder.now(), "settings": asdict(config.export)}
        try:
            with replaced_folder(target) as new:
                record |= _exported(config, new) | {"status": "finished"}
                run_folder.write_text(new / EXPORT_RECORD, _as_json(record))
        except (UserError, KeyboardInterrupt):
            raise
        except Exception as error:
            record |= {"status": "failed", "reason": without_secrets(error_summary(error))}
            run_folder.write_text(file, _as_json(record))
            raise
        run_folder.write_text(file, _as_json(record))
    log(f"-> {target}")
    return target


def _exported(config: RunConfig, new: Path) -> dict[str, Any]:
    """Write an export into a new folder, and return its record.

    Raises:
        ExportError: it gives other answers than the run.
    """
    chosen = EXPORT_FORMATS[str(config.format)]
    module, _, function = chosen.entry.partition(":")
    source = open_run(config)
    trained = Exported(source.bundle.model)
    before, latency = answers(source, trained, chosen.generates), {"run": latency_of(source, trained)}
    written = getattr(import_module(module), function)(source, new)
    with reading():
        found = compare(source, before, answers(source, written, chosen.generates))
        check_agreement(found, written.tolerance)
        if written.check is not None:
            written.check(before)
    record = {
        "split": source.split,
        **asdict(found),
        "tolerance": written.tolerance,
        "details": written.details,
        "bytes": {"run": source.run.costs["adapter_bytes"], "export": _bytes(new)},
        "latency_ms": latency | {"export": latency_of(source, written)},
        "threads": torch.get_num_threads(),
    }
    _log(record)
    return record


def _log(record: dict[str, Any]) -> None:
    size, speed = record["bytes"], record["latency_ms"]
    same = record["same_predictions"] if record["same_text"] is None else record["same_text"]
    what = "predictions" if record["same_text"] is None else "texts"
    shares = "" if same is None else f", {same:.1%} of {what} are the same"
    log(
        f"   {record['examples']} examples of {record['split']}: {record['compared']} differ by "
        f"{record['max_difference']:.2g} at most{shares}"
    )
    log(
        f"   {size['export'] / 1e6:.1f} MB, the run {size['run'] / 1e6:.1f} MB; "
        f"{speed['export']:.3g} ms for an example, the run {speed['run']:.3g} ms"
    )


def _bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _as_json(record: dict[str, Any]) -> str:
    return json.dumps(record, indent=1) + "\n"
