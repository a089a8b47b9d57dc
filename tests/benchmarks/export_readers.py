"""Answers of exports in other programs: transformers, its pipelines, onnxruntime, the code of a card; without peftkit.

As a program, it reads requests from stdin, one in JSON a line, saves the answers to each as `target` (npz: `texts`,
`probabilities`), and prints the error of each, or null.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from helpers.card_code import code_of

LABELS, TEMPLATE, MAX_LENGTH, NEW_TOKENS = ("negative", "positive"), "sst2 sentence: {}", 128, 8
AUTO = {  # by what a row of the table answers
    "classes": "AutoModelForSequenceClassification",
    "label texts": "AutoModelForSeq2SeqLM",
    "conversations": "AutoModelForCausalLM",
    "texts": "AutoModelForSeq2SeqLM",
}
Answers = dict[str, Any]


def by_transformers(request: dict[str, Any]) -> Answers:
    """Return the answers of a checkpoint, read by its Auto class."""
    how: dict[str, Any] = {"gguf_file": "model.gguf"} if request["column"] == "gguf" else {"trust_remote_code": True}
    tokenizer = transformers.AutoTokenizer.from_pretrained(request["folder"], **how)
    auto, how = getattr(transformers, AUTO[request["answers"]]), how | request.get("arguments", {})
    model = auto.from_pretrained(request["folder"], dtype=torch.float32, **how)
    return answers_of(model.eval(), tokenizer, request)


@torch.no_grad()
def answers_of(model: Any, tokenizer: Any, request: dict[str, Any]) -> Answers:
    """Return the answers of a model, text by text: probabilities of the labels; or generated text, and the
    probabilities of all tokens (examples, vocabulary) for its first."""
    if request["answers"] == "classes":
        logits = [model(**_encoded(tokenizer, text)).logits[0] for text in request["texts"]]
        return {"probabilities": torch.stack(logits).softmax(-1)}
    if request["answers"] == "label texts":
        rows = [_likelihoods(model, tokenizer, TEMPLATE.format(text)) for text in request["texts"]]
        return {"probabilities": torch.tensor(rows).softmax(-1)}
    texts, probabilities, settings = [], [], {"max_new_tokens": NEW_TOKENS, "do_sample": False}
    for text in request["texts"]:
        start = {}
        if request["answers"] == "conversations":
            how = {"add_generation_prompt": True, "return_dict": True, "return_tensors": "pt"}
            inputs = tokenizer.apply_chat_template(_chat(text), **how)
        else:
            inputs = _encoded(tokenizer, text)
            start = {"decoder_input_ids": torch.tensor([[model.config.decoder_start_token_id]])}
        probabilities.append(model(**inputs, **start).logits[0, -1].softmax(-1))
        out = model.generate(**inputs, **settings, pad_token_id=tokenizer.pad_token_id)[0]
        texts.append(tokenizer.decode(out if start else out[inputs["input_ids"].shape[1] :], skip_special_tokens=True))
    return {"texts": [text.strip() for text in texts], "probabilities": torch.stack(probabilities)}


def _encoded(tokenizer: Any, text: str) -> Any:
    return tokenizer(text, truncation=True, return_tensors="pt")


def _chat(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def _likelihoods(model: Any, tokenizer: Any, text: str) -> list[float]:
    """Return the log-likelihood of each label's text."""
    found = []
    for label in LABELS:
        target = tokenizer(text_target=label, return_tensors="pt")["input_ids"]
        tokens = model(**_encoded(tokenizer, text), labels=target).logits[0].log_softmax(-1)
        found.append(float(tokens.gather(-1, target[0][:, None]).sum()))
    return found


def by_pipeline(request: dict[str, Any]) -> Answers:
    if request["answers"] == "classes":
        classify = transformers.pipeline("text-classification", model=request["folder"], trust_remote_code=True)
        rows = [{each["label"]: each["score"] for each in classify(text, top_k=None)} for text in request["texts"]]
        return _by_label(rows)
    generate = transformers.pipeline("text-generation", model=request["folder"])
    settings = {"max_new_tokens": NEW_TOKENS, "do_sample": False, "return_full_text": False}
    answers = [generate(_chat(text), **settings)[0]["generated_text"] for text in request["texts"]]
    return {"texts": [text.strip() for text in answers]}


def by_onnxruntime(request: dict[str, Any]) -> Answers:
    import onnxruntime
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(f"{request['folder']}/tokenizer.json")
    tokenizer.enable_truncation(MAX_LENGTH)
    session = onnxruntime.InferenceSession(f"{request['folder']}/model.onnx", providers=["CPUExecutionProvider"])
    template = TEMPLATE if request["answers"] == "label texts" else "{}"
    fields = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}
    is_ready, rows = "probabilities" in [each.name for each in session.get_outputs()], []
    for text in request["texts"]:
        read = tokenizer.encode(template.format(text))
        inputs = {each.name: np.array([getattr(read, fields[each.name])]) for each in session.get_inputs()}
        (scores,) = session.run(["probabilities" if is_ready else "logits"], inputs)
        rows.append(scores[0] if is_ready else np.exp(scores[0]) / np.exp(scores[0]).sum())
    return {"probabilities": rows}


def by_card(request: dict[str, Any]) -> Answers:
    """Return what `predict` of the code of a model card gives, ten texts at a time; of a language model by_transformers'
    probabilities, too."""
    os.chdir(request["folder"])
    names: dict[str, Any] = {"__name__": "card"}
    exec(compile(code_of(Path("README.md")), "card", "exec"), names)
    is_chat = request["answers"] == "conversations"
    given = [_chat(text) if is_chat else text for text in request["texts"]]
    rows = [row for start in range(0, len(given), 10) for row in names["predict"](given[start : start + 10])]
    return by_transformers(request) | {"texts": rows} if isinstance(rows[0], str) else _by_label(rows)


def _by_label(rows: list[dict[str, float]]) -> Answers:
    return {"probabilities": [[row[label] for label in LABELS] for row in rows]}


READERS: dict[str, Callable[[dict[str, Any]], Answers]] = {
    "merged": by_card,
    "transformers": by_transformers,
    "pipeline": by_pipeline,
    "onnx": by_onnxruntime,
    "gguf": by_transformers,
}


def save(answers: Answers, target: str | Path) -> None:
    np.savez(target, **{name: np.asarray(each) for name, each in answers.items()})


def main() -> None:
    for line in sys.stdin:
        request, error = json.loads(line), None
        try:
            save(READERS[request["column"]](request), request["target"])
        except Exception as found:
            error = f"{type(found).__name__}: {found}"
        print("read:", json.dumps({"column": request["column"], "error": error}), flush=True)


if __name__ == "__main__":
    sys.modules["peftkit"] = None  # type: ignore[assignment]  # to import it is an error
    main()
