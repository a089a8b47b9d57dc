"""The sections of a config that only some jobs read. The YAML documents each key and holds every default."""

from __future__ import annotations

from dataclasses import dataclass

from peftkit.config.label_names import label_name

EACH = "all"  # domains.leave_out: each domain in turn
OBJECTIVE_KEYS = {  # the key of `domains` that an objective reads
    "adversarial": "max_lambda",
    "confusion": "max_lambda",
    "group_dro": "step_size",
}
UNLABELED = ("adversarial", "confusion")  # objectives that read texts of a target domain without their labels


@dataclass
class Extend:
    terms: str | None
    corpus: str | None
    column: str
    budget: int
    min_count: int
    init: str
    pad_to_multiple_of: int | None


@dataclass
class Ood:
    shuffle: bool


@dataclass
class Embed:
    column: str
    pooling: str | None
    layer: int | None
    normalize: bool
    truncate_dim: int | None
    max_length: int | None


@dataclass
class Filter:
    status: str | list[str] | None
    task: str | list[str] | None
    model: str | list[str] | None
    method: str | list[str] | None
    older_than: str | int | None


@dataclass
class Predict:
    abstain: float | None
    target_accuracy: float | None


@dataclass
class Chat:
    system: str | None


@dataclass
class Serve:
    host: str
    port: int
    max_batch_delay: float
    max_characters: int
    max_examples: int
    max_bytes: int
    max_queue: int
    timeout: float


SVD = "_svd"  # ending of the methods that combine changes and then truncate the result to the rank of a LoRA
DENSITY_METHODS = ("ties", "dare_linear", "dare_ties", "magnitude_prune")  # of combine.method: of LoRA or of changes
LORA_METHODS = ("linear", "cat", "svd", *DENSITY_METHODS, *(f"{name}{SVD}" for name in DENSITY_METHODS))  # PEFT's names


@dataclass
class Combine:
    method: str | None
    density: float | None
    majority_sign_method: str | None
    svd_rank: int | None
    extract_rank: int | None
    interpolate: list[float] | None


@dataclass
class MultiTask:
    adapter: str
    mixing: str
    limit: int | None
    temperature: float | None
    batches: str
    normalize_loss: bool
    weights: dict | None
    tags: bool | None


@dataclass
class Planning:
    memory_gb: float | None
    measure: bool


@dataclass
class Prune:
    heads: float | None
    samples: int


EXPORT_RECORD = "export.json"  # in the folder of an export


@dataclass
class Export:
    with_base: bool
    samples: int
    int8: bool
    gguf_type: str | None


@dataclass
class Push:
    what: str | None
    private: bool
    revision: str | None
    commit_message: str | None
    base_model: str | None
    dry_run: bool


@dataclass
class Bench:
    variants: list[str]
    baseline: str
    seeds: int
    slow_seeds: int
    ladder_seeds: int


@dataclass
class Domains:
    """What a run does with the domains of `task.domain`: names of domains, and the objective over them."""

    leave_out: str | int | float | None
    target: str | int | float | None
    target_labels: int | None
    objective: str | None
    max_lambda: float
    step_size: float

    @property
    def is_set(self) -> bool:
        return any(each is not None for each in (self.leave_out, self.target, self.objective))

    @property
    def leaves_each_out(self) -> bool:
        """Whether a run is trained for each domain, without it."""
        return self.leave_out == EACH

    @property
    def scored(self) -> str | None:
        """The domain whose validation examples are scored, None for all."""
        name = self.target if self.leave_out is None else self.leave_out
        return None if name is None or self.leaves_each_out else label_name(name)


@dataclass
class Generate:
    algorithm: str
    generator: str
    base_url: str | None
    endpoint_model: str | None
    key_env: str
    seeds: str | None
    num_instructions: int
    max_tokens: int | None
    max_cost: float | None
    price_in: float | None
    price_out: float | None
    decontaminate: list[str]
    max_rouge_l: float
    instruction_length: list[int]
    blacklist: list[str]
    batch: int
    temperature: float
    top_p: float
    generation: dict
    max_new_tokens: int
    max_answer_tokens: int
    evolutions: int
    patience: int
    chat: bool | None
    quantization: dict | None
    request: dict
    retries: int
    timeout: float
    model: str | None
