"""The card of an ONNX export: code that answers texts as the run does, with onnxruntime, tokenizers and numpy."""

from collections.abc import Sequence
from pathlib import Path

from peftkit.config import kind_of
from peftkit.config.label_names import label_name
from peftkit.data.columns import text_columns
from peftkit.data.formats.classification import text_to_text_template
from peftkit.data.formats.question_answering import MAX_ANSWER_TOKENS
from peftkit.metrics.calibration import DEFAULT_THRESHOLD, probabilities
from peftkit.pipeline.exports.base import AGREEMENT, ExportSource
from peftkit.results.loading_code import Artifact, literal
from peftkit.results.model_card import compose_card, fenced
from peftkit.results.prediction_code import positional_template
from peftkit.results.public import public_result

FIELDS = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}  # of an Encoding
NO_ANSWER = "(no answer)"
CHECKED = 32  # examples whose tokens are compared
TEXTS = ("a fine film", "a long and dull film")
OTHER_TOKENIZER = """# the package tokenizers gives other tokens than transformers, so that this needs transformers
from transformers import AutoTokenizer

inputs = AutoTokenizer.from_pretrained(".")(["a fine film"], return_tensors="np")"""


def write_card(source: ExportSource, folder: Path, inputs: Sequence[str]) -> None:
    """Write README.md beside the files that its code reads."""
    is_alone = has_same_tokens(source, folder)
    code = [*_start(source, inputs), *_end(source)] if is_alone else [OTHER_TOKENIZER]
    packages = f"onnxruntime {'tokenizers' if is_alone else 'transformers'} numpy"
    use = f"""## Use it

`model.onnx` computes the scores of the run: batches of any size, up to {_limit(source)} tokens.
{AGREEMENT} In this folder:

{fenced("python", chr(10).join(code))}

It needs `pip install {packages}`."""
    card = compose_card(public_result(source.run.record), Artifact("onnx", "."), ", as ONNX", use)
    (folder / "README.md").write_text(card, encoding="utf-8")


def has_same_tokens(source: ExportSource, folder: Path) -> bool:
    """Return whether the package tokenizers alone, with tokenizer.json, gives the tokens of the run."""
    from tokenizers import Tokenizer

    if not (folder / "tokenizer.json").is_file():
        return False
    alone, own = Tokenizer.from_file(str(folder / "tokenizer.json")), source.bundle.tokenizer
    alone.no_truncation()
    alone.no_padding()
    examples, is_split = source.examples.select(range(min(CHECKED, len(source.examples)))), _is_split(source)
    for column in text_columns(source.config.task):
        texts = examples[column][:]
        found = [each.ids for each in alone.encode_batch(texts, is_pretokenized=is_split)]
        if found != own(texts, is_split_into_words=is_split, verbose=False)["input_ids"]:
            return False
    return True


def _is_split(source: ExportSource) -> bool:
    return source.config.task.kind == "token_classification"


def _appends_end(source: ExportSource) -> bool:
    """Return whether the run reads an end-of-text token after a passage, as where pairs have no special tokens."""
    is_span, own = source.bundle.format.output_kind == "spans", source.bundle.tokenizer
    return is_span and not any(own("a", "b", return_special_tokens_mask=True)["special_tokens_mask"])


def _limit(source: ExportSource) -> int:
    return int(min(source.config.task.max_length, source.bundle.tokenizer.model_max_length))


def _start(source: ExportSource, inputs: Sequence[str]) -> list[str]:
    """Return the lines that make the inputs of a batch of texts."""
    tokenizer, has_labels = source.bundle.tokenizer, bool(source.bundle.format.names)
    strategy = ', strategy="only_second"' if source.bundle.format.output_kind == "spans" else ""
    limit, ends = _limit(source), dict.fromkeys(inputs, "")
    if _appends_end(source):
        values = {"input_ids": source.bundle.format.end_id, "attention_mask": 1, "token_type_ids": 0}
        limit, ends = limit - 1, {name: f" + [{values[name]}]" for name in inputs}
    return [
        *(["import json", ""] if has_labels else []),
        "import numpy as np",
        "import onnxruntime",
        "from tokenizers import Tokenizer",
        "",
        'tokenizer = Tokenizer.from_file("tokenizer.json")',
        f"tokenizer.enable_truncation({limit}{strategy})",
        f"tokenizer.enable_padding(pad_id={tokenizer.pad_token_id}, pad_token={literal(tokenizer.pad_token)})",
        'session = onnxruntime.InferenceSession("model.onnx")',
        *(['labels = json.load(open("config.json", encoding="utf-8"))["id2label"]'] if has_labels else []),
        "",
        *_texts(source),
        f"batch = tokenizer.encode_batch(texts{', is_pretokenized=True' if _is_split(source) else ''})",
        "inputs = {",
        *(
            f'    "{name}": np.array([each.{FIELDS[name]}{ends[name]} for each in batch], dtype=np.int64),'
            for name in inputs
        ),
        "}",
    ]


