"""Random commands of the jobs that inspect data, plan, train with held-out examples, and read or delete finished runs."""

from __future__ import annotations

from hypothesis import strategies as st

from fuzz.commands import CODE, RUN, RUNS, TEXTS, numbers, typed
from fuzz.oracle import LINK, Example

CALIBRATED, FOLDED = "outputs/own/classification/bert/lora/seed-0-held", "outputs/folded"
EVERYDAY_RUNS = {"calibrated": CALIBRATED, "folded": FOLDED}
OTHERS = (
    ".",
    "outputs",
    "data",
    "missing",
    "/dev/null",
    "data/plain.csv",
    "..",
    "outputs/own/classification/bert/lora",
)
VALUES: dict[str, tuple[str, ...]] = {
    "calibration.holdout": ("0.1", "0.5", "0.99", "0.01", "0", "1", "-1"),
    "task.class_weights": ("balanced", "{pos: 2}", "{pos: 2, neg: 0.5}", "{neg: 0}", "{other: 1}", "{pos: x}", "{}", "[1,2]"),
    "task.sampling": ("balanced", "random"),
    "task.focal_gamma": ("2", "0", "0.5", "-1", "1e9"),
    "task.folds": ("2", "3", "5", "12", "24", "25", "1", "0", "-2"),
    "task.fold": ("0", "1", "2", "-1"),
    "task.stratify": ("true", "false"),
    "task.label_separator": (",", "a", "''", "' '"),
    "task.id": ("text", "label", "missing", "''"),
    "task.label_order": ("[neg,pos]", "[pos]", "[pos,pos]", "[]"),
    "predict.abstain": ("0.8", "0", "1", "0.999", "80", "-1"),
    "predict.target_accuracy": ("0.9", "0", "1", "2"),
    "search.learning_rates": ("[1e-3]", "[1e-3,1e-2]", "[1e-3,1e-3]", "[]", "[0]", "1e-3", "[1e-2,x]"),
    "search.lr_multipliers": ("[0.5,1]", "[1]", "[0]"),
    "search.samples": ("4", "1", "0", "12", "1000"),
    "search.config.r": ("[2,4]", "[2]", "[]", "[0,4]", "4", "[[2]]", "[x]"),
    "search.config.lora_dropout": ("[0,0.1]", "[2]"),
    "search.config.lora_alpha": ("[4,8]",),
    "search.config.target_modules": ("[all-linear,[query]]", "[[query],[key,value]]"),
    "search.config._target_": ("[os.system]", f"[{CODE}]"),
    "search.config": ("{r: [2,4]}", "{}", "{r: {a: 1}}", "{_target_: [os.system]}"),
    "method.loraplus_lr_ratio": ("16", "0", "x"),
    "plan.memory_gb": ("12", "0.001", "0", "-1", "1e12"),
    "plan.measure": ("true", "false"),
    "filter.status": ("finished", "failed", "[finished,broken]", "broken", "done", "[]"),
    "filter.task": ("'*'", "classification", "'c*'", "[a,'cl*']", "'[a'", "../x"),
    "filter.model": ("bert", "'*'", "models/bert", "'*/bert'"),
    "filter.method": ("lora", "[lora,full]", "'l*'"),
    "filter.older_than": ("0m", "1h", "7d", "4w", "999999w", "999999d", "7", "7y", "-1d", "1e3d"),
    "delete": ("true", "true", "checkpoints", "false", "all"),
    "force": ("true",),
}  # fmt: skip
TRAINING = tuple(name for name in VALUES if name.partition(".")[0] in ("calibration", "task", "search", "method"))
DATA = (
    "data/plain.jsonl",
    "data/plain.csv",
    "data",
    "data/tags.conll",
    "data/empty.csv",
    "data/texts.txt",
    "missing.csv",
    "data/mixed.jsonl",
)
KINDS = (
    "classification",
    "classification",
    "regression",
    "multilabel",
    "seq2seq",
    "token_classification",
    "instructions",
    "squad",
)


@st.composite
def chosen(draw: st.DrawFn, names: tuple[str, ...], least: int = 0, most: int = 3) -> list[str]:
    """Return overrides of some of these keys, mostly with values that they could have."""
    words = []
    for name in draw(st.lists(st.sampled_from(names), min_size=least, max_size=most, unique=True)):
        usual, all_known = st.sampled_from(VALUES[name][:2]), st.sampled_from(VALUES[name])
        value = draw(st.one_of(*[usual] * 12, *[all_known] * 3, st.sampled_from(TEXTS), numbers()))
        words.append(f"{name}={value}")
    return words


@st.composite
def task_words(draw: st.DrawFn) -> list[str]:
    """Return the model and the task of a command that trains or plans a tiny model."""
    family = draw(st.sampled_from(["bert"] * 4 + ["gpt2", "t5"]))
    words = [f"model={family}", f"model.checkpoint=models/{family}", "source=offline", "out=outputs"]
    words += ["train.max_steps=1", "train.disable_tqdm=true"]
    kind, file = (
        (draw(st.sampled_from(KINDS)), draw(st.sampled_from(DATA)))
        if draw(st.integers(0, 4)) == 0
        else ("classification", DATA[0])
    )
    words += [f"task={kind}", f"task.dataset={file}", "task.text=[text]"]
    if draw(st.integers(0, 3)) == 0:
        words.append(
            f"method={draw(st.sampled_from(['full', 'ia3', 'adapter', 'prefix', 'zero_shot', 'adalora', 'qlora']))}"
        )
    return words


