"""Turn a typed run into what does not go together in it: combinations, and files that are missing."""

from __future__ import annotations

import json
import string
from importlib.util import find_spec
from pathlib import Path

from peftkit.schema.names import nearest
from peftkit.schema.run import Run
from peftkit.signatures import fields_of

USES_RUN = ("evaluate", "predict", "merge", "forgetting")  # a finished run folder
MAY_USE_RUN = (*USES_RUN, "embed")
WRITTEN = (".csv", ".tsv", ".jsonl", ".parquet")
FILES = (".csv", ".tsv", ".jsonl", ".json", ".parquet", ".conll", ".conllu")
TEXTS = (".txt", ".jsonl", ".parquet")  # what a corpus is made of
TEXT_FILES = (*TEXTS, ".csv", ".tsv")  # what job=embed reads row by row
VECTORS = (".parquet", ".npy")  # and writes
ROW_RULES = ("pieces", "mean", "normal", "random")  # what the row of a new token is before it trains

_TEXT = ("exact_match", "token_f1", "rouge_l")
METRICS_OF: dict[str, tuple[str, ...]] = {  # of each kind of task
    "classification": ("accuracy", "f1", "macro_f1", "matthews_correlation"),
    "regression": ("pearson", "spearman", "mean_squared_error"),
    "token_classification": ("token_accuracy", "entity_f1"),
    "question_answering": ("exact_match", "token_f1"),
    "causal_lm": ("perplexity", *_TEXT),
    "seq2seq": ("perplexity", *_TEXT),
    "retrieval": ("recall_at_1", "recall_at_5", "recall_at_10", "mrr", "ndcg_at_10"),
}
NO_VECTORS = {  # configs of methods that cannot train a model of vectors, which has no head and no loss of its own
    "LinearProbe": "vectors have no head to probe; try method=linear_probe_mix or method=lora",
    "AdaLoraConfig": "PEFT keeps its directions apart in a model's own loss, and vectors have none; try method=lora",
}
FAMILIES = {  # the models that have a head for it, and one to try
    "token_classification": (("encoder", "decoder"), "t5_encoder"),
    "question_answering": (("encoder", "decoder"), "t5_encoder"),
    "causal_lm": (("decoder",), "gpt2"),
    "seq2seq": (("seq2seq",), "t5"),
}


def mismatches(run: Run) -> list[str]:
    """Return a sentence for each; nothing is opened but result.json."""
    return [*_combinations(run), *_verbs(run), *_task(run), *_files(run), *_vocabulary(run), *_vectors(run)]


def _combinations(run: Run) -> list[str]:
    found = []
    model, method, train = run.model, run.method, run.train
    trains = run.job in ("finetune", "plan")
    for of, name in ((model.family, f"model={model.name}"), (run.task.kind, f"task={run.task.name}")):
        if trains and (reason := method.refuses.get(of)) and not (of == "seq2seq" and name.startswith("task")):
            found.append(f"method={method.name} does not work on {name}: {reason}")
    if trains and str(method.config.get("_target_")).endswith(".Untuned") and run.task.kind != "retrieval":
        found.append(
            f"method={method.name} is for task=retrieval alone, whose vectors are scored before anything has trained; "
            "try method=lora"
        )
    families, instead = FAMILIES.get(run.task.kind, ((model.family,), ""))
    if trains and model.family not in families:
        found.append(
            f"model={model.name} is a {model.family}, which has no head for task={run.task.name} "
            f"({run.task.kind}); try model={instead}"
        )
    if model.family != "encoder" and model.pooling in ("cls", "mean"):
        found.append(
            f"model.pooling={model.pooling} is for encoders, model={model.name} has its own way; say model.pooling=null"
        )
    if model.stand_in == "t5-mini" and model.family == "encoder" and model.pooling == "cls":
        found.append(f"model={model.name} has no [CLS] to pool; say model.pooling=mean")
    if run.trial and run.search.factors is not None:
        found.append("a trial tries one rate and searches none; drop trial=true or search.factors")
    if train.get("bf16") and train.get("fp16"):
        found.append("train.bf16 and train.fp16 exclude each other; drop both: bf16 is used where the hardware has it")
    evaluates, saves = train.get("eval_strategy"), train.get("save_strategy")
    if run.early_stopping.patience is None and evaluates not in (None, "no"):
        found.append(
            f"train.eval_strategy={evaluates} needs rows carved from train; say early_stopping.patience=3, or drop it"
        )
    if run.early_stopping.patience is not None:
        if evaluates == "no":
            found.append("early_stopping.patience needs evaluations; drop train.eval_strategy=no")
        elif saves != "best" and (saves or "epoch") != (evaluates or "epoch"):
            found.append(
                f"early_stopping.patience keeps the best epoch, so it saves when it evaluates; "
                f"say train.save_strategy={evaluates or 'epoch'}"
            )
    return found