def _texts(source: ExportSource) -> list[str]:
    """Return the lines that set `texts` to those that are tokenized."""
    task, task_format = source.config.task, source.bundle.format
    columns, both = text_columns(task), f"{TEXTS[0]!r}, {TEXTS[1]!r}".replace("'", '"')
    if task_format.output_kind == "spans":
        end = ' + "\\n"' if _appends_end(source) else ""
        return [
            'question, passage = "Who wrote it?", "It was written by Ada Lovelace in 1843."',
            f"texts = [(question{end}, passage)]",
        ]
    if _is_split(source):
        own = source.bundle.tokenizer
        is_byte_level = own(["a", "film"], is_split_into_words=True)["input_ids"] != own("a film")["input_ids"]
        words = ["words = [" + ", ".join(f'"{word}"' for word in TEXTS[0].split()) + "]"]
        spaced = 'texts = [[f" {word}" if number else word for number, word in enumerate(words)]]'
        return [*words, spaced if is_byte_level else "texts = [words]"]
    if task_format.output_kind == "verbalizer":
        values = ", ".join(literal(TEXTS[number % 2]) for number in range(len(task.text)))
        template = literal(positional_template(text_to_text_template(task), task.text))
        return [f"template = {template}", f"texts = [template.format({values}).rstrip()]"]
    if len(columns) == 1 or task_format.output_kind == "embeddings":
        return [f"texts = [{both}]"]
    return [f'texts = ["\\n".join([{both}])]' if task_format.is_decoder else f"texts = [({both})]"]


def _end(source: ExportSource) -> list[str]:
    """Return the lines that compute and print the answers."""
    task, task_format, kind = source.config.task, source.bundle.format, kind_of(source.config.task)
    if task_format.output_kind == "embeddings":
        return ['(embeddings,) = session.run(["embeddings"], inputs)', "print(embeddings @ embeddings.T)"]
    if task_format.output_kind == "spans":
        return [
            'start, end = (each[0] for each in session.run(["start_logits", "end_logits"], inputs))',
            "inside = [token for token, part in enumerate(batch[0].sequence_ids) if part == 1]",
            f"spans = [(start[a] + end[b], a, b) for a in inside for b in inside if a <= b < a + {MAX_ANSWER_TOKENS}]",
            "score, first, last = max(spans)",
            "answer = passage[batch[0].offsets[first][0] : batch[0].offsets[last][1]].strip()",
            *(_no_answer(source) if task.no_answer else ["print(answer)"]),
        ]
    if _is_split(source):
        return [
            '(logits,) = session.run(["logits"], inputs)',
            "first = {word: token for token, word in reversed([*enumerate(batch[0].word_ids)]) if word is not None}",
            "for number, token in sorted(first.items()):",
            "    print(words[number], labels[str(logits[0, token].argmax())])",
        ]
    if kind.several_labels:
        found = source.run.score_thresholds
        thresholds = (
            [DEFAULT_THRESHOLD] if found is None else probabilities(found, source.run.temperature, True).tolist()  # type: ignore[arg-type]
        )
        return [
            '(found,) = session.run(["probabilities"], inputs)',
            "for text, row in zip(texts, found):",
            f"    chosen = np.flatnonzero(row >= np.array({thresholds}))",
            "    print(text, [labels[str(number)] for number in chosen], row)",
        ]
    if kind.has_label_probabilities:
        return [
            '(found,) = session.run(["probabilities"], inputs)',
            "for text, row in zip(texts, found):",
            "    print(text, labels[str(row.argmax())], row.max())",
        ]
    number = "row[0]"
    if task_format.output_kind == "verbalizer":
        number = f"{task_format.values.tolist()}[row.argmax()]"  # type: ignore[attr-defined]
    elif task.label_order is not None:
        names = [label_name(each) for each in task.label_order]
        number = f"{names}[int(np.clip(np.rint(row[0]), 1, {len(names)})) - 1]"
    return [
        '(found,) = session.run(["logits"], inputs)',
        "for text, row in zip(texts, found):",
        f"    print(text, {number})",
    ]


def _no_answer(source: ExportSource) -> list[str]:
    """Return the lines that print an answer, unless its score is at most that of no answer."""
    own = source.bundle.tokenizer
    has_cls = own.cls_token_id is not None and own.cls_token_id in own("a", "b")["input_ids"]
    token = f"batch[0].ids.index({own.cls_token_id})" if has_cls else "-1"
    return [f"none = {token}", f'print("{NO_ANSWER}" if start[none] + end[none] >= score else answer)']
