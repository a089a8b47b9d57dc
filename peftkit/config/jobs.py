"""The jobs: what each does, which keys it reads, what it writes, and the function that runs it."""

from dataclasses import dataclass
from typing import Literal

from peftkit.config.endings import EMBEDDINGS, TABLES

Requirement = Literal["required", "optional", "no"]

_GENERATOR = tuple(  # the keys of `generate` that choose and call a model, without those that generate tasks
    f"generate.{name}" for name in (
        "generator", "model", "base_url", "endpoint_model", "key_env", "max_tokens", "max_cost", "price_in",
        "price_out", "batch", "max_answer_tokens", "chat", "quantization", "request", "retries", "timeout",
    )
)  # fmt: skip
_TRAINING = (  # the keys of training that only some jobs read
    "claim", "vocab", "generate", "workers", "sequential_seeds", "tasks", "multitask", "start", "export.with_base",
)  # fmt: skip


@dataclass(frozen=True)
class Job:
    """One value of `job=`. A new job is a record here and a module in `peftkit.jobs`.

    `reads` lists the keys and sections that the job reads; None means those of a training run. `keys` are read only by
    the jobs that list them. Any other key that the user sets is refused, with `ignores` as the reason.
    `reads_without_run` are added where `run=` is not set. `writes` is "folder", the allowed endings of `output=`, or
    None where there is no `output=`.
    """

    name: str
    summary: str
    entry: str  # "module:function"; the function takes a RunConfig
    reads: tuple[str, ...] | None = None
    keys: tuple[str, ...] = ()
    reads_without_run: tuple[str, ...] = ()
    ignores: str = "the rest comes from run=DIR"
    run: Requirement = "no"  # a finished run folder
    runs: Requirement = "no"  # several of them
    input: Requirement = "no"
    writes: tuple[str, ...] | Literal["folder"] | None = None
    loads_model: bool = True  # False: it starts without torch
    trains: bool = False  # trains the chosen model, method and task, or plans it
    generates: bool = True  # False: does not need the data that job=generate makes
    guesses: tuple[str, ...] = ()  # keys that may be missing, as the job finds their values in the data
    default_task: str | None = None  # where task.dataset is set, and neither task nor recipe


