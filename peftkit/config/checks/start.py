"""Checks of the run or adapter that a run starts from (`start=`), before anything loads."""

from collections.abc import Iterator
from pathlib import Path

from peftkit.config.checks.rules import messages_of
from peftkit.config.checks.run_folders import recorded_config, run_folder_errors
from peftkit.config.errors import Refusal, UserError, refusal
from peftkit.config.jobs import JOBS
from peftkit.config.json_files import safetensors_error
from peftkit.config.run import RunConfig
from peftkit.config.source import ADAPTER_FILE
from peftkit.config.start import adapter_settings, is_hub_id, start_folder
from peftkit.paths import is_file, is_folder

WEIGHTS_FILE, PICKLED_FILE = "adapter_model.safetensors", "adapter_model.bin"  # of PEFT


def start_errors(run: RunConfig) -> Iterator[str]:
    """Yield a message for a start that cannot be read, and for settings that cannot start from one."""
    if not JOBS[run.job].trains or (run.start is None and run.job != "continual"):
        return
    method, other = run.method, "~start" if run.start is not None else "method=lora"
    merged = "" if run.start is None else f"; or job=merge run={run.start}, and model.checkpoint={run.start}/merged"
    compared = any(task.kind == "preferences" for task in run.tasks or [run.task])
    for is_wrong, message in (
        (not method.traits.trains, refusal(f"method={method.name} trains nothing, also from another run", other)),
        (method.traits.scheduled, refusal(f"method={method.name} has a schedule of ranks for one training", other)),
        (compared, refusal("preferences have the base as their reference, not another run", other)),
    ):
        if is_wrong:
            yield Refusal(f"{message}{merged}", other)
    for name in run.search.config or ():
        key = f"search.config.{name}"
        yield refusal(f"{key} tries what the start has fixed", f"~{key}")
    if run.start is not None and not is_hub_id(run.start):
        yield from _folder_errors(run.start, Path(run.start))


def _folder_errors(start: str, folder: Path) -> Iterator[str]:
    found = start_folder(folder)
    if found is None and not is_file(folder / "result.json"):
        is_checkpoint = is_file(folder / "config.json")
        wrong = f"start={start} is a checkpoint" if is_checkpoint else f"start={start} is no run and no adapter"
        if not is_folder(folder):
            wrong = f"start={start}: no such folder"
        fix = [f"model.checkpoint={start} ~start"] if is_checkpoint else ["start=outputs/.../seed-0-..."]
        yield refusal(wrong, *fix)
        return
    if found is None or found.run is not None:
        run = folder if found is None or found.run is None else found.run
        yield from run_folder_errors("start", run, loads=True)
        yield from _method_errors(run)
        return
    yield from foreign_adapter_errors(found.weights)


def foreign_adapter_errors(folder: Path) -> Iterator[str]:
    """Yield a message for an adapter of another program that cannot be read, or could run code."""
    try:
        adapter_settings(folder)
    except UserError as error:
        yield error.message
        return
    weights = folder / WEIGHTS_FILE
    if not is_file(weights) and is_file(folder / PICKLED_FILE):
        yield (
            f"{folder / PICKLED_FILE} is refused: pickled weights can contain code; if you trust it, load it in "
            "PEFT and save it again, which writes safetensors"
        )
    elif (reason := safetensors_error(weights)) is not None:
        yield f"{weights} cannot be read: {reason}; use another adapter with {ADAPTER_FILE} and {WEIGHTS_FILE}"


def _method_errors(folder: Path) -> Iterator[str]:
    """Yield a message for a run whose weights cannot be trained further; unfinished runs have a message already."""
    try:
        config = recorded_config(folder)
    except UserError:
        return iter(())
    if config is None:
        return iter([refusal(f"start={folder} is a vocabulary, not a run", f"~start vocab={folder}")])
    return messages_of(
        (
            config.trial,
            f"start={folder} is a trial, which keeps no model; name a run",
        ),
        (
            config.prune.heads is not None,
            refusal(f"start={folder} has fewer attention heads than its base", f"model.checkpoint={folder} ~start"),
        ),
        (
            config.method.traits.estimator,
            refusal(f"start={folder} is of method={config.method.name}, which is fitted at once", "~start"),
        ),
        (
            not config.trial and not config.method.traits.trains,
            refusal(f"start={folder} is of method={config.method.name}, which trained no weights", "~start"),
        ),
    )
