"""Checks of the domains of a task: what is left out, adapted to, and trained over them."""

from collections.abc import Iterator

from peftkit.config.checks.rules import messages_of
from peftkit.config.console import number_of_processes
from peftkit.config.errors import refusal
from peftkit.config.jobs import JOBS
from peftkit.config.kinds import SEQ2SEQ, label_columns
from peftkit.config.run import RunConfig
from peftkit.config.sections import UNLABELED


def domain_errors(run: RunConfig) -> Iterator[str]:
    """Yield a message for each setting of domains that does not fit the task, the method, the job or each other."""
    task, domains = run.task, run.domains
    if not JOBS[run.job].trains:
        return iter(())
    given = [
        name for name in ("leave_out", "target", "target_labels", "objective") if getattr(domains, name) is not None
    ]
    return messages_of(
        (
            given and task.domain is None,
            refusal(
                f"domains.{next(iter(given), '')} needs the column with the domains", "task.domain=domain", verb="set"
            ),
        ),
        (
            task.domain in label_columns(task),
            refusal(f"task.domain={task.domain} is the label", "task.domain=COLUMN", "~task.domain"),
        ),
        (
            task.shift is not None and (run.source, run.data_root, task.dataset) != ("offline", None, "nyu-mll/glue"),
            refusal(
                "task.shift is for the data of source=offline", "source=offline ~data_root ~task.dataset", "~task.shift"
            ),
        ),
        *(_target_rules(run) if task.domain is not None else ()),
        *(_leave_out_rules(run) if domains.leave_out is not None else ()),
        *(_objective_rules(run) if domains.objective is not None else ()),
    )


def _target_rules(run: RunConfig) -> Iterator[tuple[object, str]]:
    domains = run.domains
    target = f"domains.target={domains.target}"
    yield (
        domains.target is not None and domains.leave_out is not None,
        refusal(
            f"{target} trains on a domain, domains.leave_out on none of it", "~domains.target", "~domains.leave_out"
        ),
    )
    yield (
        domains.target_labels is not None and domains.target is None,
        refusal("domains.target_labels are those of domains.target, which is not set", "~domains.target_labels"),
    )
    yield (
        domains.target is not None and domains.target_labels is None and domains.objective not in UNLABELED,
        refusal(
            f"{target} would not be trained on",
            "domains.objective=confusion",
            "domains.target_labels=50",
            f"domains.leave_out={domains.target} ~domains.target",
        ),
    )
    yield (
        domains.target is not None and run.task.sampling is not None,
        refusal(f"{target} has examples without a label, which task.sampling cannot draw by label", "~task.sampling"),
    )
    yield (
        domains.is_set and run.task.folds is not None,
        refusal(
            "task.folds scores the training examples, and domains.* choose those of the validation split",
            "~task.folds ~task.fold",
        ),
    )


def _leave_out_rules(run: RunConfig) -> Iterator[tuple[object, str]]:
    each = f"domains.leave_out={run.domains.leave_out}"
    one = "domains.leave_out=NAME"
    leaves_each_out = run.domains.leaves_each_out
    yield (
        leaves_each_out and run.job in ("plan", "downstream"),
        refusal(f"job={run.job} is for one training run, and {each} has one for each domain", one),
    )
    yield leaves_each_out and run.trial, refusal(f"trial=true trains once, {each} once for each domain", one, "~trial")
    yield (
        leaves_each_out and run.calibration.holdout is not None,
        refusal(
            f"calibration.holdout calibrates the model of a run, and {each} keeps none", "~calibration.holdout", one
        ),
    )


def _objective_rules(run: RunConfig) -> Iterator[tuple[object, str]]:
    objective, method, train, drop = run.domains.objective, run.method, run.train, "~domains.objective"
    key = f"domains.objective={objective}"
    others = {
        "task.class_weights": run.task.class_weights, "task.focal_gamma": run.task.focal_gamma,
        "train.label_smoothing_factor": train.get("label_smoothing_factor"), "distill.teacher": run.distill.teacher,
    }  # fmt: skip
    for name in (name for name, value in others.items() if value):
        yield True, refusal(f"{key} is an objective over the loss on labels alone, without {name}", f"~{name}", drop)
    yield (
        run.model.family == SEQ2SEQ,
        refusal(
            f"{key} needs a head, and model={run.model.name} generates the label as text", "model=t5_encoder", drop
        ),
    )
    yield (
        not method.traits.trains or method.traits.prompted,
        refusal(f"method={method.name} trains nothing, so {key} has no effect", "method=lora", drop),
    )
    yield (
        method.traits.regularized,
        refusal(
            f"method={method.name} adds a regularizer to the model's own loss, which {key} replaces",
            "method=lora",
            drop,
        ),
    )
    yield (
        any(train.get(name) for name in ("fsdp", "deepspeed")),
        refusal(f"{key} is not for train.fsdp and train.deepspeed", "~train.fsdp ~train.deepspeed", drop),
    )
    if objective == "group_dro":
        steps = int(train.get("gradient_accumulation_steps") or 1)
        size = int(train.get("per_device_train_batch_size") or 1) * steps
        yield (
            steps > 1,
            refusal(
                f"{key} weights domains by their loss in a whole batch, before its gradient",
                f"train.per_device_train_batch_size={size} ~train.gradient_accumulation_steps",
            ),
        )
        return
    yield (
        method.traits.frozen_base,
        refusal(f"method={method.name} trains the head alone, so {key} has no features to change", "method=lora", drop),
    )
    yield (
        number_of_processes() > 1 and str(method.config.get("_target_")).endswith("Gradual"),
        refusal(f"{key} and method={method.name} are for a single process together", "method=full", drop),
    )
