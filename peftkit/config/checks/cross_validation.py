"""Checks of calibration and cross-validation: what is held out of the training examples, and by which runs."""

from collections.abc import Iterator

from peftkit.config.checks.rules import messages_of
from peftkit.config.errors import refusal
from peftkit.config.jobs import JOBS
from peftkit.config.kinds import kind_of
from peftkit.config.run import RunConfig


def holdout_errors(run: RunConfig) -> Iterator[str]:
    """Yield a message for each setting of calibration or folds that does not fit the task, the job or each other."""
    task, kind = run.task, kind_of(run.task)
    if not JOBS[run.job].trains:
        return iter(())
    return messages_of(
        (
            run.calibration.holdout is not None and not kind.has_label_probabilities,
            refusal(
                f"calibration.holdout is for classification, task={task.name} is {kind.name}",
                "~calibration.holdout",
            ),
        ),
        *_threshold_rules(run),
        *(_fold_rules(run) if task.folds is not None else ()),
        (
            task.folds is None and task.fold is not None,
            refusal(f"task.fold={task.fold} is one of task.folds, which is not set", "~task.fold", "task.folds=5"),
        ),
    )


def _threshold_rules(run: RunConfig) -> Iterator[tuple[object, str]]:
    is_set, kind = bool(run.calibration.thresholds), kind_of(run.task)
    yield (
        is_set and not kind.several_labels,
        refusal(
            f"calibration.thresholds is for several labels of a text, task={run.task.name} is {kind.name}",
            "~calibration.thresholds",
        ),
    )
    yield (
        is_set and kind.several_labels and run.calibration.holdout is None,
        refusal(
            "calibration.thresholds=true needs examples to fit thresholds on", "calibration.holdout=0.2", verb="add"
        ),
    )


def _fold_rules(run: RunConfig) -> Iterator[tuple[object, str]]:
    task, folds = run.task, run.task.folds or 0
    yield (
        run.calibration.holdout is not None,
        refusal(
            "calibration.holdout calibrates the model of a run, and cross-validation keeps none",
            "~calibration.holdout",
            "~task.folds ~task.fold",
        ),
    )
    yield (
        task.fold is not None and task.fold >= folds,
        refusal(f"task.fold={task.fold}: expected 0 to {folds - 1}, as task.folds={folds}", "task.fold=0"),
    )
    yield (
        task.max_eval_samples is not None,
        refusal(
            "task.max_eval_samples limits the validation split, which cross-validation does not read (it scores the "
            "training examples, limited by task.max_train_samples)",
            "~task.max_eval_samples",
        ),
    )
    yield (
        run.job == "plan" and task.fold is None,
        refusal("job=plan plans one training run, cross-validation has one for each fold", "task.fold=0", verb="add"),
    )
    yield (
        run.job == "downstream",
        refusal("job=downstream scores the validation split, task.folds the training examples", "~task.folds"),
    )
    yield (
        run.trial and task.fold is None,
        refusal("trial=true trains once, cross-validation once for each fold", "~trial", "task.fold=0"),
    )
