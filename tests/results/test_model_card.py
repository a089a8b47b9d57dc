"""The model card names what was substituted, its code is Python that fits the artifact, and the Hub reads its scores."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
from helpers.commands import compose_config
from huggingface_hub import ModelCard
from omegaconf import OmegaConf

from peftkit.config.source import Source
from peftkit.results.loading_code import Artifact
from peftkit.results.model_card import describe_merge, model_card

HUB = Source("hub", "a/base", "abc")
POOLED_CLASS = "modeling_peftkit.MeanPoolingBertForSequenceClassification"
EARLIER, BERT, GPT2, T5 = ({"model_type": name} for name in ("mean_pooling_bert", "bert", "gpt2", "t5"))
POOLED = {**EARLIER, "auto_map": {"AutoModelForSequenceClassification": POOLED_CLASS}}


def card(
    *overrides: str, name: str = "adapter", config: dict[str, Any] | None = None, base: Source | None = HUB, **more: Any
) -> str:
    """Return the card of a run of these overrides, on a base from the Hub."""
    settings = OmegaConf.to_container(compose_config(overrides), resolve=True)
    model = {"kind": "hub", "name": "a/base", "revision": "abc", "substituted_for": None, "pooling": "mean"}
    data = {"kind": "offline", "name": "miniglue", "revision": None, "substituted_for": "nyu-mll/glue"}
    costs = {"trainable_params": 5, "head_params": 2, "total_params": 10, "adapter_bytes": 40, "train_seconds": 3.0}
    audit = {
        "sources": {"model": model, "data": data}, "rows": {"train": 24, "validation": 8}, "label_names": ["no", "yes"],
        "truncated": {"train": 3, "validation": 0},
    }  # fmt: skip
    result: dict[str, Any] = {
        "run": {"config": settings, "overrides": [*overrides, "task.prompt=is it {text}?"]},
        "scores": {"accuracy": {"value": 0.5, "higher_is_better": True}},
        "costs": costs,
        "audit": audit,
        "meta": {"device": "cpu", "precision": "fp32", "versions": {"python": "3.11", "peft": None}},
    }
    return model_card({**result, **more}, Artifact(name, name, config or POOLED, base))


def code_of(text: str) -> str:
    return text.partition("```python\n")[2].partition("\n```")[0]


@pytest.mark.parametrize(
    ("overrides", "name", "config", "lines"),
    [
        (["task=sst2"], "adapter", BERT, ["AutoModelForSequenceClassification", 'revision="abc"', "PeftModel"]),
        (["task=sst2"], "adapter", POOLED, [f'get_class_from_dynamic_module("base/{POOLED_CLASS}", "adapter")', 'subfolder="base"']),
        (["task=sst2", "method=full"], "model", POOLED, ['from_pretrained("model", trust_remote_code=True).eval()']),
        (["task=sst2"], "adapter", EARLIER, ["import peftkit", "AutoModelForSequenceClassification"]),
        (["task=sst2", "model=gpt2", "method=prompt"], "adapter", GPT2, ["import peftkit", "softmax"]),
        (["task=language_modeling"], "adapter", BERT, ["AutoModelForMaskedLM", "tokenizer.mask_token"]),
        (["task=language_modeling", "model=gpt2"], "adapter", GPT2, ["AutoModelForCausalLM", '"text-generation"']),
        (["task=seq2seq", "model=t5", "vocab=x"], "adapter", T5, ["AutoModelForSeq2SeqLM", "resize_token_embeddings"]),
        (["task=retrieval"], "adapter", BERT, ["AutoModel.", "add_pooling_layer=False", "mask.sum(1)"]),
        (["task=retrieval", "model=t5"], "adapter", T5, ["T5EncoderModel"]),
        (["task=instructions", "model=gpt2"], "adapter", GPT2, ["Name three rivers.", "apply_chat_template"]),
        (["task=preferences", "model=gpt2"], "merged", GPT2, ['from_pretrained("merged")', "if tokenizer.chat_template"]),
        (["task=sst2", "method=bag_of_words"], "model", {"model_type": "bag_of_words"}, ['peftkit.load(".")']),
        (["task=sst2", "model=gpt2", "method=zero_shot"], "prompt", {}, ["prompt/prompt.json", "AutoModelForCausalLM"]),
    ],
)  # fmt: skip
def test_the_code_fits_kind_model_and_artifact(
    overrides: list[str], name: str, config: dict[str, Any], lines: list[str]
) -> None:
    code = code_of(card(*overrides, name=name, config=config))
    compile(code, "card", "exec")
    assert [line for line in lines if line not in code] == [], code
    assert ("import peftkit" in code) == any("peftkit" in line.replace(POOLED_CLASS, "") for line in lines)


def test_methods_that_peft_lacks_are_named_with_what_loads_them() -> None:
    text = card("task=sst2", "method=adapter")
    assert "The method adapter is part of peftkit and not of PEFT: `pip install peftkit`" in text
    assert "It needs torch, transformers, peft, and no other package" in card("task=sst2")


def test_bases_that_are_not_on_the_hub_are_found_without_a_path_of_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PEFTKIT_HOME", str(tmp_path))
    mini = Source("offline", "gpt2-mini", "ab", folder=str(tmp_path / "gpt2-mini-ab"))
    text = card("task=sst2", "model=gpt2", config=GPT2, base=mini)
    assert (
        'os.environ.get("PEFTKIT_HOME", "~/.cache/peftkit")' in text
        and 'from_pretrained(cache / "gpt2-mini-ab"' in text
    )
    assert str(tmp_path) not in text and "`export.with_base=true` has it in `adapter/base`" in text
    assert 'from_pretrained("adapter/base", config=config)' in card("task=sst2", base=None)


def test_a_card_shows_scores_substitutions_limits_and_the_command() -> None:
    text = card("task=sst2")
    assert "| accuracy | 0.5000 |" in text and "Examples: train 24, validation 8." in text
    assert "> **Data: miniglue (offline) replaces nyu-mll/glue.** These scores are not those of nyu-mll/glue." in text
    assert "python -m peftkit task=sst2 'task.prompt=is it {text}?'" in text and "quantized" not in text
    assert "128 tokens, as 3 of 24 in train." in text and "no other answer than its labels: no, yes." in text
    assert "Versions: python 3.11." in text and "Base: a/base, of the Hub, revision abc." in text


def test_a_card_states_what_divides_the_logits_of_a_calibrated_run() -> None:
    assert "Its probabilities are not calibrated." in card("task=sst2")
    text = card("task=sst2", calibration={"temperature": 8.0})
    assert "Its logits are not calibrated; the probabilities of the code above are of logits divided by a tem" in text
    assert "model(**inputs).logits / 8.0" in code_of(text)


def test_the_hub_reads_the_scores() -> None:
    data = ModelCard(card("task=sst2")).data
    (found,) = data.eval_results or []
    assert (found.metric_type, found.metric_value, found.task_type) == ("accuracy", 0.5, "text-classification")
    assert (found.dataset_type, found.dataset_name, found.dataset_split) == ("sst2", "miniglue", "validation")
    assert (data.base_model, data.library_name, data.tags) == ("a/base", "peft", ["peftkit", "lora"])
    undefined = {"accuracy": {"value": float("nan"), "higher_is_better": True}}
    assert ModelCard(card("task=sst2", scores=undefined)).data.eval_results is None


HOSTILE = "x: [y]\n---\nlicense: mit # <script>alert(1)</script> | ` [a](http://b) \"'"


def test_names_change_neither_metadata_nor_text_nor_code() -> None:
    source = Source("hub", HOSTILE, HOSTILE)
    model = {"kind": "hub", "name": HOSTILE, "revision": HOSTILE, "substituted_for": HOSTILE, "pooling": "mean"}
    audit = {"sources": {"model": model, "data": model}, "rows": {"train": 1}, "label_names": [HOSTILE, "```\n# b"]}
    run = {
        "config": OmegaConf.to_container(compose_config(["task=sst2", "model=t5"]), resolve=True),
        "overrides": [f"task.name={HOSTILE}", "task.prompt=\n```\n# a title"],
    }
    run["config"]["task"]["name"] = run["config"]["method"]["name"] = HOSTILE  # type: ignore[index]
    text = card(config=T5, base=source, audit=audit, run=run)
    data = ModelCard(text).data
    assert data.base_model == HOSTILE and data.tags == ["peftkit", HOSTILE] and data.license is None
    body = text.partition("\n---\n# ")[2]
    prose = "".join(part for number, part in enumerate(body.split("````")) if number % 2 == 0)
    assert not {*"<`["} & {*prose.partition("## Load it")[0]}
    assert "\n# a title" not in prose and "\n# b" not in prose
    (code,) = [part.removeprefix("python\n") for part in body.split("````") if part.startswith("python\n")] or [
        code_of(text)
    ]
    compile(code, "card", "exec")
    names: dict[str, Any] = {}
    exec(next(line for line in code.splitlines() if line.startswith("labels = ")), names)
    assert names["labels"] == [HOSTILE, "```\n# b"]
    command = body.partition("bash\npython -m peftkit ")[2].rpartition("\n```")[0].rstrip("`")
    assert shlex.split(command) == run["overrides"]


def test_a_merged_quantized_base_is_described_or_why_it_was_not_measured() -> None:
    merge = {"rows": 9, "dtype": "float32", "changed_predictions": 2, "max_difference": 0.123, "mean_difference": 0.01}
    text = "merged into the float32 base, 2 of 9 predictions change; scores change by 0.12 at most, 0.01 on average"
    assert describe_merge(merge) == text and f"quantized base; {text}." in card("task=sst2", merge=merge)
    assert describe_merge({"rows": 0, "reason": "no memory"}) == "changes by merging were not measured: no memory"