@st.composite
def run_folders(draw: st.DrawFn) -> str:
    known = sorted({*RUNS.values(), *EVERYDAY_RUNS.values()})
    return draw(st.one_of(*[st.sampled_from(known)] * 4, st.sampled_from(OTHERS)))


@st.composite
def outputs(draw: st.DrawFn, *endings: str) -> list[str]:
    """Return output= below outputs, or nothing."""
    names = [f"output=outputs/x{ending}" for ending in (*endings, "", ".x")]
    return [draw(st.sampled_from(names))] if draw(st.booleans()) else []


@st.composite
def runs_words(draw: st.DrawFn) -> list[str]:
    """Return a command that lists runs and may delete them; `out` is always inside of the workspace."""
    filters = tuple(name for name in VALUES if name.startswith(("filter", "delete", "force")))
    out = draw(st.sampled_from(["outputs"] * 8 + [RUN, "missing", "outputs/link", "data"]))
    deletes = ["delete=true", "force=true"] if draw(st.booleans()) else []
    others = tuple(name for name in filters if name.startswith("filter") or not deletes)
    return ["job=runs", f"out={out}", *deletes, *draw(chosen(others, most=5))]


@st.composite
def job_words(draw: st.DrawFn) -> list[str]:
    """Return a command of one of the jobs."""
    job = draw(st.sampled_from(["runs", "runs", "diff", "report", "inspect", "plan", "finetune", "predict", "predict"]))
    if job == "finetune":
        return [*draw(task_words()), *draw(chosen(TRAINING, 1))]
    if job == "plan":
        sweep = ["-m", "seed=0,1"] if draw(st.integers(0, 4)) == 0 else []
        return [
            *sweep,
            "job=plan",
            *draw(task_words()),
            *draw(chosen(("plan.memory_gb", "plan.measure"))),
            *draw(chosen(TRAINING)),
        ]
    if job == "inspect":
        words = ["job=inspect", *draw(task_words()), *draw(chosen(TRAINING, most=2)), *draw(outputs(".html"))]
        return [word for word in words if not word.startswith("task.text") or draw(st.booleans())]
    if job == "runs":
        return draw(runs_words())
    if job == "diff":
        folders = draw(st.lists(run_folders(), min_size=1, max_size=3))
        both = [RUN, CALIBRATED] if draw(st.integers(0, 3)) == 0 else folders
        return ["job=diff", f"runs=[{','.join(both)}]", *draw(outputs(".csv", ".parquet", ".jsonl", ".tsv"))]
    words = [f"job={job}", f"run={draw(run_folders())}"]
    if job == "predict":
        text = draw(
            st.sampled_from(
                ["a fine film", "data/plain.jsonl", "data/plain.csv", "data/mixed.jsonl", "data/empty.csv", *TEXTS]
            )
        )
        words += [
            f"input={text}",
            *draw(chosen(("predict.abstain", "predict.target_accuracy"))),
            *draw(outputs(".csv", ".parquet", ".jsonl", ".tsv")),
        ]
    return words


RECORDS = (
    '{"run": {"config": {"job": "extend"}}, "meta": {"status": "failed"}}',
    "{}",
    "[]",
    '{"meta": {"status": "failed", "started": 5}}',
)


@st.composite
def everyday(draw: st.DrawFn) -> Example:
    """Return a command, and sometimes folders beside the runs that are links, or no runs."""
    words = draw(job_words())
    if "job=runs" not in words and draw(st.integers(0, 3)) == 0:  # another out= would be deleted from
        words = [*words, draw(typed())]
    return Example(tuple(words), draw(planted()) if draw(st.booleans()) else {})


@st.composite
def deletions(draw: st.DrawFn) -> Example:
    """Return a command that deletes runs, beside links to other runs."""
    words = ["job=runs", "out=outputs", "force=true", f"delete={draw(st.sampled_from(['true', 'checkpoints']))}"]
    return Example(
        (*words, draw(st.sampled_from(["filter.task='*'", "filter.status=[broken,failed]"]))), draw(planted())
    )


@st.composite
def planted(draw: st.DrawFn) -> dict[str, bytes]:
    """Return a folder like a run outside of out=, and links to it and to folders above."""
    link = draw(st.sampled_from(["../other", "../other/seed-0-0123abcd", "..", "../data"]))
    return {
        "other/seed-0-0123abcd/result.json": draw(st.sampled_from(RECORDS)).encode(),
        "other/seed-0-0123abcd/kept.txt": b"kept",
        "outputs/link": LINK + link.encode(),
        "outputs/own/seed-1-0123abcd/result.json": draw(st.sampled_from(RECORDS)).encode(),
        "outputs/own/seed-1-0123abcd/checkpoints": LINK + b"../../../other",
    }
