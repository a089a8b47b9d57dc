"""Checks of the files and folders that a run names."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from peftkit.config.endings import FILES, TEXT_FILES, TEXTS
from peftkit.config.jobs import JOBS
from peftkit.config.run import RunConfig
from peftkit.config.suggestions import nearest


def path_errors(run: RunConfig) -> Iterator[str]:
    """Yield a message for each path that is missing or of the wrong kind; no file is read but result.json."""
    yield from _run_folder_errors(run)
    yield from _input_errors(run)
    if _is_path(run.model.checkpoint) and not Path(run.model.checkpoint).is_dir():
        yield _no_folder("model.checkpoint", run.model.checkpoint)
    for folder in run.results or [] if run.job == "leaderboard" else []:
        is_file = Path(folder).is_file() and folder.endswith(("result.json", ".parquet"))
        if not is_file and next(Path(folder).rglob("result.json"), None) is None:
            hint = _tilde(folder) or "; name a folder of runs, as outputs, or an archive"
            yield f"results={folder} contains no result.json{hint}"
    if JOBS[run.job].trains or run.job in ("evaluate", "submission"):
        yield from _data_root_errors(run)
    if (JOBS[run.job].trains or run.job == "evaluate") and run.data_root is None and not run.generates_data:
        yield from _dataset_errors(run)
    yield from _vocabulary_errors(run)


def run_folder_errors(key: str, folder: str) -> Iterator[str]:
    """Yield a message for a folder that is not the folder of a finished run."""
    file = Path(folder) / "result.json"
    if not file.is_file():
        yield f"{key}={folder} contains no result.json{_tilde(folder) or '; a run folder is outputs/.../seed-0-...'}"
        return
    try:
        status = json.loads(file.read_text(encoding="utf-8"))["meta"]["status"]
    except (ValueError, KeyError, TypeError):
        yield f"{file} cannot be read as a result; name another run folder"
        return
    if status != "finished":
        yield f"{key}={folder} is {status}; finish it first: the command that started it resumes it"


def _run_folder_errors(run: RunConfig) -> Iterator[str]:
    job = JOBS[run.job]
    if run.distill.teacher is not None and job.trains:
        yield from run_folder_errors("distill.teacher", run.distill.teacher)
    if job.run == job.runs == "no":
        return
    key, folders = ("run", [run.run]) if run.run is not None else ("runs", run.runs or [])
    for folder in folders:
        yield from run_folder_errors(key, folder)
        if job.name not in ("merge", "embed") and (Path(folder) / "vocabulary.json").is_file():
            yield f"run={folder} is a vocabulary, not a run; set vocab={folder} to train with it"


def _input_errors(run: RunConfig) -> Iterator[str]:
    """Yield a message for a file that is missing or of a kind that the job does not read; anything else is a text."""
    name, endings = run.input, {"predict": FILES, "embed": TEXT_FILES, "forgetting": (".txt", *FILES)}.get(run.job)
    if name is None or endings is None:
        return
    if Path(name).suffix in endings:
        yield from _file_errors("input", name)
    elif run.job == "forgetting":
        yield f"input={name} is not a file of texts; use input=FILE, a text per line (.txt), or a column text (.jsonl)"
    elif Path(name).suffix in (".txt", *FILES) or (len(name) < 256 and Path(name).exists()):
        yield f"input={name}: expected a file that ends in {', '.join(endings)}, or a text: input='a fine film'"


def _data_root_errors(run: RunConfig) -> Iterator[str]:
    if run.data_root is None or run.generates_data:
        return
    root = Path(run.data_root)
    if not root.is_dir():
        yield _no_folder("data_root", run.data_root)
    elif JOBS[run.job].trains and not (root / run.task.name).is_dir():
        folders = [path.name for path in root.iterdir() if path.is_dir()]
        yield f"data_root={run.data_root} has no folder {run.task.name}/{nearest(run.task.name, folders, 'task=')}"


def _dataset_errors(run: RunConfig) -> Iterator[str]:
    dataset = run.task.dataset
    if run.task.kind == "language_modeling":
        yield from _corpus_errors("task.dataset", dataset)
    elif dataset.endswith(FILES) or _is_path(dataset):
        yield from _file_errors("task.dataset", dataset)
    elif run.source == "offline" and run.task.suite != "glue" and not Path(dataset).exists():
        yield f"task.dataset={dataset} is not a file or folder, and source=offline reads none from the Hub"


def _vocabulary_errors(run: RunConfig) -> Iterator[str]:
    extend, vocab = run.extend, run.vocab
    if run.job == "extend":
        if extend.terms is None and extend.corpus is None:
            yield "job=extend needs terms; set extend.terms=FILE, a term per line, or extend.corpus=FILE_OR_FOLDER"
        if extend.terms is not None:
            yield from _file_errors("extend.terms", extend.terms)
        if extend.corpus is not None:
            yield from _corpus_errors("extend.corpus", extend.corpus)
    if vocab is None or run.job not in ("finetune", "plan", "embed"):  # refused by the job's record
        return
    if not (Path(vocab) / "vocabulary.json").is_file():
        hint = _tilde(vocab) or "; name a folder written by job=extend, as outputs/extend/..."
        yield f"vocab={vocab} contains no vocabulary.json{hint}"
    if run.job == "embed" and run.run is not None:
        yield "a run folder includes its vocabulary; drop vocab=, or run="
    if run.job != "embed" and not run.method.traits.new_tokens:
        yield f"method={run.method.name} cannot train the embedding rows of vocab=; use method=lora, adapter or full"


def _corpus_errors(key: str, name: str) -> Iterator[str]:
    path = Path(name)
    if path.is_file() and path.suffix not in TEXTS:
        yield f"{key}={name}: expected a file that ends in {', '.join(TEXTS)}"
    elif path.suffix in (*FILES, *TEXTS) or _is_path(name):
        yield from _file_errors(key, name)


def _file_errors(key: str, name: str) -> Iterator[str]:
    if Path(name).exists():
        return
    folder = Path(name).parent
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    hint = nearest(Path(name).name, names, f"{key}={'' if folder == Path() else f'{folder}/'}") if names else ""
    yield f"{key}={name}: no such file{_tilde(name) or (hint if 'did you mean' in hint else '')}"


def _is_path(name: str) -> bool:
    return name.startswith(("/", "./", "../", "~"))


def _no_folder(key: str, name: str) -> str:
    return f"{key}={name}: no such folder{_tilde(name)}"


def _tilde(path: str) -> str:
    return "; write $HOME for ~, which the shell does not expand after =" if path.startswith("~") else ""
