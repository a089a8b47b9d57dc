"""Checks of the files and folders that a run names."""

import os
from collections.abc import Iterator
from pathlib import Path

from peftkit.config.checks.rules import messages_of
from peftkit.config.checks.run_folders import run_folder_errors
from peftkit.config.checks.start import foreign_adapter_errors
from peftkit.config.endings import FILES, TEXT_FILES, TEXTS
from peftkit.config.errors import Refusal, UserError, refusal
from peftkit.config.files import ending_of, names_file, open_binary, reading
from peftkit.config.jobs import JOBS
from peftkit.config.quoting import typed
from peftkit.config.run import RunConfig
from peftkit.config.source import PICKLED, checkpoint_folder, pickled_weights
from peftkit.config.start import is_foreign_adapter, is_hub_id
from peftkit.config.suggestions import nearest, with_hint
from peftkit.paths import dataset_path, exists, is_file, is_folder, is_link, names_in, walk

MAX_NAME_BYTES, MAX_PATH_BYTES = 255, 3000  # of most file systems; the names of runs are added to `out`


def path_errors(run: RunConfig) -> Iterator[str]:
    """Yield a message for each path that is missing or of the wrong type; no file is read but result.json."""
    checkpoint, reads_data = run.model.checkpoint, JOBS[run.job].trains or run.job in ("evaluate", "ood")
    yield from messages_of(
        (
            _is_path(checkpoint) and not exists(checkpoint),
            f"model.checkpoint={checkpoint}: no such folder{_tilde(checkpoint)}",
        ),
        (
            is_file(checkpoint) and not checkpoint.lower().endswith((".gguf", *PICKLED)),
            f"model.checkpoint={checkpoint} is a file; name the checkpoint's folder, or a .gguf or .bin file",
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
    if is_folder(checkpoint):
        try:
            if (file := pickled_weights(checkpoint_folder(Path(checkpoint)))) is not None:
                fix = typed("model.checkpoint", str(file))
                wrong = f"model.checkpoint={checkpoint} has pickled weights only, which can contain code"
                yield Refusal(f"{wrong}; type {fix} if you trust it", fix)
        except UserError as error:
            yield error.message
    if run.job != "plan":
        yield from _place_errors("out", run.out)
    if run.output is not None and JOBS[run.job].writes is not None:
        writes_folder = JOBS[run.job].writes == "folder" or not Path(run.output).suffix
        yield from _place_errors("output", run.output if writes_folder else str(Path(run.output).parent))
    yield from _run_folder_errors(run)
    yield from _input_errors(run)
    yield from _vocabulary_errors(run)
    if reads_data and run.data_root is None and not run.generates_data:
        yield from _dataset_errors(run)
    if run.data_root is not None and (reads_data or run.job == "submission") and not run.generates_data:
        yield from _data_root_errors(run, Path(run.data_root))


def _has_results(path: str) -> bool:
    is_result = is_file(path) and path.endswith(("result.json", ".parquet"))
    return is_result or any("result.json" in names for _, names, _ in walk(Path(path)))


def _run_folder_errors(run: RunConfig) -> Iterator[str]:
    job = JOBS[run.job]
    if run.distill.teacher is not None and job.trains:
        yield from run_folder_errors("distill.teacher", Path(run.distill.teacher), loads=True)
    if job.run == job.runs == "no":
        return
    key, folders = ("run", [run.run]) if run.run is not None else ("runs", run.runs or [])
    for folder in folders:
        if job.name == "combine" and is_foreign_adapter(folder, run.out):
            yield from () if is_hub_id(folder) else foreign_adapter_errors(Path(folder))
            continue
        yield from run_folder_errors(key, Path(folder), loads=job.loads_model and job.name != "judge")
        if job.name not in ("merge", "embed") and is_file(Path(folder) / "vocabulary.json"):
            yield refusal(f"run={folder} is a vocabulary, not a run", f"~run ~job vocab={folder}")


def _input_errors(run: RunConfig) -> Iterator[str]:
    """Yield a message for a file that is missing or of a type that the job does not read; anything else is a text."""
    reads_texts = run.job in ("forgetting", "combine")
    name, endings = run.input, (".txt", *FILES) if reads_texts else {"predict": FILES, "embed": TEXT_FILES}.get(run.job)
    if name is None or endings is None:
        return iter(())
    if names_file(name, endings):
        return _file_errors("input", name)
    # a word may have the name of a folder, or of a file without an ending
    is_path = names_file(name, (".txt", *FILES)) or (bool(Path(name).suffix) and is_file(name))
    return messages_of(
        (
            reads_texts,
            f"input={name} is not a file of texts; use input=FILE, one text per line (.txt), or a column text (.jsonl)",
        ),
        (
            not reads_texts and is_path,
            f"input={name}: expected a file that ends in {', '.join(endings)}, or a text: input='a fine film'",
        ),
    )


def _data_root_errors(run: RunConfig, root: Path) -> Iterator[str]:
    folders = [name for name in names_in(root) if is_folder(root / name)]
    name = run.task.name
    return messages_of(
        (not is_folder(root), f"data_root={run.data_root}: no such folder{_tilde(str(root))}"),
        (
            is_folder(root) and JOBS[run.job].trains and name not in folders,
            with_hint(f"data_root={run.data_root} has no folder {name}/", nearest(name, folders, "task=")),
        ),
    )


def _dataset_errors(run: RunConfig) -> Iterator[str]:
    dataset = str(dataset_path(run.task.dataset))
    if run.task.kind == "language_modeling":
        return _corpus_errors("task.dataset", dataset)
    if ending_of(Path(dataset)) in FILES or (_is_path(dataset) and not is_file(dataset)):
        return _file_errors("task.dataset", dataset)
    if is_file(dataset):
        return _no_data_errors(Path(dataset))
    return messages_of(
        (
            run.source == "offline" and run.task.suite != "glue" and not exists(dataset),
            f"task.dataset={dataset} is not a file or folder, and source=offline does not read from the Hub",
        ),
    )


def _no_data_errors(file: Path) -> Iterator[str]:
    """Yield why a file is not read as data: an archive or a workbook states what to do."""
    try:
        with reading(file), open_binary(file):
            yield f"task.dataset={file}: expected a file that ends in {', '.join(FILES)}; convert it"
    except UserError as error:
        yield error.message


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
                not is_file(Path(vocab) / "vocabulary.json"),
                f"vocab={vocab} contains no vocabulary.json"
                + (_tilde(vocab) or "; name a folder written by job=extend, such as outputs/extend/..."),
            ),
            (
                run.job == "embed" and run.run is not None,
                refusal("a run folder includes its vocabulary", "~vocab", "~run"),
            ),
            (
                run.job != "embed" and not run.method.traits.new_tokens,
                refusal(
                    f"method={run.method.name} cannot train the embedding rows of vocab=",
                    "method=lora",
                    "method=adapter",
                    "method=full",
                ),
            ),
        )