def _verbs(run: Run) -> list[str]:
    """Return what the job lacks, and what was given that it would not look at."""
    found = []
    takes_runs = ("predict", "submission")
    if run.runs is not None and (run.job not in takes_runs or run.run is not None or len(run.runs) < 2):
        found.append("runs= takes two run folders or more, for job=predict, instead of run=; say runs=[DIR,DIR]")
    elif run.runs is not None and run.input is not None and Path(run.input).suffix not in FILES:
        found.append("runs= answers a file with a column task; say input=FILE, or run=DIR for one text")
    elif run.job in USES_RUN and run.run is None and run.runs is None:
        found.append(f"job={run.job} needs a run folder; say run=outputs/.../seed-0-...")
    if run.job not in MAY_USE_RUN and run.run is not None:
        found.append(f"run= is not for job={run.job}; say job=evaluate, job=predict or job=merge, or drop it")
    if run.job == "predict" and run.input is None:
        found.append("job=predict needs input=FILE or input='a text'")
    if run.job == "embed" and run.input is None:
        found.append("job=embed needs input=FILE or input='a text'")
    if run.job not in ("predict", "forgetting", "embed") and run.input is not None:
        found.append(f"input= is not for job={run.job}; say job=predict, or task.dataset=FILE to train on it")
    if run.job == "predict" and run.output is not None and Path(run.output).suffix not in WRITTEN:
        found.append(f"output={run.output} is none of {', '.join(WRITTEN)}; say output=answers.jsonl")
    if run.job == "embed" and run.output is not None and run.output == run.input:
        found.append(f"output={run.output} is what is read; say output=vectors.parquet")
    if run.job == "embed" and run.output is not None and Path(run.output).suffix not in VECTORS:
        found.append(f"output={run.output} is none of {', '.join(VECTORS)}; say output=vectors.parquet")
    if run.job in ("merge", "leaderboard") and run.output is not None and Path(run.output).is_file():
        found.append(f"output={run.output} is a file; job={run.job} writes a folder: say output=FOLDER")
    for name in ("watch", "claim"):
        if getattr(run, name) and run.job != "leaderboard" and not (name == "claim" and run.job == "finetune"):
            found.append(f"{name}= is not for job={run.job}; say job=leaderboard, or drop it")
    if run.job == "submission" and run.output is not None and Path(run.output).suffix != ".zip":
        found.append(f"output={run.output} is no zip; say output=submission.zip")
    if run.results is not None and run.job != "leaderboard":
        found.append(f"results= is not for job={run.job}; say job=leaderboard, or drop it")
    writes = ("predict", "merge", "matrix", "submission", "leaderboard", "embed")
    if run.job not in writes and run.output is not None:
        found.append(f"output= is not for job={run.job}; say out=FOLDER for where run folders go")
    return found


def _splits(run: Run) -> list[str]:
    splits, known, found = run.task.splits, ("train", "validation"), []
    for name in (str(name) for name in splits if name not in known):
        found.append(f"unknown key task.splits.{name}{nearest(name, known, 'task.splits.')}")
    for name in known:
        if name not in splits:
            found.append(f"task.splits.{name} is not set; say task.splits.{name}=...")
    train, held_out = splits.get("train"), splits.get("validation", [])
    if not isinstance(train, (str, type(None))):
        found.append(f"task.splits.train={train} is wrong: it takes one name; say task.splits.train=train")
    if not isinstance(held_out, list) or not all(isinstance(name, str) for name in held_out):
        found.append(f"task.splits.validation={held_out} is wrong: it takes names; say task.splits.validation=[dev]")
    if run.job in ("finetune", "plan") and train is None and "train" in splits:
        found.append(f"task={run.task.name} has no training rows; train on task=mnli, then job=evaluate run=DIR")
    return found


def _task(run: Run) -> list[str]:
    task, found = run.task, _splits(run)
    known = METRICS_OF.get(task.kind, ())
    if wrong := [name for name in task.metrics if name not in known]:
        found.append(f"task.kind={task.kind} has no {', '.join(wrong)}; say task.metrics=[{','.join(known[:2])}]")
    if task.kind == "causal_lm" and task.label is None and task.metrics != ["perplexity"]:
        found.append("without a label there is no text to compare with; say task.metrics=[perplexity], or task.label=")
    if task.label is None and task.kind not in ("causal_lm", "retrieval"):
        found.append(f"task.label is not set; say task.label=... (task.kind={task.kind} learns from it)")
    columns_of = {"question_answering": (2, "question,context"), "token_classification": (1, "tokens")}
    wanted, example = columns_of.get(task.kind, (len(task.text), ""))
    if len(task.text) != wanted:
        found.append(f"task.kind={task.kind} reads {wanted} column{'s'[: wanted - 1]}; say task.text=[{example}]")
    if len(task.text) > 2 and task.kind != "retrieval":
        found.append(f"task.kind={task.kind} reads one or two columns; say task.text=[{','.join(task.text[:2])}]")
    for key, kinds in (
        ("stride", ("question_answering",)),
        ("no_answer", ("question_answering",)),
        ("max_target_length", ("causal_lm", "seq2seq")),
        ("scale", ("retrieval",)),
        ("widths", ("retrieval",)),
    ):
        if getattr(task, key) and task.kind not in kinds:
            found.append(f"task.{key} is not for task.kind={task.kind}; drop it")
    if "f1" in task.metrics and task.labels is not None and len(task.labels) != 2:
        found.append("f1 is for two labels; say task.metrics=[accuracy,macro_f1]")
    try:
        columns = [name for _, name, _, _ in string.Formatter().parse(task.template or "") if name is not None]
    except ValueError as error:
        return [*found, f"task.template cannot be read: {error}; write {{column}} where a text belongs"]
    found += [
        f"task.template: there is no column {{{name}}}{nearest(name, task.text)}"
        for name in sorted({*columns} - {*task.text})
    ]
    return found


