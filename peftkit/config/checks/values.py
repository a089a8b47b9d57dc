"""Checks of each value: its type, its choices, its range."""

import dataclasses
import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from peftkit.config.errors import is_text, refusal
from peftkit.config.families import FAMILIES
from peftkit.config.jobs import JOBS
from peftkit.config.kinds import KINDS
from peftkit.config.label_names import label_name
from peftkit.config.run import ADDED_LATER, MULTITASK_CHOICES, PROVENANCE, SECTIONS, RunConfig
from peftkit.config.sections import LORA_METHODS, OBJECTIVE_KEYS
from peftkit.config.signatures import annotation
from peftkit.config.suggestions import RENAMED, nearest, section_error, takes_list, unknown_key, with_hint
from peftkit.config.traits import Traits
from peftkit.paths import MAX_NAME

Found = tuple[str, str]  # the key, and the message about it
MAX_INT = 2**53  # above it, floats are not exact
EMBEDDING_INITS = ("pieces", "mean", "normal", "random")  # extend.init
RUN_STATUSES = ("finished", "running", "interrupted", "failed", "skipped", "broken")  # filter.status
SHIFTS = ("covariate", "label", "concept")  # task.shift
LOSSES = ("sigmoid", "ipo", "hinge", "robust", "apo_zero")  # task.loss_type: TRL's names
CHOICES: dict[str, tuple[Any, ...]] = {
    "job": tuple(JOBS),
    "source": ("auto", "hub", "offline"),
    "claim": ("small_data", "prompt_scale", "lora_merge", "quantization", "by_task", None),
    "model.family": ("encoder", "decoder", "seq2seq"),
    "model.pooling": ("auto", "cls", "mean", None),
    "model.stand_in": tuple({family.stand_in for family in FAMILIES.values()}),
    "task.kind": tuple(KINDS),
    "task.sample_by": ("line", "document", None),
    "task.loss_type": (*LOSSES, None),
    "task.class_weights": ("balanced", None),  # or numbers by label
    "task.sampling": ("balanced", None),
    "domains.objective": (*OBJECTIVE_KEYS, None),
    "extend.init": EMBEDDING_INITS,
    "filter.status": (*RUN_STATUSES, None),
    **{f"multitask.{name}": known for name, known in MULTITASK_CHOICES.items()},
    "delete": (True, "checkpoints", None),
    "combine.method": ("exact", *LORA_METHODS, None),
    "combine.majority_sign_method": ("total", "frequency", None),
    "embed.pooling": ("mean", "cls", "last", None),
    "generate.algorithm": KINDS["instructions"].generators,
    "generate.generator": ("local", "endpoint"),
    "train.train_sampling_strategy": ("random", "sequential", "group_by_length", "token_budget"),
}


def _rule(keys: str, holds: Callable[[Any], bool], expected: str) -> dict[str, tuple[Callable[[Any], bool], str]]:
    return dict.fromkeys(keys.split(), (holds, expected))


def _positive(value: float) -> bool:
    return 0 < value < float("inf")


