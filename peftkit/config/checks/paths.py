"""Turn a run into the files and folders that it names and that are not there, or are of the wrong kind."""

from __future__ import annotations

import json
from pathlib import Path

from peftkit.config.jobs import JOBS
from peftkit.config.run import RunConfig
from peftkit.config.suggestions import nearest

USES_RUN = ("evaluate", "predict", "merge", "forgetting", "downstream")  # a finished run folder
MAY_USE_RUN = (*USES_RUN, "embed", "judge")
WRITTEN = (".csv", ".tsv", ".jsonl", ".parquet")
FILES = (".csv", ".tsv", ".jsonl", ".json", ".parquet", ".conll", ".conllu")
TEXTS = (".txt", ".jsonl", ".parquet")  # what a corpus is made of
TEXT_FILES = (*TEXTS, ".csv", ".tsv")  # what job=embed reads row by row
VECTORS = (".parquet", ".npy")  # and writes
ROW_RULES = ("pieces", "mean", "normal", "random")  # what the row of a new token is before it trains


def missing_places(run: RunConfig) -> list[str]:
    """Return a sentence for each; nothing is opened but result.json."""
    return [*_files(run), *_vocabulary(run)]


def _files(run: RunConfig) -> list[str]:
    key, folders = ("run", [run.run]) if run.run is not None else ("runs", run.runs or [])
    found = [sentence for folder in folders for sentence in run_folder(key, folder)]
    if run.job not in ("merge", "embed"):
        found += [
            f"run={folder} holds words, and no run; say vocab={folder} to train with them"
            for folder in folders
            if (Path(folder) / "vocabulary.json").is_file()
        ]
    found = found if run.job in (*MAY_USE_RUN, "submission") else []
    if run.job == "predict" and run.input is not None:
        return found + _input(run.input)
    if run.job == "forgetting" and run.input is not None:
        return found + _text_file(run.input)
    if run.job == "embed" and run.input is not None:
        found += _input(run.input, TEXT_FILES)
    if run.model.checkpoint.startswith(("/", "./", "../", "~")) and not Path(run.model.checkpoint).is_dir():
        found.append(f"model.checkpoint={run.model.checkpoint} is no folder{_tilde(run.model.checkpoint)}")
    if run.job == "leaderboard":
        return found + [sentence for folder in run.results or [] for sentence in _results_folder(folder)]
    if run.job == "submission" and run.data_root is not None and not Path(run.data_root).is_dir():
        found.append(f"data_root={run.data_root} is no folder{_tilde(run.data_root)}")
    if not (JOBS[run.job].trains or run.job == "evaluate") or run.grows_data:
        return found
    if run.data_root is not None:
        root = Path(run.data_root)
        if not root.is_dir():
            found.append(f"data_root={run.data_root} is no folder{_tilde(run.data_root)}")
        elif run.job != "evaluate" and not (root / run.task.name).is_dir():
            folders = [path.name for path in root.iterdir() if path.is_dir()]
            found.append(
                f"data_root={run.data_root} holds no {run.task.name}/{nearest(run.task.name, folders, 'task=')}"
            )
        return found
    dataset = run.task.dataset
    if run.task.kind == "language_modeling":
        found += _corpus("task.dataset", dataset)
    elif dataset.endswith(FILES) or dataset.startswith(("/", "./", "../", "~")):
        found += _file("task.dataset", dataset)
    elif run.source == "offline" and run.task.suite != "glue" and not Path(dataset).exists():
        found.append(f"task.dataset={dataset} is no file or folder, and source=offline reads none from the Hub")
    return found


def _vocabulary(run: RunConfig) -> list[str]:
    """Complain about words that no job would learn, and about methods that would train none of their rows."""
    found, extend = [], run.extend
    given = extend is not None and (extend.terms is not None or extend.corpus is not None)
    if extend is not None and given and run.job != "extend":
        key = "terms" if extend.terms is not None else "corpus"
        found.append(f"extend.{key}= is not for job={run.job}; say job=extend, or vocab=FOLDER to train what it made")
    if run.job == "extend" and not given:
        found.append("job=extend needs words; say extend.terms=FILE, a term a line, or extend.corpus=FILE_OR_FOLDER")
    if run.job == "extend" and extend is not None and extend.terms is not None:
        found += _file("extend.terms", extend.terms)
    if run.job == "extend" and extend is not None and extend.corpus is not None:
        found += _corpus("extend.corpus", extend.corpus)
    if run.vocab is None:
        return found
    if run.job not in ("finetune", "plan", "embed"):
        return [*found, f"vocab= is not for job={run.job}; a run folder has its words with it: drop vocab="]
    if not (Path(run.vocab) / "vocabulary.json").is_file():
        hint = _tilde(run.vocab) or "; name a folder that job=extend made, as outputs/extend/..."
        found.append(f"vocab={run.vocab} holds no vocabulary.json{hint}")
    if run.job == "embed":
        return found if run.run is None else [*found, "a run folder has its words with it; drop vocab=, or run="]
    if not run.method.traits.new_tokens:
        found.append(f"method={run.method.name} cannot train the rows of vocab=; try method=lora, adapter or full")
    return found


def _corpus(key: str, name: str) -> list[str]:
    path = Path(name)
    if path.is_file() and path.suffix not in TEXTS:
        return [f"{key}={name} is none of {', '.join(TEXTS)}; convert it, or name another"]
    if path.suffix in (*FILES, *TEXTS) or name.startswith(("/", "./", "../", "~")):
        return _file(key, name)
    return []


def _input(name: str, read: tuple[str, ...] = FILES) -> list[str]:
    """Complain about a file that is not there, or of a kind that is not read; anything else is a text."""
    if Path(name).suffix in read:
        return _file("input", name)
    if Path(name).suffix in (".txt", *FILES) or (len(name) < 256 and Path(name).exists()):
        return [
            f"input={name} is none of {', '.join(read)}; put its texts into one, or write a text: input='a fine film'"
        ]
    return []


def _text_file(name: str) -> list[str]:
    """Complain about what is no file of texts."""
    if Path(name).suffix not in (".txt", *FILES):
        return [f"input={name} is no file of texts; say input=FILE, a text a line (.txt), or a column text (.jsonl)"]
    return _file("input", name)


def _file(key: str, name: str) -> list[str]:
    if Path(name).exists():
        return []
    folder = Path(name).parent
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    hint = nearest(Path(name).name, names, f"{key}={'' if folder == Path() else f'{folder}/'}") if names else ""
    return [f"{key}={name}: there is no such file{_tilde(name) or (hint if 'did you mean' in hint else '')}"]


def _tilde(path: str) -> str:
    return "; write $HOME for ~, which the shell leaves as it is after a =" if path.startswith("~") else ""


def _results_folder(folder: str) -> list[str]:
    if next(Path(folder).rglob("result.json"), None) is not None:
        return []
    return [f"results={folder} holds no result.json{_tilde(folder) or '; name a folder of runs, as outputs is one'}"]


def run_folder(key: str, folder: str) -> list[str]:
    file = Path(folder) / "result.json"
    if not file.is_file():
        return [f"{key}={folder} holds no result.json{_tilde(folder) or '; a run folder is outputs/.../seed-0-...'}"]
    try:
        status = json.loads(file.read_text())["meta"]["status"]
    except (ValueError, KeyError, TypeError):
        return [f"{file} cannot be read as a result; name another run folder"]
    if status != "finished":
        return [f"{key}={folder} is {status}; finish it first: the command that began it trains on from there"]
    return []