def _files(run: Run) -> list[str]:
    folders = [run.run] if run.run is not None else run.runs or []
    found = [sentence for folder in folders for sentence in _run_folder(folder)]
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
    if run.job not in ("finetune", "plan", "evaluate"):
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
    if dataset.endswith(FILES) or dataset.startswith(("/", "./", "../", "~")):
        found += _file("task.dataset", dataset)
    elif run.source == "embedded" and run.task.suite != "glue" and not Path(dataset).exists():
        found.append(f"task.dataset={dataset} is no file or folder, and source=embedded reads none from the Hub")
    return found


def _vocabulary(run: Run) -> list[str]:
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
        found += _corpus(extend.corpus)
    if run.vocab is None:
        return found
    if run.job not in ("finetune", "plan", "embed"):
        return [*found, f"vocab= is not for job={run.job}; a run folder has its words with it: drop vocab="]
    if not (Path(run.vocab) / "vocabulary.json").is_file():
        hint = _tilde(run.vocab) or "; name a folder that job=extend made, as outputs/extend/..."
        found.append(f"vocab={run.vocab} holds no vocabulary.json{hint}")
    target = str(run.method.config.get("_target_"))
    known = fields_of(target) or {}
    if run.job == "embed":
        return found if run.run is None else [*found, "a run folder has its words with it; drop vocab=, or run="]
    if not target.endswith((".Full", ".TrainableTokensConfig")) and "trainable_token_indices" not in known:
        found.append(f"method={run.method.name} cannot train the rows of vocab=; try method=lora, adapter or full")
    return found


def _vectors(run: Run) -> list[str]:
    """Complain about what contrastive training cannot do without, and about what only job=embed looks at."""
    found, task, train, embed = [], run.task, run.train, run.embed
    if run.job != "embed" and embed is not None:
        set_here = {
            "pooling": embed.pooling,
            "layer": embed.layer,
            "width": embed.width,
            "max_length": embed.max_length,
        }
        for key in (key for key, value in set_here.items() if value is not None):
            found.append(f"embed.{key}= is for job=embed alone; drop it")
    if task.kind != "retrieval" or run.job not in ("finetune", "plan"):
        return found
    if find_spec("sentence_transformers") is None:
        found.append("task.kind=retrieval is trained by sentence-transformers; pip install 'peftkit[embed]'")
    if reason := NO_VECTORS.get(str(run.method.config.get("_target_")).rpartition(".")[2]):
        found.append(f"method={run.method.name} does not work on task={task.name}: {reason}")
    if len(task.text) < 2:
        found.append("task.kind=retrieval reads a query and its document; say task.text=[query,document]")
    if task.label is not None:
        found.append("task.label is not for task.kind=retrieval, where the document is what is right; drop it")
    if task.scale is None:
        found.append("task.scale is not set; say task.scale=20")
    if train.get("label_smoothing_factor"):
        found.append("train.label_smoothing_factor is not for task.kind=retrieval; drop it")
    if train.get("per_device_train_batch_size") == 1 and len(task.text) == 2:
        found.append("a batch of one query has no wrong document; say train.per_device_train_batch_size=32")
    return found


def _corpus(name: str) -> list[str]:
    path = Path(name)
    if path.is_file() and path.suffix not in TEXTS:
        return [f"extend.corpus={name} is none of {', '.join(TEXTS)}; convert it, or name another"]
    if path.suffix in (*FILES, *TEXTS) or name.startswith(("/", "./", "../", "~")):
        return _file("extend.corpus", name)
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


def _run_folder(folder: str) -> list[str]:
    file = Path(folder) / "result.json"
    if not file.is_file():
        return [f"run={folder} holds no result.json{_tilde(folder) or '; a run folder is outputs/.../seed-0-...'}"]
    try:
        status = json.loads(file.read_text())["meta"]["status"]
    except (ValueError, KeyError, TypeError):
        return [f"{file} cannot be read as a result; name another run folder"]
    if status != "finished":
        return [f"run={folder} is {status}; finish it first: the command that began it trains on from there"]
    return []
