"""The typed config of a task. The YAML under conf/task documents each key and holds every default."""

from __future__ import annotations

from dataclasses import dataclass

from peftkit.config.label_names import label_name

TARGET_LENGTH = 64  # where task.max_target_length is not set


@dataclass
class TaskConfig:
    """One task. The keys with a default are those that only the YAML of some kinds of task lists."""

    name: str
    suite: str
    dataset: str
    subset: str | None
    revision: str
    kind: str
    text: list[str]
    label: str | list[str] | None
    labels: list[str | int | float | bool] | None  # as in the data, where they are numbers
    splits: dict
    metrics: list[str]
    template: str | None
    max_length: int
    max_train_samples: int | None
    max_eval_samples: int | None
    stride: int | None = None
    no_answer: bool = False
    max_target_length: int | None = None
    sample_by: str | None = None
    noise_density: float | None = None
    mean_noise_span_length: float | None = None
    whole_words: bool = False
    packing: bool = False
    join_documents: bool = False
    scale: float | None = None
    matryoshka_dims: list[int] | None = None
    beta: float | None = None
    loss_type: str | None = None
    label_smoothing: float | None = None
    chat: bool | None = None
    prompt: str | None = None
    verbalizer: dict | None = None
    folds: int | None = None
    fold: int | None = None
    stratify: bool | None = None
    class_weights: str | dict | None = None
    sampling: str | None = None
    focal_gamma: float | None = None
    label_separator: str | None = None
    label_order: list[str | int | float | bool] | None = None
    id: str | None = None
    domain: str | None = None
    shift: list[str] | None = None
    generation: dict | None = None

    @property
    def target_length(self) -> int:
        """The maximum number of tokens of a label that is a text."""
        return self.max_target_length or TARGET_LENGTH

    @property
    def answer_length(self) -> int:
        """The maximum number of tokens of a generated text."""
        return (self.generation or {}).get("max_new_tokens") or self.target_length

    def __post_init__(self) -> None:
        if isinstance(self.class_weights, dict):  # numbers and texts could not be sorted; true may be meant as yes
            weights = self.class_weights.items()
            self.class_weights = {
                label if isinstance(label, bool) else label_name(label): weight for label, weight in weights
            }