_JOBS = (
    Job(
        "finetune",
        "train, score and record (the default)",
        "peftkit.jobs.finetune:finetune",
        keys=_TRAINING,
        trains=True,
    ),
    Job(
        "plan",
        "show the trainable parameters, steps, memory and duration of runs, without training them",
        "peftkit.jobs.plan:make_plan",
        keys=(*_TRAINING, "plan"),
        trains=True,
    ),
    Job(
        "fetch",
        "download what the runs of a command read, for machines without a network",
        "peftkit.jobs.fetch:fetch",
        keys=_TRAINING,
        trains=True,
        generates=False,
    ),
    Job(
        "inspect",
        "show what is wrong with the data of a task, before anything trains: task.dataset=FILE",
        "peftkit.jobs.inspect:inspect",
        writes=(".html",),
        trains=True,
        guesses=("task.text",),
        default_task="classification",
    ),
    Job(
        "evaluate",
        "score a run folder on its own or another task: run=DIR task=ax",
        "peftkit.jobs.evaluate:evaluate",
        reads=("task", "source", "data_root", "train.per_device_eval_batch_size"),
        run="required",
    ),
    Job(
        "ood",
        "measure how well a run detects texts of another kind: run=DIR task=cola",
        "peftkit.jobs.ood:ood",
        reads=("task", "source", "data_root", "train.per_device_eval_batch_size"),
        keys=("ood",),
        run="required",
        writes=(".json",),
    ),
    Job(
        "predict",
        "predict for a file or one text: run=DIR input=FILE",
        "peftkit.jobs.predict:predict",
        reads=("train.per_device_eval_batch_size", "train.bf16", "task.generation", "seed"),
        keys=("predict",),
        run="required",
        runs="optional",
        input="required",
        writes=TABLES,
    ),
    Job(
        "serve",
        "answer requests over HTTP, with a page: run=DIR, or runs=[A,B] over one base",
        "peftkit.jobs.serve:serve",
        reads=("source", "train.per_device_eval_batch_size", "train.bf16", "task.generation", "seed"),
        keys=("predict", "serve"),
        run="required",
        runs="optional",
    ),
    Job(
        "chat",
        "talk to a run that was tuned on instructions, in the terminal: run=DIR",
        "peftkit.jobs.chat:chat",
        reads=("task.generation", "seed"),
        keys=("chat",),
        run="required",
    ),
    Job(
        "merge",
        "merge an adapter into its base model: run=DIR",
        "peftkit.jobs.merge:merge",
        reads=(),
        run="required",
        writes="folder",
    ),
    Job(
        "export",
        "write a run's model for other programs, and check that it answers as the run: run=DIR format=transformers",
        "peftkit.jobs.export:export",
        reads=("source", "data_root"),
        keys=("format", "export"),
        run="required",
        writes="folder",
    ),
    Job(
        "push",
        "upload a run's adapter or merged model to the Hub, private unless push.private=false: run=DIR repo=YOU/NAME",
        "peftkit.jobs.push:push",
        reads=("force",),
        keys=("repo", "push"),
        run="required",
    ),
    Job(
        "prune",
        "remove attention heads of a run, the least important ones, into a run of its own: run=DIR prune.heads=0.3",
        "peftkit.jobs.prune:prune",
        reads=("data_root", "force"),
        keys=("prune",),
        run="required",
    ),
    Job(
        "report",
        "write report.html of a run folder: classes, mistakes, calibration, costs: run=DIR",
        "peftkit.jobs.report:report",
        reads=(),
        run="required",
        loads_model=False,
    ),
    Job(
        "forgetting",
        "measure the change in language modeling loss by a run: run=DIR",
        "peftkit.jobs.forgetting:forgetting",
        reads=("source", "data_root"),
        run="required",
        input="optional",
    ),
    Job(
        "combine",
        "add, subtract and interpolate what runs learned: runs=[A,B] weights=[1,-0.5]",
        "peftkit.jobs.combine:combine",
        reads=("source", "data_root", "out", "force", "train.per_device_eval_batch_size"),
        keys=("weights", "combine"),
        ignores="the rest comes from the runs",
        runs="optional",
        input="optional",
    ),
    Job(
        "downstream",
        "train a task from a language modeling run and from its base: run=DIR model=bert task=sst2",
        "peftkit.jobs.downstream:downstream",
        keys=("generate",),
        run="required",
        trains=True,
    ),
    Job(
        "continual",
        "train tasks one after the other, each from the weights before, and score all: tasks=[mrpc,rte,stsb]",
        "peftkit.jobs.continual:continual",
        keys=("tasks", "vocab", "start"),
        trains=True,
    ),
    Job(
        "extend",
        "add listed or mined terms to a vocabulary: extend.terms=FILE, extend.corpus=FILE_OR_FOLDER",
        "peftkit.jobs.extend:extend",
        reads=("recipe", "model", "source", "out", "seed", "force"),
        keys=("extend",),
        ignores="it trains nothing",
    ),
    Job(
        "embed",
        "write embeddings of texts: input=FILE output=vectors.parquet; of a trained model: run=DIR",
        "peftkit.jobs.embed:embed",
        keys=("embed",),
        reads=("source", "train.per_device_eval_batch_size", "train.bf16"),
        reads_without_run=("model", "vocab"),
        run="optional",
        input="required",
        writes=EMBEDDINGS,
    ),
    Job(
        "generate",
        "generate instruction data from seed tasks: recipe=self_instruct, evol_instruct",
        "peftkit.jobs.generate:generate",
        loads_model=False,
        keys=("generate",),
        reads=("recipe", "model", "source", "out", "seed", "force", "data_root"),
        ignores="it trains nothing",
    ),
    Job(
        "judge",
        "compare answers by an LLM judge: with the references, run=DIR, or of two runs, runs=[A,B]",
        "peftkit.jobs.judge:judge",
        reads=("model", "source", "data_root", "out", "seed", "force", "task.max_eval_samples"),
        keys=_GENERATOR,
        ignores="it compares existing answers with greedy decoding and a fixed prompt",
        run="optional",
        runs="optional",
    ),
    Job(
        "pretrain",
        "pretrain the small GPT-2 or T5 of source=offline: model=gpt2",
        "peftkit.jobs.pretrain:pretrain",
        reads=("recipe", "model", "source"),
        ignores="it trains a small model with fixed settings",
    ),
    Job(
        "leaderboard",
        "compare all results below out=, and those of others: results=[DIR_OR_FILE.parquet,...]",
        "peftkit.jobs.leaderboard:leaderboard",
        loads_model=False,
        reads=("out",),
        keys=("results", "watch", "claim"),
        ignores="it shows every run below out=",
        writes=("", ".parquet"),  # a folder, or one file with all runs
    ),
    Job(
        "runs",
        "list the runs below out=, and delete those of a filter: filter.status=failed delete=true",
        "peftkit.jobs.runs:show_runs",
        loads_model=False,
        reads=("out", "force"),
        keys=("filter", "delete"),
        ignores="it lists every run below out=",
    ),
    Job(
        "diff",
        "show the examples on which two runs differ, by class, with tests: runs=[A,B]",
        "peftkit.jobs.diff:diff",
        loads_model=False,
        reads=(),
        ignores="it compares the predictions of two finished runs",
        runs="required",
        writes=TABLES,
    ),
    Job(
        "submission",
        "write the zip for the GLUE benchmark's site from the best runs below out=",
        "peftkit.jobs.submission:submission",
        loads_model=False,
        reads=("out", "source", "data_root", "model", "method", "train", "seed"),
        ignores="it chooses among the runs below out=",
        runs="optional",
        writes=(".zip",),
    ),
    Job(
        "bench",
        "measure what training costs beside plain scripts of HF's Trainer and PyTorch: speed, whole process, scores",
        "peftkit.jobs.bench:bench",
        keys=("bench",),
        trains=True,
    ),
    Job(
        "matrix",
        "check every method on tiny models and write the table of what works",
        "peftkit.jobs.matrix:matrix",
        reads=(),
        ignores="it checks every method on its own tiny models",
        writes="folder",
    ),
)

JOBS: dict[str, Job] = {job.name: job for job in _JOBS}

WITHOUT_SCORES = ("extend", "generate", "continual")  # jobs whose folders have a result.json that is no run's
