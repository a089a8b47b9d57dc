"""Turn a typed run into what does not go together in it: combinations, and what its job does not look at."""

from __future__ import annotations

from pathlib import Path

from peftkit.config.checks.paths import FILES, MAY_USE_RUN, USES_RUN, VECTORS, WRITTEN, missing_places, run_folder
from peftkit.config.checks.prompting import prompting
from peftkit.config.checks.task import FAMILIES, task_mismatches
from peftkit.config.jobs import JOBS
from peftkit.config.kinds import generates_text
from peftkit.config.run import RunConfig

LIKE = {"preferences": "causal_lm"}  # kinds that a method refuses for the reason that it refuses another


def mismatches(run: RunConfig) -> list[str]:
    """Return a sentence for each; nothing is opened but result.json."""
    return [*_combinations(run), *_verbs(run), *task_mismatches(run), *prompting(run), *missing_places(run)]


def _combinations(run: RunConfig) -> list[str]:
    found = []
    model, method, train = run.model, run.method, run.train
    trains = JOBS[run.job].trains
    kind = LIKE.get(run.task.kind, run.task.kind)
    for of, name in ((model.family, f"model={model.name}"), (kind, f"task={run.task.name}")):
        if trains and (reason := method.refuses.get(of)) and not (of == "seq2seq" and name.startswith("task")):
            found.append(f"method={method.name} does not work on {name}: {reason}")
    if trains and not (method.traits.trains or method.traits.prompted) and run.task.kind != "retrieval":
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
    if trains and run.task.kind == "language_modeling" and model.stand_in == "t5-mini" and model.family == "encoder":
        found.append(f"model={model.name} has no decoder to fill in spans with; say model=t5")
    if run.trial and run.search.lr_multipliers is not None:
        found.append("a trial tries one rate and searches none; drop trial=true or search.lr_multipliers")
    found += _student(run)
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


def _student(run: RunConfig) -> list[str]:
    """Complain about what a teacher cannot teach, and about layers that would not be found again."""
    found = []
    if run.model.keep_layers is not None and run.model.stand_in == "t5-mini":
        found.append(
            f"model.keep_layers is not for model={run.model.name}, whose first layer holds all positions; drop it"
        )
    if run.model.keep_layers is not None and run.method.traits.adapter:
        found.append(
            f"model.keep_layers makes another base, which an adapter of method={run.method.name} would not find again; "
            "say method=full"
        )
    if run.distill.teacher is None:
        return found
    if JOBS[run.job].trains:
        found += run_folder("distill.teacher", run.distill.teacher)
    if generates_text(run.task):
        if run.distill.alpha not in (0.5, 1):
            found.append(
                f"distill.alpha={run.distill.alpha:g} is wrong for texts: say distill.alpha=1, the teacher's "
                "answers alone, or 0.5, which learns both answers to each row"
            )
        return found
    if run.task.kind not in ("classification", "regression") or run.model.family == "seq2seq":
        found.append(
            "distill.teacher teaches classes and numbers by a head, and texts that a model writes; "
            "drop it, or choose model=minilm"
        )
    if run.method.traits.regularized:
        found.append(
            f"method={run.method.name} adds a regularizer to the model's own loss, which distillation replaces; "
            "use method=lora"
        )
    if run.train.get("label_smoothing_factor"):
        found.append("train.label_smoothing_factor is not for distill.teacher; drop it")
    return found


def _verbs(run: RunConfig) -> list[str]:
    """Return what the job lacks, and what was given that it would not look at."""
    found = []
    runs = run.runs if run.job not in ("submission", "judge") else None  # which tell themselves what they lack
    if runs is not None and (run.job != "predict" or run.run is not None or len(runs) < 2):
        found.append("runs= takes two run folders or more, for job=predict, instead of run=; say runs=[DIR,DIR]")
    elif runs is not None and run.input is not None and Path(run.input).suffix not in FILES:
        found.append("runs= answers a file with a column task; say input=FILE, or run=DIR for one text")
    elif run.job in USES_RUN and run.run is None and run.runs is None:
        found.append(f"job={run.job} needs a run folder; say run=outputs/.../seed-0-...")
    if run.job == "downstream" and run.task.kind == "language_modeling":
        found.append("job=downstream asks what a task gains by language modelling; say task=sst2, or another task")
    if run.job == "downstream" and run.trial:
        found.append("trial=true is scored on other rows than what job=downstream notes down; drop it")
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
