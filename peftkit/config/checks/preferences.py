"""Turn a run that learns from preferences into what does not go together in it."""

from __future__ import annotations

from peftkit.config.jobs import JOBS
from peftkit.config.run import RunConfig, is_prompted

LOSSES = ("sigmoid", "ipo", "hinge", "robust", "apo_zero")  # of TRL's, under its names
PREFERENCES = ("beta", "loss_type", "label_smoothing", "chat")  # keys of that kind alone


def preferring(run: RunConfig) -> list[str]:
    """Return a sentence for each."""
    task, found = run.task, list[str]()
    if task.kind != "preferences":
        return found
    if task.label is not None:
        found.append("task.label is not for task.kind=preferences, where one of two columns is preferred; drop it")
    for key, example in (("beta", "0.1"), ("loss_type", "sigmoid")):
        if getattr(task, key) is None:
            found.append(f"task.{key} is not set; say task.{key}={example}")
    if task.loss_type == "robust" and not task.label_smoothing:
        found.append("task.loss_type=robust asks how many pairs are the wrong way round; say task.label_smoothing=0.1")
    if task.loss_type not in ("robust", None) and task.label_smoothing:
        found.append(f"task.loss_type={task.loss_type} looks at no task.label_smoothing; say task.loss_type=robust")
    if not JOBS[run.job].trains:
        return found
    if run.model.family != "decoder":
        found.append(
            f"model={run.model.name} is a {run.model.family}, and TRL's DPOTrainer takes decoders alone; try model=gpt2"
        )
    if is_prompted(run):
        found.append(f"method={run.method.name} writes answers and prefers none; try method=lora")
    if run.train.get("label_smoothing_factor"):
        found.append("train.label_smoothing_factor is not for task.kind=preferences; say task.loss_type=robust")
    if run.vocab is not None:
        found.append(
            "vocab= is not for task.kind=preferences, whose reference is the model as it began; "
            "train with it first, job=merge, and say model.checkpoint=FOLDER"
        )
    if run.method.traits.regularized:
        found.append(
            f"method={run.method.name} does not work on task={task.name}: it regularizes the model's own loss, which "
            "DPO replaces; use method=lora"
        )
    if run.method.traits.lengthens_text:
        target = run.method.config["_target_"]
        found.append(f"{target} shifts the tokens of a text; use method=prompt, method=p_tuning or method=prefix")
    return found
