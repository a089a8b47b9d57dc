"""The ranges of values of the right type, with what to type."""

import re
from collections.abc import Callable
from typing import Any

from peftkit.config.label_names import label_name
from peftkit.paths import MAX_NAME

SHIFTS = ("covariate", "label", "concept")  # task.shift


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
        "method.config.reduction_factor method.config.lora_alpha method.config.encoder_hidden_size prune.samples "
        "serve.max_characters serve.max_examples serve.max_bytes serve.max_queue serve.timeout "
        "export.samples",
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
    | _rule("serve.port", lambda x: 0 <= x < 2**16, "a port from 0 to 65535; use serve.port=8000")
    | _rule("serve.max_batch_delay", lambda x: 0 <= x <= 1, "seconds from 0 to 1; use serve.max_batch_delay=0.003")
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
