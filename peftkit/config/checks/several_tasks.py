"""Checks of a run of several tasks, each of which is valid alone, and of their settings in a run of one task."""

from collections.abc import Iterator

from peftkit.config.checks.estimators import estimator_errors
from peftkit.config.checks.job import job_errors
from peftkit.config.checks.rules import messages_of
from peftkit.config.checks.start import start_errors
from peftkit.config.console import number_of_processes
from peftkit.config.errors import refusal
from peftkit.config.jobs import JOBS
from peftkit.config.kinds import SEQ2SEQ, generates_text
from peftkit.config.later_keys import ADDED_LATER
from peftkit.config.quoting import as_override
from peftkit.config.run import RunConfig
from peftkit.config.suggestions import nearest, renamed_key

KINDS_TOGETHER = (
    "classification", "regression", "multilabel", "token_classification", "question_answering", "causal_lm", "seq2seq",
    "instructions",
)  # fmt: skip
STRATEGIES = ("group_by_length", "random")  # of train.train_sampling_strategy
FOR_ONE = ("label_smoothing_factor", "neftune_noise_alpha")  # of train


def several_task_errors(run: RunConfig) -> list[str]:
    """Return a message for each reason why the tasks of a run do not go together."""
    checks = [_name_errors]
    if "multitask" in JOBS[run.job].keys:
        checks += [_kind_errors, _setting_errors, _method_errors, _mixing_errors, _tag_errors]
    return [
        *job_errors(run),
        *start_errors(run),
        *estimator_errors(run),
        *(message for check in checks for message in check(run)),
    ]


def single_task_errors(run: RunConfig) -> Iterator[str]:
    """Yield a message for each key of `multitask` that is set in a run of one task."""
    default, is_for_it = ADDED_LATER["multitask"], run.tasks is None and "multitask" in JOBS[run.job].keys
    for name, value in default.items() if is_for_it else ():
        if getattr(run.multitask, name) != value:
            yield refusal(f"multitask.{name} is for tasks=[...]", f"~multitask.{name}")


def _name_errors(run: RunConfig) -> Iterator[str]:
    names = [task.name for task in run.tasks or []]
    for name in dict.fromkeys(names):
        if names.count(name) > 1:
            yield refusal(f"tasks=: {names.count(name)} tasks have the name {name}", "~task.name")


def _kind_errors(run: RunConfig) -> Iterator[str]:
    tasks = run.tasks or []
    others = [each.name for each in tasks if each.kind in KINDS_TOGETHER]
    for task in tasks:
        if task.kind not in KINDS_TOGETHER:
            fix = f"tasks={as_override(others)}" if len(others) > 1 else f"task={task.name} ~tasks"
            yield refusal(f"task={task.name} ({task.kind}) does not train together with others", fix)
    yield from messages_of(
        (any(task.packing for task in tasks), refusal("task.packing is for one task", "task.packing=false")),
        (any(task.folds is not None for task in tasks), refusal("task.folds is for one task", "~task.folds")),
        (
            any(task.sampling is not None for task in tasks),
            refusal(
                "task.sampling is for one task; multitask.mixing chooses the examples of several", "~task.sampling"
            ),
        ),
    )


def _setting_errors(run: RunConfig) -> Iterator[str]:
    """Yield a message for each setting that works with one task only."""
    train, search = run.train, run.search
    searched = [f"~search.{name}" for name in ("lr_multipliers", "learning_rates") if getattr(search, name) is not None]
    searched += [f"~search.config.{name}" for name in search.config or {}]
    strategy = train.get("train_sampling_strategy", STRATEGIES[0])
    strategies = [f"train.train_sampling_strategy={each}" for each in STRATEGIES]
    return messages_of(
        (searched, refusal("a search is for one task; set train.learning_rate and sweep it", " ".join(searched))),
        (run.trial, refusal("trial=true is for one task", "~trial")),
        (run.sequential_seeds, refusal("sequential_seeds is for one task", "~sequential_seeds")),
        (run.distill.teacher is not None, refusal("distill.teacher is for one task", "~distill.teacher")),
        (run.start is not None, refusal("start is for one task", "~start")),
        (run.vocab is not None, refusal("vocab= is for one task", "~vocab")),
        (run.collator is not None, refusal("collator is for one task", "~collator")),
        *(
            (getattr(run.domains, name) is not None, refusal(f"domains.{name} is for one task", f"~domains.{name}"))
            for name in ("leave_out", "target", "target_labels", "objective")
        ),
        *((train.get(name), refusal(f"train.{name} is for one task", f"~train.{name}")) for name in FOR_ONE),
        (
            strategy not in STRATEGIES,
            refusal(f"train.train_sampling_strategy={strategy} is for one task", *strategies),
        ),
        (number_of_processes() > 1, "tasks=[...] trains in one process; start it without torchrun and accelerate"),
    )


