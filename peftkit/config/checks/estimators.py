"""Checks of settings that a method without steps and without a loss of its own would ignore."""

from collections.abc import Iterator

from peftkit.config.checks.values import value_of
from peftkit.config.errors import refusal
from peftkit.config.jobs import JOBS
from peftkit.config.run import RunConfig

OF_TRAINING = (  # settings of steps, or of a loss
    "early_stopping.patience",
    "distill.teacher",
    "train.label_smoothing_factor",
    "task.class_weights",
    "task.sampling",
    "task.focal_gamma",
    "collator",
    "start",
    "tasks",
    "domains.objective",
)


def estimator_errors(run: RunConfig) -> Iterator[str]:
    """Yield a message for each setting that scikit-learn's estimators do not read."""
    if not JOBS[run.job].trains or not run.method.traits.estimator:
        return
    values = run.to_dict()
    for key in OF_TRAINING:
        if value_of(values, key):
            wrong = f"{key} is for methods that train in steps; method={run.method.name} is fitted at once"
            yield refusal(wrong, f"~{key}", "method=linear_probe")
    if run.method.quantization is not None and run.method.traits.has_own_model:
        wrong = f"method.quantization is of a checkpoint's layers, which method={run.method.name} does not have"
        yield refusal(wrong, "method.quantization=null", verb="set")
