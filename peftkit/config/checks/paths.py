"""Checks of the files and folders that a run names."""

import json
from collections.abc import Iterator
from pathlib import Path

from peftkit.config.checks.rules import messages_of
from peftkit.config.endings import FILES, TEXT_FILES, TEXTS
from peftkit.config.errors import UserError
from peftkit.config.files import ending_of, names_file, open_binary, reading
from peftkit.config.jobs import JOBS
from peftkit.config.run import RunConfig
from peftkit.config.source import checkpoint_folder
from peftkit.config.suggestions import nearest
from peftkit.paths import exists, is_file


def path_errors(run: RunConfig) -> Iterator[str]:
    """Yield a message for each path that is missing or of the wrong type; no file is read but result.json."""
    checkpoint, reads_data = run.model.checkpoint, JOBS[run.job].trains or run.job == "evaluate"
    yield from messages_of(
        (
            _is_path(checkpoint) and not Path(checkpoint).exists(),
            f"model.checkpoint={checkpoint}: no such folder{_tilde(checkpoint)}",
        ),
        (
            Path(checkpoint).is_file() and not checkpoint.lower().endswith(".gguf"),
            f"model.checkpoint={checkpoint} is a file; name the checkpoint's folder, or a .gguf file",
        ),
        *(
            (
                not _has_results(folder),
                f"results={folder} contains no result.json"
                + (_tilde(folder) or "; name a folder of runs, such as outputs, or an archive"),
            )
            for folder in (run.results if run.job == "leaderboard" and run.results else ())
        ),
    )
    if Path(checkpoint).is_dir():
        try:
            checkpoint_folder(Path(checkpoint))
        except UserError as error:
            yield str(error)
    yield from _run_folder_errors(run)
    yield from _input_errors(run)
    yield from _vocabulary_errors(run)
    if reads_data and run.data_root is None and not run.generates_data:
        yield from _dataset_errors(run)
    if run.data_root is not None and (reads_data or run.job == "submission") and not run.generates_data:
        yield from _data_root_errors(run, Path(run.data_root))


def run_folder_errors(key: str, folder: str) -> list[str]:
    """Return a message for a folder that is not the folder of a finished run."""
    file = Path(folder) / "result.json"
    if not file.is_file():
        return [
            f"{key}={folder} contains no result.json" + (_tilde(folder) or "; a run folder is outputs/.../seed-0-...")
        ]
    try:
        status = json.loads(file.read_text(encoding="utf-8"))["meta"]["status"]
    except (ValueError, KeyError, TypeError):
        return [f"{file} cannot be read as a result; name another run folder"]
    return [
        *messages_of(
            (
                status != "finished",
                f"{key}={folder} is {status}; finish it first: the command that started it resumes it",
            )
        )
    ]


def _has_results(path: str) -> bool:
    is_file = Path(path).is_file() and path.endswith(("result.json", ".parquet"))
    return is_file or next(Path(path).rglob("result.json"), None) is not None


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
    """Yield a message for a file that is missing or of a type that the job does not read; anything else is a text."""
    name, endings = run.input, {"predict": FILES, "embed": TEXT_FILES, "forgetting": (".txt", *FILES)}.get(run.job)
    if name is None or endings is None:
        return iter(())
    if names_file(name, endings):
        return _file_errors("input", name)
    # a word may have the name of a folder, or of a file without an ending
    is_path = names_file(name, (".txt", *FILES)) or (bool(Path(name).suffix) and is_file(name))
    return messages_of(
        (
            run.job == "forgetting",
            f"input={name} is not a file of texts; use input=FILE, one text per line (.txt), or a column text (.jsonl)",
        ),
        (
            run.job != "forgetting" and is_path,
            f"input={name}: expected a file that ends in {', '.join(endings)}, or a text: input='a fine film'",
        ),
    )


def _data_root_errors(run: RunConfig, root: Path) -> Iterator[str]:
    folders = [path.name for path in root.iterdir() if path.is_dir()] if root.is_dir() else []
    name = run.task.name
    return messages_of(
        (not root.is_dir(), f"data_root={run.data_root}: no such folder{_tilde(str(root))}"),
        (
            root.is_dir() and JOBS[run.job].trains and name not in folders,
            f"data_root={run.data_root} has no folder {name}/{nearest(name, folders, 'task=')}",
        ),
    )


def _dataset_errors(run: RunConfig) -> Iterator[str]:
    dataset = run.task.dataset
    if run.task.kind == "language_modeling":
        return _corpus_errors("task.dataset", dataset)
    if ending_of(Path(dataset)) in FILES or (_is_path(dataset) and not Path(dataset).is_file()):
        return _file_errors("task.dataset", dataset)
    if is_file(dataset):
        return _no_data_errors(Path(dataset))
    return messages_of(
        (
            run.source == "offline" and run.task.suite != "glue" and not Path(dataset).exists(),
            f"task.dataset={dataset} is not a file or folder, and source=offline does not read from the Hub",
        ),
    )


def _no_data_errors(file: Path) -> Iterator[str]:
    """Yield why a file is not read as data: an archive or a workbook states what to do."""
    try:
        with reading(file), open_binary(file):
            yield f"task.dataset={file}: expected a file that ends in {', '.join(FILES)}; convert it"
    except UserError as error:
        yield str(error)


def _vocabulary_errors(run: RunConfig) -> Iterator[str]:
    extend, vocab = run.extend, run.vocab
    if run.job == "extend":
        if extend.terms is None and extend.corpus is None:
            yield "job=extend needs terms; set extend.terms=FILE, one term per line, or extend.corpus=FILE_OR_FOLDER"
        yield from _file_errors("extend.terms", extend.terms)
        yield from _corpus_errors("extend.corpus", extend.corpus or "")
    elif vocab is not None and run.job in ("finetune", "plan", "embed"):  # else refused by the job's record
        yield from messages_of(
            (
                not (Path(vocab) / "vocabulary.json").is_file(),
                f"vocab={vocab} contains no vocabulary.json"
                + (_tilde(vocab) or "; name a folder written by job=extend, such as outputs/extend/..."),
            ),
            (
                run.job == "embed" and run.run is not None,
                "a run folder includes its vocabulary; drop vocab=, or run=",
            ),
            (
                run.job != "embed" and not run.method.traits.new_tokens,
                f"method={run.method.name} cannot train the embedding rows of vocab=; use method=lora, adapter or full",
            ),
        )


def _corpus_errors(key: str, name: str) -> Iterator[str]:
    path = Path(name)
    if path.is_file() and ending_of(path) not in TEXTS:
        yield f"{key}={name}: expected a file that ends in {', '.join(TEXTS)}"
    elif ending_of(path) in (*FILES, *TEXTS) or _is_path(name):
        yield from _file_errors(key, name)


def _file_errors(key: str, name: str | None) -> Iterator[str]:
    if name is None or exists(name):
        return
    folder = Path(name).parent
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    hint = nearest(Path(name).name, names, f"{key}={'' if folder == Path() else f'{folder}/'}") if names else ""
    yield f"{key}={name}: no such file{_tilde(name) or (hint if 'did you mean' in hint else '')}"


def _is_path(name: str) -> bool:
    return name.startswith(("/", "./", "../", "~"))


def _tilde(path: str) -> str:
    return "; write $HOME for ~, which the shell does not expand after =" if path.startswith("~") else ""