def _method_errors(run: RunConfig) -> Iterator[str]:
    method = run.method
    return messages_of(
        (
            not method.traits.trains or method.traits.prompted,
            refusal(f"method={method.name} trains nothing that tasks could share", "method=lora"),
        ),
        (
            method.traits.scheduled or "every" in method.config,
            refusal(f"method={method.name} has a schedule for the steps of one task", "method=lora"),
        ),
        (
            run.multitask.adapter == "shared_and_per_task" and method.traits.adapter and not _has_plain_ranks(run),
            refusal(
                f"multitask.adapter=shared_and_per_task is for plain LoRA, not this method={method.name}",
                "multitask.adapter=per_task",
                "multitask.adapter=shared",
            ),
        ),
        (
            run.multitask.adapter != "shared" and not method.traits.adapter,
            refusal(
                f"multitask.adapter={run.multitask.adapter}: method={method.name} trains the base, which tasks share",
                "multitask.adapter=shared",
                "method=lora",
            ),
        ),
    )


def _tag_errors(run: RunConfig) -> Iterator[str]:
    """Yield a message for each reason why no tag can precede the inputs of the tasks."""
    method, texts = run.method, [task.name for task in run.tasks or [] if generates_text(task)]
    if not run.multitask.tags:
        return iter(())
    return messages_of(
        (
            run.model.family == SEQ2SEQ,
            refusal(f"multitask.tags: model={run.model.name} names the task in its text", "~multitask.tags"),
        ),
        (
            run.model.family != SEQ2SEQ and texts,
            refusal(f"multitask.tags is for tasks with a head, and {', '.join(texts)} has none", "~multitask.tags"),
        ),
        (
            run.model.pairs is not None,
            refusal(
                f"multitask.tags would mark the first text of model.pairs={run.model.pairs} only",
                "~multitask.tags",
                "~model.pairs",
            ),
        ),
        (
            not method.traits.new_tokens,
            refusal(f"method={method.name} cannot train the rows of multitask.tags", "method=lora", "~multitask.tags"),
        ),
    )


def _has_plain_ranks(run: RunConfig) -> bool:
    """Return whether the adapter is LoRA with one rank, whose ranks can be divided."""
    settings = run.method.config
    others = ("use_dora", "use_rslora", "rank_pattern", "alpha_pattern", "lora_bias", "target_parameters")
    is_plain = settings.get("init_lora_weights", True) is True and not any(settings.get(name) for name in others)
    return settings.get("_target_") == "peft.LoraConfig" and is_plain and {"r", "lora_alpha"} <= settings.keys()


def _mixing_errors(run: RunConfig) -> Iterator[str]:
    settings, names = run.multitask, [task.name for task in run.tasks or []]
    is_temperature = settings.mixing == "temperature"
    yield from messages_of(
        (
            is_temperature and settings.temperature is None,
            refusal("multitask.mixing=temperature has no temperature", "multitask.temperature=2", verb="set"),
        ),
        (
            (settings.temperature or 1) < 1,
            refusal(f"multitask.temperature={settings.temperature}: expected 1 or more", "multitask.temperature=2"),
        ),
        (
            not is_temperature and settings.temperature is not None,
            refusal(
                f"multitask.mixing={settings.mixing} has no temperature",
                "multitask.mixing=temperature",
                "~multitask.temperature",
            ),
        ),
        (
            settings.mixing == "equal" and settings.limit is not None,
            refusal("multitask.mixing=equal has no limit", "multitask.mixing=proportional", "~multitask.limit"),
        ),
    )
    for name, weight in (settings.weights or {}).items():
        key = f"multitask.weights.{name}"
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < float("inf"):
            yield refusal(f"{key}={as_override(weight)}: expected a number above 0", "multitask.weights=null")
        elif name not in names:
            yield renamed_key(f"{key}: unknown task", key, nearest(str(name), names, "multitask.weights."))
