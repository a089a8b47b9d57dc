"""Checks of job=bench: what plain scripts of transformers cannot train, and the names of the variants."""

from collections.abc import Iterator

from peftkit.config.bench_variants import PLAIN, VARIANTS
from peftkit.config.checks.rules import messages_of
from peftkit.config.errors import refusal
from peftkit.config.families import declared_family
from peftkit.config.kinds import SEQ2SEQ, kind_of
from peftkit.config.run import RunConfig
from peftkit.config.suggestions import nearest, with_hint

DEFAULTS = {  # of training arguments that only HF's Trainer reads, not the bare loop
    "gradient_accumulation_steps": 1, "label_smoothing_factor": 0.0, "max_steps": -1, "activation_checkpointing": False,
}  # fmt: skip


def bench_errors(run: RunConfig) -> list[str]:
    """Return a message for each setting of job=bench that not every variant can follow."""
    return [] if run.job != "bench" else [*_variant_errors(run), *_setting_errors(run)]


def _variant_errors(run: RunConfig) -> Iterator[str]:
    for name in run.bench.variants:
        if name not in VARIANTS:
            yield with_hint(f"bench.variants: unknown variant {name}", nearest(name, VARIANTS, "bench.variants=[", "]"))
    if not run.bench.variants:
        yield refusal("bench.variants is empty", "bench.variants=[trainer,peftkit]")
    if (name := run.bench.baseline) not in PLAIN:
        yield with_hint(f"bench.baseline={name}: expected a plain script", nearest(name, PLAIN, "bench.baseline="))
    elif (plain := [each for each in PLAIN if each in run.bench.variants]) and name not in plain:
        yield refusal(f"bench.baseline={name} is not one of bench.variants", f"bench.baseline={plain[0]}")


def _setting_errors(run: RunConfig) -> Iterator[str]:
    task, method, target = run.task, run.method, str(run.method.config.get("_target_"))
    family = declared_family(run.model.family, run.model.stand_in)
    is_plain = target.startswith("peft.") or target == "peftkit.methods.Full"
    sections = {
        "early_stopping.patience": run.early_stopping.patience, "calibration.holdout": run.calibration.holdout,
        "search.lr_multipliers": run.search.lr_multipliers, "search.learning_rates": run.search.learning_rates,
        "search.config": run.search.config, "distill.teacher": run.distill.teacher, "vocab": run.vocab,
        "trial": run.trial,
        "collator": run.collator, "model.keep_layers": run.model.keep_layers, "task.folds": task.folds,
        "task.class_weights": task.class_weights, "task.sampling": task.sampling, "task.focal_gamma": task.focal_gamma,
        "domains.leave_out": run.domains.leave_out, "domains.target": run.domains.target,
        "domains.objective": run.domains.objective,
        "method.quantization": method.quantization, "method.loraplus_lr_ratio": method.loraplus_lr_ratio,
    }  # fmt: skip
    changed = [f"train.{name}" for name, value in DEFAULTS.items() if run.train.get(name, value) not in (value, None)]
    changed += [key for key, value in sections.items() if value]
    yield from (refusal(f"{key} is not for job=bench: a plain script does not have it", f"~{key}") for key in changed)
    yield from messages_of(
        (
            not kind_of(task).sequence_label,
            refusal(f"job=bench compares classification and regression, task={task.name} is neither", "task=sst2"),
        ),
        (
            run.model.family == SEQ2SEQ or family.encoder_of is not None,
            refusal(f"job=bench needs an encoder or a decoder, model={run.model.name} is neither", "model=bert"),
        ),
        (
            not is_plain or method.traits.scheduled,
            refusal(
                f"method={method.name} is not one of PEFT's with fixed settings, so no plain script has it",
                "method=lora",
            ),
        ),
    )
