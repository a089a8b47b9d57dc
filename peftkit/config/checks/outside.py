"""Checks of job=ood: the run has class probabilities, and the texts of another kind are named once."""

from collections.abc import Collection, Iterator

from peftkit.config.checks.rules import messages_of
from peftkit.config.checks.run_folders import readable_config
from peftkit.config.errors import refusal
from peftkit.config.kinds import kind_of
from peftkit.config.run import RunConfig


def ood_errors(run: RunConfig) -> Iterator[str]:
    """Yield a message for a run of a kind without class probabilities; unfinished runs have a message already."""
    config = readable_config(run.run) if run.job == "ood" else None
    kind = None if config is None else kind_of(config.task)
    if kind is not None and not kind.has_label_probabilities:
        wrong = f"run={run.run} is a run of {kind.name}, which has no class probabilities"
        yield f"{wrong}; name a run of task=classification or task=multilabel"


def outside_errors(job: str, is_shuffled: bool, typed: Collection[str]) -> Iterator[str]:
    """Yield a message where the overrides, of which `typed` are the keys, name no texts of another kind, or two."""
    if job != "ood":
        return iter(())
    named = [key for key in typed if key == "task" or key.startswith("task.")]
    return messages_of(
        (
            not is_shuffled and not {"task", "task.dataset"} & {*typed},
            refusal("job=ood needs texts of another kind", "task=cola", "ood.shuffle=true", verb="set"),
        ),
        (
            is_shuffled and named,
            refusal(
                f"ood.shuffle=true takes the run's own texts, which {', '.join(named)} would replace",
                " ".join(f"~{key}" for key in named),
                "~ood.shuffle",
            ),
        ),
    )