def _is_weight(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and _positive(value)


def _are_names(labels: list[Any]) -> bool:
    return len({*map(label_name, labels)} - {""}) == len(labels) > 1


def is_name(value: str) -> bool:
    """Return whether a text can be part of a path; `safe_name` replaces other unusual characters, such as spaces."""
    is_plain = value.strip() and value.isprintable() and not re.search(r"[/\\]", value)
    return bool(is_plain) and not value.startswith(".") and len(value.encode(errors="replace")) <= MAX_NAME


NAMES = ("model.name", "method.name", "task.name", "task.suite")  # parts of paths
RANGES = (  # of values of the right type; null has no range
    _rule(
        "search.samples distill.temperature extend.min_count extend.pad_to_multiple_of embed.truncate_dim "
        "generate.num_instructions generate.max_tokens generate.max_cost generate.batch generate.max_new_tokens "
        "generate.max_answer_tokens generate.evolutions generate.patience generate.timeout early_stopping.patience "
        "method.learning_rate task.max_target_length task.max_train_samples task.max_eval_samples task.scale task.beta "
        "train.learning_rate train.num_train_epochs train.per_device_train_batch_size train.per_device_eval_batch_size "
        "train.gradient_accumulation_steps train.logging_steps train.save_steps train.eval_steps "
        "train.eval_accumulation_steps train.adam_epsilon train.ddp_timeout train.dataloader_prefetch_factor "
        "train.save_total_limit train.torch_empty_cache_steps bench.seeds bench.slow_seeds threads domains.max_lambda "
        "domains.target_labels domains.step_size combine.svd_rank combine.extract_rank multitask.limit "
        "method.config.r method.config.init_r method.config.target_r method.config.num_virtual_tokens "
        "method.config.reduction_factor method.config.lora_alpha method.config.encoder_hidden_size prune.samples",
        _positive,
        "a number above 0",
    )
    | _rule(
        "extend.budget task.stride generate.temperature generate.retries generate.price_in generate.price_out "
        "train.weight_decay train.max_grad_norm train.warmup_steps train.eval_delay train.dataloader_num_workers "
        "train.neftune_noise_alpha task.focal_gamma bench.ladder_seeds",
        lambda value: 0 <= value < float("inf"),
        "a number of 0 or more",
    )
    | _rule("workers", lambda x: x == "auto" or x > 0, "a number above 0, or auto")
    | _rule("method.config.lora_dropout", lambda x: 0 <= x < 1, "a number of 0 or more, below 1")
    | _rule(
        "early_stopping.holdout calibration.holdout task.noise_density",
        lambda x: 0 < x < 1,
        "a number above 0 and below 1",
    )
    | _rule("generate.max_rouge_l generate.top_p combine.density", lambda x: 0 < x <= 1, "a number above 0, at most 1")
    | _rule(
        "task.class_weights",
        lambda x: isinstance(x, str) or (bool(x) and all(map(_is_weight, x.values()))),
        "balanced, or a number above 0 for each label; use task.class_weights=balanced",
    )
    | _rule("train.max_steps", lambda x: x == -1 or x > 0, "a number above 0, or -1")
    | _rule(
        "train.adam_beta1 train.adam_beta2 train.label_smoothing_factor", lambda x: 0 <= x < 1, "0 or more, below 1"
    )
    | _rule("train.warmup_ratio distill.alpha", lambda x: 0 <= x <= 1, "a number from 0 to 1")
    | _rule("predict.abstain", lambda x: 0 <= x <= 1, "a probability from 0 to 1; use predict.abstain=0.8")
    | _rule(
        "predict.target_accuracy", lambda x: 0 < x <= 1, "a share above 0, at most 1; use predict.target_accuracy=0.95"
    )
    | _rule(
        "task.shift",
        lambda x: bool(x) and {*x} <= {*SHIFTS} and len({*x}) == len(x),
        "some of covariate, label and concept, each once; use task.shift=[covariate]",
    )
    | _rule("task.folds", lambda x: x > 1, "2 folds or more; use task.folds=5")
    | _rule("task.fold", lambda x: x >= 0, "the number of a fold, from 0; use task.fold=0")
    | _rule("seed", lambda x: 0 <= x < 2**32, "0 or more, below 2**32")
    | _rule("task.max_length embed.max_length", lambda x: x > 2, "3 tokens or more")
    | _rule("task.mean_noise_span_length", lambda x: x >= 1, "1 token or more")
    | _rule("task.label_smoothing", lambda x: 0 <= x < 0.5, "0 or more, below 0.5")
    | _rule(
        "search.lr_multipliers",
        lambda x: bool(x) and all(map(_positive, x)),
        "numbers above 0; use search.lr_multipliers=[0.3,1,3], or search.lr_multipliers=null",
    )
    | _rule(
        "search.learning_rates",
        lambda x: bool(x) and all(map(_positive, x)) and len({*x}) == len(x),
        "different numbers above 0; use search.learning_rates=[1e-4,3e-4], or search.learning_rates=null",
    )
    | _rule("search.halving_factor", lambda x: x > 1, "2 or more; use search.halving_factor=3")
    | _rule("prune.heads", lambda x: 0 < x < 1, "a share above 0 and below 1; use prune.heads=0.3")
    | _rule("plan.memory_gb", _positive, "a number above 0; use plan.memory_gb=12")
    | _rule("method.loraplus_lr_ratio", lambda x: 1 <= x < float("inf"), "1 or more; use method.loraplus_lr_ratio=16")
    | _rule(
        "model.attn_implementation",
        lambda x: x in ("eager", "sdpa"),
        "eager or sdpa; use model.attn_implementation=sdpa",
    )
    | _rule(
        "model.keep_layers",
        lambda x: bool(x) and x == sorted(set(x)) and x[0] >= 0,
        "layer numbers in order, from 0; use model.keep_layers=[1,4], or model.keep_layers=null",
    )
    | _rule(
        "task.matryoshka_dims",
        lambda x: bool(x) and min(x) > 0,
        "numbers above 0; use task.matryoshka_dims=[64,128]",
    )
    | _rule(
        "generate.instruction_length",
        lambda x: len(x) == 2 and 0 < x[0] <= x[1],
        "the shortest and the longest; use generate.instruction_length=[3,150]",
    )
    | _rule(
        " ".join(NAMES),
        is_name,
        f"a name of at most {MAX_NAME} bytes, without / and control characters, that starts with no dot",
    )
    | _rule("task.text", bool, "one column or more; use task.text=[first,second]")
    | _rule("task.metrics", bool, "one metric or more; use task.metrics=[accuracy]")
    | _rule(
        "task.labels",
        _are_names,
        "two different names or more, each once and none empty; use task.labels=[no,yes], or task.labels=null",
    )
    | _rule(
        "task.label_order",
        _are_names,
        "two different names or more, each once and none empty; use task.label_order=[bad,good]",
    )
)


def value_errors(config: Mapping[str, Any]) -> Iterator[Found]:
    """Yield a message for each key that is unknown or missing, and each value of a wrong type or choice."""
    job = JOBS.get(str(config.get("job")))
    guessed = [key for key in job.guesses if value_of(config, key) == "???"] if job else []
    yield from _type_errors(config, RunConfig, "")
    for name, section in [*SECTIONS.items(), ("method.traits", Traits)]:
        if isinstance(values := value_of(config, name), Mapping):
            yield from (each for each in _type_errors(values, section, f"{name}.") if each[0] not in guessed)
        elif section is Traits and values is not None:
            yield name, refusal(f"{name}={as_typed(values)}: expected a mapping", f"{name}={{}}")
    yield from _choice_errors(config)


def range_errors(config: Mapping[str, Any], invalid: set[str]) -> Iterator[Found]:
    """Yield a message for each value out of its range, apart from keys that are already invalid."""
    impossible = {key: message for key, message in _leaf_errors(config, "") if key not in invalid}
    yield from impossible.items()
    invalid = invalid | impossible.keys()
    for key, (holds, expected) in RANGES.items():
        value = None if key in invalid else value_of(config, key)
        if value is not None and not holds(value):
            yield key, _expected(f"{key}={as_typed(value)}: expected {expected}")
    yield from _adapter_errors(value_of(config, "method.config"), invalid | RANGES.keys())


def key_errors(name: str, value: Any) -> Iterator[str]:
    """Yield a message for a value of a top-level key that has the wrong type or is out of its range."""
    config = {name: value}
    wrong = {key: message for key, message in _type_errors(config, RunConfig, "") if key == name}
    yield from wrong.values()
    yield from (message for key, message in range_errors(config, {*wrong}) if key == name)


def _adapter_errors(values: Any, checked: set[str]) -> Iterator[Found]:
    """Yield a message for each number of PEFT's config that no method takes."""
    for name, value in values.items() if isinstance(values, Mapping) else []:
        key = f"method.config.{name}"
        if key in checked or isinstance(value, bool) or not isinstance(value, int | float):
            continue
        if "dropout" in name and not 0 <= value < 1:
            yield key, refusal(f"{key}={value}: expected a number of 0 or more, below 1", f"{key}=0.1")
        elif isinstance(value, int) and value < 0 and name != "strength":  # that of steering may be
            yield key, refusal(f"{key}={value}: expected 0 or more", f"~{key}")


def _expected(message: str) -> str:
    """Return a message about a range, with the overrides after "; use " as its fix."""
    wrong, _, fix = message.partition("; use ")
    return refusal(wrong, *fix.split(", or ")) if fix else message


def value_of(config: Mapping[str, Any], key: str) -> Any:
    """Return the value of a key such as task.metrics, None if a parent is not a mapping."""
    for name in key.split("."):
        config = config.get(name) if isinstance(config, Mapping) else None  # type: ignore[assignment]
    return config


def as_typed(value: Any) -> str:
    """Return a value as the user would type it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    is_quoted = isinstance(value, str) and (not value or " " in value or not value.isprintable())
    return repr(value) if is_quoted else str(value)


def _type_errors(values: Mapping[str, Any], owner: type, prefix: str) -> Iterator[Found]:
    fields = {field.name: field for field in dataclasses.fields(owner) if field.name not in PROVENANCE}
    for name in (name for name in values if name not in fields):
        yield f"{prefix}{name}", unknown_key(f"{prefix}{name}")
    for name, field in fields.items():
        key, value = f"{prefix}{name}", values.get(name, "???")
        has_default = {field.default, field.default_factory} != {dataclasses.MISSING} or key in ADDED_LATER
        if name not in values and has_default:
            continue
        if value == "???":
            yield key, refusal(f"{key} is not set", f"{key}=...", verb="set")
        elif not prefix and name in (*SECTIONS, "train"):
            if not isinstance(value, Mapping):
                yield key, section_error(name, as_typed(value))
        elif str(field.type) == Traits.__name__:
            if not isinstance(value, Mapping):
                yield key, f"{key}={as_typed(value)}: expected a mapping; use {key}={{mergeable: false}}"
        elif (expected := annotation(str(field.type), __name__).refuses(value)) is not None:
            is_one = isinstance(value, (str, int, float)) and takes_list(key)
            wrong = f"{key}={as_typed(value)}: expected {expected}"
            fix = f"{key}=[{value}]" if is_one else f"{key}._target_={value} ~{key}" if key == "collator" else ""
            yield key, refusal(wrong, fix) if fix and not isinstance(value, list) else wrong


def _leaf_errors(value: Any, key: str) -> Iterator[Found]:
    """Yield a message for each number and each text, at any depth, that no setting can have."""
    if isinstance(value, Mapping):
        for name, each in value.items():
            yield from _leaf_errors(each, f"{key}.{name}".lstrip("."))
    elif isinstance(value, list):
        for each in value:
            yield from _leaf_errors(each, key)
    elif isinstance(value, float) and not math.isfinite(value):
        yield key, refusal(f"{key}={value}: expected a finite number", f"~{key}")
    elif isinstance(value, int) and abs(value) >= MAX_INT:
        yield key, refusal(f"{key} has a number of 2**53 or more", f"~{key}")
    elif isinstance(value, str) and not is_text(value):
        yield key, f"{key}={value!r}: it contains NUL or a lone surrogate; remove that character"


def _choice_errors(config: Mapping[str, Any]) -> Iterator[Found]:
    for key, known in CHOICES.items():
        value = value_of(config, key)
        if isinstance(value, str) and value not in (*known, "???"):
            new = RENAMED.get(f"{key}={value}")
            wrong, hint = f"{key}={as_typed(value)}: unknown value", nearest(value, map(as_typed, known), f"{key}=")
            yield key, refusal(f"{key}={value} was renamed", new) if new else with_hint(wrong, hint)
