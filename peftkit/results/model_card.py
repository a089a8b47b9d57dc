"""Turn a result into a model card: what it is, what it scored, how to load it, how to make it again."""

from __future__ import annotations

import shlex
from typing import Any


def model_card(result: dict[str, Any], artefact: str) -> str:
    """Return the card as Markdown; `artefact` is adapter, model or prompt, the folder beside it."""
    config, sources, costs = result["run"]["config"], result["audit"]["sources"], result["costs"]
    base, data = sources["model"], sources["data"]
    scores = "\n".join(f"| {name} | {entry['value']:.4f} |" for name, entry in result["scores"].items())
    stand_ins = "".join(
        f"> **{what}: {entry['name']} (embedded) stands in for {entry['substituted_for']}.** "
        "These scores say nothing about the real thing.\n\n"
        for what, entry in (("Model", base), ("Data", data))
        if entry["substituted_for"]
    )
    rows = ", ".join(f"{name} {count}" for name, count in result["audit"]["rows"].items())
    overrides = shlex.join(result["run"]["overrides"])
    return f"""---
library_name: {"peft" if artefact == "adapter" else "transformers"}
base_model: {base["name"]}
tags: [peftkit, {config["method"]["name"]}]
---
# {config["method"]["name"]} of {base["name"]} on {config["task"]["name"]}

{stand_ins}| metric | validation |
|---|---|
{scores}

Rows: {rows}. Seed {config["seed"]}. Trained weights: {costs["trainable_params"]:,} of {costs["total_params"]:,}
({costs["head_params"]:,} in the head), {costs["adapter_bytes"]:,} bytes to ship.
Trained in {costs["train_seconds"]:.0f} s on {result["meta"]["device"]} in {result["meta"]["precision"]}.
{_merged(result)}
## Load it

```python
{_snippet(config, base, artefact)}
```

## Make it again

```bash
python -m peftkit {overrides}
```
"""


def merging(found: dict[str, Any]) -> str:
    """Say how a run over a quantised base and its merged checkpoint differ, as `result.json` has it under merge."""
    if not found["rows"]:
        return f"what merging changes was not measured: {found['reason']}"
    changed = found["changed_predictions"]
    predictions = "" if changed is None else f"{changed} of {found['rows']} predictions change; "
    return (
        f"merged into the {found['dtype']} base, {predictions}"
        f"scores move by {found['max_difference']:.2g} at most, {found['mean_difference']:.2g} on average"
    )


def _merged(result: dict[str, Any]) -> str:
    found = result.get("merge")
    return f"Trained over a quantised base; {merging(found)}.\n" if found else ""


LOADED_BY: dict[str, tuple[str, str | None]] = {  # kind of task: Auto class, pipeline
    "classification": ("AutoModelForSequenceClassification", "text-classification"),
    "regression": ("AutoModelForSequenceClassification", "text-classification"),
    "token_classification": ("AutoModelForTokenClassification", "token-classification"),
    "question_answering": ("AutoModelForQuestionAnswering", None),
    "causal_lm": ("AutoModelForCausalLM", "text-generation"),
    "preferences": ("AutoModelForCausalLM", "text-generation"),
    "instructions": ("AutoModelForCausalLM", "text-generation"),
    "language_modeling": ("AutoModelForMaskedLM", "fill-mask"),
    "retrieval": ("AutoModel", None),
}
VECTOR_OF = {"mean": "states.mean(dim=1)", "cls": "states[:, 0]", "last": "states[:, -1]"}  # of a text without padding


RESIZE = 'base.resize_token_embeddings(len(AutoTokenizer.from_pretrained("{}")), mean_resizing=False)  # new words'


def _snippet(config: dict[str, Any], base: dict[str, Any], artefact: str) -> str:
    if artefact == "prompt":
        auto = "AutoModelForSeq2SeqLM" if config["model"]["family"] == "seq2seq" else "AutoModelForCausalLM"
        revision = f', revision="{base["revision"]}"' if base["kind"] in ("hub", "cache") else ""
        return "\n".join(
            [
                "import json",
                "",
                f"from transformers import {auto}",
                "",
                f'model = {auto}.from_pretrained("{base["name"]}"{revision})  # as it was: nothing has trained',
                'asked = json.load(open("prompt/prompt.json"))  # with which prompt, words and examples',
            ]
        )
    target, is_vectors = str(config["method"]["config"].get("_target_")), config["task"]["kind"] == "retrieval"
    ours = (base.get("pooling") == "mean" and not is_vectors) or "peftkit." in target
    lines = (
        ["import peftkit  # knows the mean-pooling classifier, the bottleneck adapter and the soft prompts"]
        if ours
        else []
    )
    is_seq2seq = config["model"]["family"] == "seq2seq"
    kind = config["task"]["kind"]
    if kind == "language_modeling" and config["model"]["family"] == "decoder":
        kind = "causal_lm"
    auto, pipeline = ("AutoModelForSeq2SeqLM", None) if is_seq2seq else LOADED_BY[kind]
    if is_vectors:
        auto = "T5EncoderModel" if config["model"]["stand_in"] == "t5-mini" else "AutoModel"
    lines.append(f"from transformers import AutoConfig, AutoTokenizer, {auto}" + (", pipeline" if pipeline else ""))
    if artefact == "adapter":
        revision = f', revision="{base["revision"]}"' if base["kind"] in ("hub", "cache") else ""
        lines += [
            "from peft import PeftModel",
            "",
            f'config = AutoConfig.from_pretrained("{artefact}/base")',
            f'base = {auto}.from_pretrained("{base["name"]}", config=config{revision})'
            + ("  # its folder" if base["kind"] == "embedded" else ""),
            *([RESIZE.format(artefact)] if config.get("vocab") else []),
            f'model = PeftModel.from_pretrained(base, "{artefact}").eval()',
        ]
    else:
        lines += ["", f'model = {auto}.from_pretrained("{artefact}").eval()']
    lines.append(f'tokenizer = AutoTokenizer.from_pretrained("{artefact}")')
    if is_vectors:
        lines += ['states = model(**tokenizer("a text", return_tensors="pt"))[0]', VECTOR_OF[base["pooling"]]]
    if is_vectors and (artefact == "model" or "Lora" in target) and not config.get("vocab"):
        lines.append(
            f'# the same: sentence_transformers.SentenceTransformer("{artefact}").encode("a text"), of length one'
        )
    if pipeline:
        asked = '[{"role": "user", "content": "Name three rivers."}]' if kind == "instructions" else '"a text"'
        if pipeline == "fill-mask":
            asked = 'f"a {tokenizer.mask_token} text"'
        lines.append(f'print(pipeline("{pipeline}", model=model, tokenizer=tokenizer)({asked}))')
    return "\n".join(lines)
