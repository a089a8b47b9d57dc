"""Checks of job=combine: its weights, and runs whose changes cannot be added."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from peftkit.config.checks.rules import messages_of
from peftkit.config.checks.run_folders import readable_config
from peftkit.config.errors import refusal
from peftkit.config.json_files import read_json
from peftkit.config.run import RunConfig, is_prompted
from peftkit.config.sections import DENSITY_METHODS, LORA_METHODS, SVD
from peftkit.config.start import is_foreign_adapter, is_hub_id


def combine_errors(run: RunConfig) -> list[str]:
    """Return a message for each setting and each run with which job=combine does not work."""
    if run.job != "combine":
        return []
    folders = [Path(each) for each in run.runs or ()]
    known = [(folder, config) for folder in folders if (config := readable_config(folder)) is not None]
    return [*_weight_errors(run), *_method_errors(run, dict(known)), *_run_errors(known), *_base_errors(known)]


def _weight_errors(run: RunConfig) -> Iterator[str]:
    count, weights = len(run.runs or ()), run.weights
    hub_id = next(filter(is_hub_id, run.runs or ()), None)
    reason = "" if hub_id is None else f" ({hub_id}: no such folder, so of the Hub)"
    return messages_of(
        (not count, refusal("job=combine needs run folders", "runs=[DIR,DIR] weights=[1,1]", verb="set")),
        (
            count and weights is not None and len(weights) != count,
            refusal(
                f"weights= has {_counted(len(weights or ()), 'number')} for {_counted(count, 'run')}",
                f"weights=[{','.join(['1'] * count)}]",
            ),
        ),
        (
            count and all(is_foreign_adapter(each, run.out) for each in run.runs or ()),
            f"runs= has only adapters of other programs{reason}; add a run of peftkit, whose task is scored",
        ),
    )


def _method_errors(run: RunConfig, known: Mapping[Path, RunConfig]) -> Iterator[str]:
    """Yield a message for each setting that the method of combination lacks, or does not read."""
    chosen = run.combine
    method = chosen.method or "exact"
    plain = method.removesuffix(SVD)
    is_lora = all(_is_lora(config.method.config) for config in known.values())
    exact = "combine.method=exact"
    yield from messages_of(
        (
            method != "exact" and len(run.runs or ()) == 1,
            refusal(f"combine.method={method} combines several runs", exact),
        ),
        (
            method in LORA_METHODS and method not in DENSITY_METHODS and not is_lora,
            refusal(f"combine.method={method} combines the matrices of plain LoRA, which not every run has", exact),
        ),
        (
            method != "exact" and chosen.extract_rank is not None,
            refusal(f"combine.extract_rank is for exact sums, {method} chooses a rank of its own", exact),
        ),
        (
            plain in DENSITY_METHODS and chosen.density is None,
            refusal(f"combine.method={method} needs a share to keep", "combine.density=0.2", verb="set"),
        ),
        (
            plain not in DENSITY_METHODS and chosen.density is not None,
            refusal(f"combine.density is not for method {method}", "~combine.density"),
        ),
        (
            not plain.endswith("ties") and chosen.majority_sign_method is not None,
            refusal(f"combine.majority_sign_method is not for method {method}", "~combine.majority_sign_method"),
        ),
        (
            not method.endswith("svd") and chosen.svd_rank is not None,
            refusal(f"combine.svd_rank is not for method {method}", "~combine.svd_rank"),
        ),
    )


def _is_lora(settings: Mapping[str, Any]) -> bool:
    """Return whether a method is LoRA without further trained weights: DoRA's magnitudes, biases or whole modules."""
    others = settings.get("use_dora"), settings.get("modules_to_save"), settings.get("bias", "none") != "none"
    return settings.get("_target_") == "peft.LoraConfig" and not any(others)


def _counted(count: int, name: str) -> str:
    return f"{count} {name}{'s' * (count != 1)}"


def _run_errors(known: list[tuple[Path, RunConfig]]) -> Iterator[str]:
    for folder, config in dict(known).items():
        yield from messages_of(
            (is_prompted(config), f"runs={folder}: no weights were trained; name another run"),
            (
                config.prune.heads is not None,
                f"runs={folder} has fewer attention heads than its base; name the run that it was pruned from",
            ),
            (
                config.method.traits.has_own_model,
                f"runs={folder}: method={config.method.name} has a model of its own, which is no change of a base; "
                "name another run",
            ),
            (config.vocab is not None, f"runs={folder} has tokens that its base lacks; name another run"),
            (
                not is_prompted(config) and not config.method.traits.mergeable,
                f"runs={folder}: method={config.method.name} is no change of the base's weights, which could be added; "
                "name a run of a method that can be merged, such as method=lora",
            ),
        )


def _base_errors(known: list[tuple[Path, RunConfig]]) -> Iterator[str]:
    """Yield a message for the first run on another base than the first one."""
    bases = [(folder, *_base(folder, config)) for folder, config in known]
    for folder, base, description in bases[1:]:
        if base != bases[0][1]:
            yield (
                f"runs=: {bases[0][0]} was trained from {bases[0][2]}, {folder} from {description}; "
                "name runs of one base"
            )
            return


def _base(folder: Path, config: RunConfig) -> tuple[tuple[Any, ...], str]:
    """Return what two runs share whose weights correspond, and a description; a checkpoint is known by its hash."""
    source = read_json(folder / "result.json", "")["audit"]["sources"]["model"]
    name, revision, layers = source["name"], source.get("revision"), config.model.keep_layers
    described = f"{name} ({config.model.family}, {revision}{'' if layers is None else f', layers {layers}'})"
    return (revision or name, config.model.family, layers), described
