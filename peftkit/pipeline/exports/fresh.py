"""What a fresh process computes with an exported checkpoint; this file needs transformers and PEFT only.

As a program, it reads a request in JSON from stdin and writes the response to stdout; peftkit cannot be imported there.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
import transformers


def first_outputs(model: Any, inputs: list[dict[str, list[int]]]) -> list[list[float]]:
    """Return the first output of a model for each example alone, flattened; a seq2seq model gets one decoder token."""
    found = []
    for example in inputs:
        batch = {name: torch.tensor([ids]) for name, ids in example.items()}
        if model.config.is_encoder_decoder:
            batch["decoder_input_ids"] = torch.zeros((1, 1), dtype=torch.long)
        with torch.no_grad():
            outputs = model(**batch)
        first = outputs.get("logits", outputs[0])
        found.append(first.float().ravel().tolist())
    return found


def _loaded(request: dict[str, Any]) -> Any:
    """Return the model of an export: a checkpoint, or an adapter over the base beside it."""
    folder, auto = Path(request["folder"]), getattr(transformers, request["auto_class"])
    model = auto.from_pretrained(str(folder / (request["base"] or ".")), trust_remote_code=request["trust_remote_code"])
    if request["base"] is not None:
        import peft

        model = peft.PeftModel.from_pretrained(model, str(folder))
    return model.eval()


def _probabilities(request: dict[str, Any]) -> list[list[float]]:
    """Return the scores of each text by label, as `pipeline` gives them."""
    model, arguments = request["folder"], {"trust_remote_code": request["trust_remote_code"]}
    if request["base"] is not None:
        model = _loaded(request)
        arguments = {"tokenizer": transformers.AutoTokenizer.from_pretrained(request["folder"])}
    classify = transformers.pipeline("text-classification", model=model, device="cpu", **arguments)
    places = {label: number for number, label in classify.model.config.id2label.items()}
    found = []
    for answer in classify(request["texts"], top_k=None, truncation=True):
        row = [0.0] * len(places)
        for each in answer:
            row[places[each["label"]]] = each["score"]
        found.append(row)
    return found


def main() -> None:
    request = json.load(sys.stdin)
    torch.set_num_threads(request["threads"])
    is_text = request["texts"] is not None
    found = _probabilities(request) if is_text else first_outputs(_loaded(request), request["inputs"])
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    sys.modules["peftkit"] = None  # type: ignore[assignment]  # to import it is an error
    main()
