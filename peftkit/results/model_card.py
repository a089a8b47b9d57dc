"""The model card of a run: its scores and costs, and code that loads and repeats it."""

import shlex
from collections.abc import Mapping
from typing import Any

from peftkit.config import RunConfig
from peftkit.config.families import declared_family
from peftkit.config.kinds import kind_of

# of the hidden states of one text, without padding
POOLING_CODE = {"mean": "states.mean(dim=1)", "cls": "states[:, 0]", "last": "states[:, -1]"}
FILL_MASK = 'f"a {tokenizer.mask_token} text"'
STEERED = """
# audit.steering of result.json names the layer to whose output this is added, at every position
vector = safetensors.torch.load_file("prompt/steering.safetensors")["vector"]"""
CHAT = '[{"role": "user", "content": "Name three rivers."}]'


def model_card(result: Mapping[str, Any], artifact: str) -> str:
    """Return the card as Markdown.

    Args:
        result: result.json of a finished run.
        artifact: the folder next to the card: adapter, model or prompt.
    """
    config = RunConfig.from_config(result["run"]["config"])
    audit, costs, meta = result["audit"], result["costs"], result["meta"]
    base, data = audit["sources"]["model"], audit["sources"]["data"]
    scores = "\n".join(f"| {name} | {entry['value']:.4f} |" for name, entry in result["scores"].items())
    substitutions = "".join(
        f"> **{part}: {source['name']} ({source['kind']}) replaces {source['substituted_for']}.** "
        f"These scores are not those of {source['substituted_for']}.\n\n"
        for part, source in (("Model", base), ("Data", data))
        if source["substituted_for"]
    )
    counts = ", ".join(f"{split} {count}" for split, count in audit["rows"].items())
    combination = result.get("combination")
    combined = f"{describe_combination(combination)}\n\n" if combination else ""
    others = ", ".join(each.name for each in config.tasks or () if each.name != config.task.name)
    together = f"Trained together with {others}; the seconds are those of all.\n" if others else ""
    merge = f"Trained on a quantized base; {describe_merge(result['merge'])}.\n" if result.get("merge") else ""
    pruning = result.get("pruning")
    pruned = "Without {removed} of its {heads} attention heads, removed from `{run}`.\n" if pruning else ""
    start = f"Started from {audit['start']['name']}, head {audit['start']['head']}.\n" if audit.get("start") else ""
    return f"""---
library_name: {"peft" if artifact == "adapter" else "transformers"}
base_model: {base["name"]}
tags: [peftkit, {config.method.name}]
---
# {config.method.name} of {base["name"]} on {config.task.name}

{substitutions}{combined}| metric | validation |
|---|---|
{scores}

Examples: {counts}. Seed {config.seed}. Trainable parameters: {costs["trainable_params"]:,} of {costs["total_params"]:,}
({costs["head_params"]:,} in the head), {costs["adapter_bytes"]:,} bytes in the checkpoint.
Trained in {costs["train_seconds"]:.0f} s on {meta["device"]} in {meta["precision"]}.
{together}{merge}{pruned.format_map(pruning or {})}{start}
## Load it

```python
{_loading_code(config, base, artifact)}
```

## {"Combine" if combination else "Train"} it again

```bash
python -m peftkit {shlex.join(result["run"]["overrides"])}
```
"""


def describe_combination(found: Mapping[str, Any]) -> str:
    """Return which changes of runs were added, from `combination` of result.json."""
    terms = " ".join(f"{each['weight']:+g} x {each['folder']}" for each in found["runs"])
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


def _loading_code(config: RunConfig, base: Mapping[str, Any], artifact: str) -> str:
    """Return Python code that loads the artifact, with only transformers and PEFT if they define its classes."""
    kind, family = kind_of(config.task), config.model.family
    has_embeddings = kind.name == "retrieval"
    revision = f', revision="{base["revision"]}"' if base["kind"] in ("hub", "cache") else ""
    if config.prune.heads is not None:
        return """import peftkit  # transformers has no model with other numbers of heads in each layer

model, tokenizer = peftkit.load(".")  # the folder of this card"""
    if artifact == "prompt":
        steered = STEERED if config.method.config.get("strength") else ""
        auto = "AutoModelForSeq2SeqLM" if family == "seq2seq" else "AutoModelForCausalLM"
        libraries = "import json\n\nimport safetensors.torch" if steered else "import json\n"
        return f"""{libraries}
from transformers import {auto}

model = {auto}.from_pretrained("{base["name"]}"{revision})  # nothing was trained
prompt = json.load(open("prompt/prompt.json", encoding="utf-8"))  # template, verbalizer and examples{steered}"""
    auto, pipeline = kind.heads[family], kind.pipelines.get(family)
    if has_embeddings:
        auto = declared_family(family, config.model.stand_in).backbone
    is_custom = "peftkit." in config.method.config["_target_"] or (base.get("pooling") == "mean" and not has_embeddings)
    loading = ["", f'model = {auto}.from_pretrained("{artifact}").eval()']
    if artifact == "adapter":
        folder = "  # its folder" if base["kind"] == "offline" else ""
        resize = f'base.resize_token_embeddings(len(AutoTokenizer.from_pretrained("{artifact}")), mean_resizing=False)'
        loading = [
            "from peft import PeftModel",
            "",
            f'config = AutoConfig.from_pretrained("{artifact}/base")',
            f'base = {auto}.from_pretrained("{base["name"]}", config=config{revision}){folder}',
            *([f"{resize}  # new tokens"] if config.vocab else []),
            f'model = PeftModel.from_pretrained(base, "{artifact}").eval()',
        ]
    is_on_hub = base["kind"] in ("hub", "cache")  # sentence-transformers loads the base that the adapter names
    is_encoder = config.vocab is None and (artifact == "model" or (is_on_hub and config.method.traits.mergeable))
    encode = f'sentence_transformers.SentenceTransformer("{artifact}").encode("a text")'
    embedding = [
        'states = model(**tokenizer("a text", return_tensors="pt"))[0]',
        POOLING_CODE[base["pooling"]] if has_embeddings else "",
        *([f"# or, normalized to length one: {encode}"] if is_encoder else []),
    ]
    text = FILL_MASK if pipeline == "fill-mask" else CHAT if kind.name == "instructions" else '"a text"'
    # without top_k=None only the label of the highest score is shown
    every, note = (", top_k=None", "  # labels of 0.5 or more are predicted") if kind.several_labels else ("", "")
    lines = [
        *(["import peftkit  # registers the mean-pooling classifier and peftkit's own tuners"] if is_custom else []),
        f"from transformers import AutoConfig, AutoTokenizer, {auto}{', pipeline' if pipeline else ''}",
        *loading,
        f'tokenizer = AutoTokenizer.from_pretrained("{artifact}")',
        *(embedding if has_embeddings else []),
        *(
            [f'print(pipeline("{pipeline}", model=model, tokenizer=tokenizer{every})({text})){note}']
            if pipeline
            else []
        ),
    ]
    return "\n".join(lines)