def _corpus_errors(key: str, name: str) -> Iterator[str]:
    path = Path(name)
    if is_file(path) and ending_of(path) not in TEXTS:
        yield f"{key}={name}: expected a file that ends in {', '.join(TEXTS)}"
    elif ending_of(path) in (*FILES, *TEXTS) or _is_path(name):
        yield from _file_errors(key, name)


def _file_errors(key: str, name: str | None) -> Iterator[str]:
    if name is None or is_file(name) or is_folder(name):
        return
    if exists(name):
        yield f"{key}={name} is a pipe, a device or a socket; write its content to a file and name that"
        return
    if is_link(name):
        yield f"{key}={name} is a link to a missing file; name a file"
        return
    folder = Path(name).parent
    names = names_in(folder)
    close = getattr(nearest(Path(name).name, names), "fix", ()) if names else ()
    right = typed(key, folder / close[0]) if close else ""
    hint = Refusal(f"; did you mean {right}?", right) if close else ""
    yield with_hint(f"{key}={name}: no such file", _tilde(name) or hint)


def _place_errors(key: str, place: str) -> Iterator[str]:
    """Yield a message for a path below which nothing can be written."""
    path = Path(place)
    parents = [path, *path.parents]
    existing = next((each for each in parents if exists(each)), Path())
    return messages_of(
        (
            any(len(part.encode()) > MAX_NAME_BYTES for part in path.parts) or len(place.encode()) > MAX_PATH_BYTES,
            f"{key}: a name has more than {MAX_NAME_BYTES} bytes, or the path {MAX_PATH_BYTES}; use a shorter one",
        ),
        (not is_folder(existing), f"{key}={place}: {existing} is not a folder; use another {key}="),
        (
            is_folder(existing) and not os.access(existing, os.W_OK | os.X_OK),
            f"{key}={place}: no permission to write in {existing}; use another {key}=",
        ),
    )


def _is_path(name: str) -> bool:
    return name.startswith(("/", "./", "../", "~"))


def _tilde(path: str) -> str:
    is_of_user = path.startswith("~") and not path.startswith("~/")  # ~/ is expanded
    return "; write the whole path in place of ~USER" if is_of_user else ""
