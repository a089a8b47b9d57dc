"""Checks of run folders before anything loads: they may be unfinished, damaged, or by somebody else."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from peftkit.config.checks.values import value_errors
from peftkit.config.errors import UserError, refusal
from peftkit.config.json_files import read_json, safetensors_error
from peftkit.config.kinds import kind_of
from peftkit.config.later_keys import with_later_keys
from peftkit.config.record_schema import check_record, check_size
from peftkit.config.run import RunConfig, is_prompted
from peftkit.config.shipped_files import WEIGHTS, damaged_file, recorded_files
from peftkit.paths import exists, is_file, is_folder, safe_name, walk

AGAIN = "train the run again with force=true, or name another run folder"


def run_folder_errors(key: str, folder: Path, loads: bool) -> Iterator[str]:
    """Yield a message for a folder that is not the folder of a finished run.

    Args:
        key: the key that names it.
        loads: whether its weights are loaded, so that they are checked too.
    """
    if not is_file(folder / "result.json"):
        tilde = "write $HOME for ~, which the shell does not expand after =" if str(folder).startswith("~") else ""
        yield f"{key}={folder} contains no result.json; {tilde or 'a run folder is outputs/.../seed-0-...'}"
        return
    try:
        config = recorded_config(folder)
    except UserError as error:
        yield error.message
        return
    if loads and (irregular := _irregular_file(folder)) is not None:
        yield f"{irregular} cannot be read: not a regular file; {AGAIN}"
    elif loads and config is not None and config.is_multitask:
        folders = [f"{key}={folder / safe_name(task.name)}" for task in config.tasks or ()]
        yield refusal(f"{folder} is a run of several tasks, each of which has a folder there", *folders)
    elif loads and config is not None and (config.task.folds is not None or config.domains.leaves_each_out):
        key = "task.folds" if config.task.folds is not None else "domains.leave_out"
        yield (
            f"{folder} is a cross-validation, which keeps no model; train one on all examples: the same command "
            f"without {key}"
        )
    elif loads and config is not None:
        found = list(_artifact_errors(folder, config))
        if not found and (wrong := damaged_file(folder, recorded_files(folder), WEIGHTS)) is not None:
            found = [f"{wrong}; {AGAIN}"]
        yield from found


def recorded_config(folder: Path) -> RunConfig | None:
    """Return the config of a finished run; None for a vocabulary of job=extend.

    Raises:
        UserError: result.json is damaged, of another version, or of an unfinished run.
    """
    file = folder / "result.json"
    record = read_json(file, AGAIN)
    try:
        if not isinstance(record, dict):
            raise ValueError("expected an object")
        check_size(record)
        status, is_vocabulary = record["meta"]["status"], is_file(folder / "vocabulary.json")
        if status == "finished" and not is_vocabulary:
            check_record(record)
    except (ValueError, KeyError, TypeError) as error:
        missing = " is missing" if isinstance(error, KeyError) else ""
        raise UserError(f"{file} cannot be read as a result: {error}{missing}; name another run folder") from error
    if status != "finished":
        raise UserError(f"{folder} is {status}; finish it first: the command that started it resumes it")
    if is_vocabulary:
        return None
    config = RunConfig.from_config(record["run"]["config"])
    if found := [message for _, message in value_errors(with_later_keys(record["run"]["config"]))]:
        raise UserError(f"{file}: {found[0]}; {AGAIN}")
    return config


def readable_config(folder: str | Path | None) -> RunConfig | None:
    """Return the config of a finished run; None where there is none, for which `run_folder_errors` has a message."""
    try:
        return None if folder is None else recorded_config(Path(folder))
    except UserError:
        return None


def _irregular_file(folder: Path) -> Path | None:
    """Return an entry of a folder, at any depth, that is neither file nor folder: reading a pipe may never end."""
    entries = (inner / name for inner, names, _ in walk(folder) for name in names)
    return next((path for path in entries if exists(path) and not is_file(path) and not is_folder(path)), None)


def _artifact_errors(folder: Path, config: RunConfig) -> Iterator[str]:
    """Yield a message for each file of the trained weights that is missing or damaged."""
    try:
        if is_prompted(config):
            _check_prompt(folder / "prompt" / "prompt.json")
            return
        name = "model" if is_folder(folder / "model") else "adapter"
        has_tokenizer = name == "model" or config.vocab is not None or kind_of(config.task).chat_template
        needed = ["config.json" if name == "model" else "adapter_config.json"]
        needed += ["tokenizer_config.json"] if has_tokenizer else []
        for file in needed:
            if not isinstance(read_json(folder / name / file, AGAIN), dict):
                yield f"{folder / name / file} cannot be read: expected an object; {AGAIN}"
        for path in sorted((folder / name).glob("*.json")):
            read_json(path, AGAIN)
        weights = [path for path in sorted((folder / name).iterdir()) if path.suffix == ".safetensors"]
    except UserError as error:
        yield error.message
        return
    if not weights:
        yield f"{folder / name} contains no weights in .safetensors files; {AGAIN}"
    for path in weights:
        if (reason := safetensors_error(path)) is not None:
            yield f"{path} cannot be read: {reason}; {AGAIN}"


def _check_prompt(file: Path) -> None:
    prompt: Any = read_json(file, AGAIN)
    shots = prompt.get("shots") if isinstance(prompt, dict) else None
    if not isinstance(shots, list) or not all(isinstance(shot, str) for shot in shots):
        raise UserError(f"{file} cannot be read: expected a list of texts in shots; {AGAIN}")
