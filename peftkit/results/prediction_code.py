"""Python code that predicts with the loaded model of a run as peftkit does, for its card."""

from collections.abc import Mapping
from typing import Any

from peftkit.config import RunConfig, generates_text, kind_of
from peftkit.config.decoding import upstream_values
from peftkit.config.kinds import DECODER, SEQ2SEQ
from peftkit.config.templates import parse_template
from peftkit.data.columns import text_columns
from peftkit.data.formats.classification import similarity_scores, text_to_text_template
from peftkit.data.formats.question_answering import MAX_ANSWER_TOKENS
from peftkit.results.loading_code import Artifact, Code, literal

CHAT = '[{"role": "user", "content": "Name three rivers."}]'
TURNS = "tokenizer.apply_chat_template({}, add_generation_prompt=True, return_dict=True)"
POOLING = {
    "mean": "(states * mask).sum(1) / mask.sum(1)",
    "cls": "states[:, 0]",
    "last": "states[torch.arange(len(texts)), inputs.attention_mask.sum(1) - 1]",
}


def prediction_code(run: RunConfig, result: Mapping[str, Any], artifact: Artifact, code: Code) -> None:
    """Add to the code that loads an artifact a function `predict`, and a call of it.

    Args:
        result: result.json of the run.
    """
    kind, family = kind_of(run.task), run.model.family
    if kind.sequence_label and family == SEQ2SEQ:
        _add_text_to_text(run, result, code)
    elif kind.has_sequence_head:
        _add_labels(run, result, artifact, code)
    elif kind.name == "token_classification":
        _add_tags(run, code)
    elif kind.name == "question_answering":
        _add_spans(run, code)
    elif kind.name == "retrieval":
        _add_embeddings(run, result, code)
    elif kind.chat_template or generates_text(run.task):
        _add_answers(run, code)
    elif family in kind.pipelines:
        _add_pipeline(kind.pipelines[family], code)


def _add_function(code: Code, lines: str, call: str) -> None:
    code.modules.add("torch")
    code.lines += ["", "", "@torch.no_grad()", *lines.strip("\n").split("\n"), "", "", f"print({call})"]


def _limit(run: RunConfig, answer: int = 0) -> str:
    """Return the expression of the maximal number of tokens of a text before an answer of so many."""
    return f"min({run.task.max_length}, tokenizer.model_max_length{f' - {answer}' if answer else ''})"


def _is_pair(run: RunConfig) -> bool:
    """Return whether a model reads two texts; a conversation, or the prompt of a preference, is one."""
    return not kind_of(run.task).chat_template and len(text_columns(run.task)) > 1


def _inputs(run: RunConfig) -> str:
    """Return the lines that tokenize texts, or pairs of them, for a model with a head."""
    if not _is_pair(run):
        return _tokenized(run, "texts")
    if run.model.family == DECODER:
        return _tokenized(run, '["\\n".join(pair) for pair in texts]')
    return f"    first, second = map(list, zip(*texts))\n{_tokenized(run, 'first, second')}"


def _tokenized(run: RunConfig, texts: str) -> str:
    """Return the lines that tokenize what the expression `texts` has."""
    options = f'padding=True, truncation=True, max_length={_limit(run)}, return_tensors="pt"'
    return f"    inputs = tokenizer(\n        {texts},\n        {options},\n    )"


def _example(run: RunConfig) -> str:
    return '[("a text", "another text")]' if _is_pair(run) else '["a text"]'


def _argument(run: RunConfig) -> str:
    return "pairs of texts" if _is_pair(run) else "texts"


def _add_labels(run: RunConfig, result: Mapping[str, Any], artifact: Artifact, code: Code) -> None:
    """Add a function that returns probabilities of labels, or a number."""
    kind, call = kind_of(run.task), f"predict({_example(run)})"
    if not kind.has_label_names:
        order = run.task.label_order
        numbers = "    numbers = model(**inputs).logits[:, 0].tolist()\n    return numbers"
        if order is not None:
            code.lines.append(f"order = {literal([str(label) for label in order])}")
            numbers = (
                "    places = model(**inputs).logits[:, 0].round().long() - 1\n"
                "    return [order[place] for place in places.clamp(0, len(order) - 1)]"
            )
        what = "the nearest of the ordered labels" if order is not None else "a number"
        text = f'def predict(texts):\n    """Return {what} for each of a list of {_argument(run)}."""'
        _add_function(code, f"{text}\n{_inputs(run)}\n{numbers}", call)
        return
    calibration = result.get("calibration") or {}
    temperature = None if artifact.is_calibrated else calibration.get("temperature")
    scores = "model(**inputs).logits" + (f" / {temperature!r}" if temperature is not None else "")
    if temperature is not None:
        scores = f"({scores})"
    if kind.several_labels:
        thresholds = calibration.get("thresholds") or dict.fromkeys(result["audit"]["label_names"], 0.5)
        code.lines.append(f"thresholds = {literal(thresholds)}  # probabilities from which on labels are predicted")
    probability = "sigmoid()" if kind.several_labels else "softmax(dim=-1)"
    code.lines.append("labels = [model.config.id2label[number] for number in range(model.config.num_labels)]")
    _add_function(
        code,
        f'def predict(texts):\n    """Return the probability of each label, for a list of {_argument(run)}."""\n'
        f"{_inputs(run)}\n    probabilities = {scores}.{probability}\n"
        "    return [dict(zip(labels, row)) for row in probabilities.tolist()]",
        call,
    )


def positional_template(template: str, columns: list[str]) -> str:
    """Return a template with the place of each column in place of its name, for `str.format`."""
    parts = []
    for text, name in parse_template(template):
        parts.append(text.replace("{", "{{").replace("}", "}}"))
        parts += [] if name is None else [f"{{{columns.index(name)}}}"]
    return "".join(parts)


def _filled(run: RunConfig, template: str | None) -> str:
    """Return the expression of the text that a model reads, of one `text`, which may be a pair."""
    parts = "*map(str.strip, text)" if _is_pair(run) else "text.strip()"
    if template is not None:
        return f"template.format({parts}).rstrip()"
    return '"\\n".join(filter(None, map(str.strip, text)))' if _is_pair(run) else "text.strip()"


def _add_text_to_text(run: RunConfig, result: Mapping[str, Any], code: Code) -> None:
    """Add a function that ranks the labels by their likelihood."""
    names, template = result["audit"]["label_names"], text_to_text_template(run.task)
    is_number = names is None
    labels = [f"{value:.1f}" for value in similarity_scores()] if is_number else list(names)
    temperature = (result.get("calibration") or {}).get("temperature")
    divided = f" / {temperature!r}" if temperature is not None else ""
    code.lines += [f"template = {literal(positional_template(template, run.task.text))}", f"labels = {literal(labels)}"]
    what = "the number" if is_number else "the probability of each label,"
    returned = (
        "    return [float(labels[best]) for best in likelihoods.argmax(dim=-1)]"
        if is_number
        else f"    return [dict(zip(labels, row)) for row in (likelihoods{divided}).softmax(dim=-1).tolist()]"
    )
    _add_function(
        code,
        f'''def predict(texts):
    """Return {what} for each of a list of {_argument(run)}, by the likelihood of the labels."""
{_tokenized(run, f"[{_filled(run, template)} for text in texts]")}
    scores = []
    for label in labels:
        target = tokenizer(text_target=label, return_tensors="pt")["input_ids"].repeat(len(texts), 1)
        tokens = model(**inputs, labels=target).logits.log_softmax(dim=-1)
        scores.append(tokens.gather(-1, target[..., None]).sum(dim=(1, 2)))
    likelihoods = torch.stack(scores, dim=-1)
{returned}''',
        f"predict({_example(run)})",
    )


def _add_tags(run: RunConfig, code: Code) -> None:
    code.lines.append("labels = [model.config.id2label[number] for number in range(model.config.num_labels)]")
    code.lines.append('is_split = tokenizer(["a", "film"], is_split_into_words=True)["input_ids"]')
    code.lines.append('space = "" if is_split == tokenizer("a film")["input_ids"] else " "')
    _add_function(
        code,
        f'''def predict(texts):
    """Return the tag of each word of texts, which are lists of words; None for a word that was cut off."""
    tags = []
    for words in texts:
        spaced = [f"{{space}}{{word}}" if number else word for number, word in enumerate(words)]
        inputs = tokenizer(
            spaced, is_split_into_words=True, truncation=True, max_length={_limit(run)}, return_tensors="pt"
        )
        best, first = model(**inputs).logits[0].argmax(dim=-1).tolist(), {{}}
        for token, word in enumerate(inputs.word_ids(0)):
            first.setdefault(word, token)
        tags.append([labels[best[first[word]]] if word in first else None for word in range(len(words))])
    return tags''',
        'predict([["a", "text"]])',
    )


def _add_spans(run: RunConfig, code: Code) -> None:
    is_decoder = run.model.family == DECODER
    question = 'f"{question.strip()}\\n"' if is_decoder else "question.strip()"
    limit = f"{_limit(run)} - 1" if is_decoder else _limit(run)
    ending = "\n        read.input_ids.append(tokenizer.eos_token_id)\n        read.attention_mask.append(1)"
    ending = ending if is_decoder else ""
    null = ""
    if run.task.no_answer:
        place = "read.input_ids.index(tokenizer.cls_token_id) if tokenizer.cls_token_id in read.input_ids else -1"
        null = f"""
        no_answer = {place}
        if starts[no_answer] + ends[no_answer] >= sums.max():
            answers[-1] = \"\""""
    _add_function(
        code,
        f'''def predict(pairs):
    """Return the answer to each question in its passage, as far as the model reads it at once."""
    answers = []
    for question, passage in pairs:
        read = tokenizer(
            {question}, passage, truncation="only_second", max_length={limit}, return_offsets_mapping=True
        )
        of_passage = [part == 1 for part in read.sequence_ids()]
        offsets = read.pop("offset_mapping"){ending}
        scores = model(**{{name: torch.tensor([ids]) for name, ids in read.items()}})
        starts, ends = scores.start_logits[0], scores.end_logits[0]
        tokens = [token for token, is_inside in enumerate(of_passage) if is_inside]
        sums = starts[tokens][:, None] + ends[tokens]
        is_span = torch.ones_like(sums).triu().tril({MAX_ANSWER_TOKENS - 1}).bool()
        sums = sums.masked_fill(~is_span, -torch.inf)
        start, end = (tokens[place] for place in divmod(int(sums.argmax()), len(tokens)))
        answers.append(passage[offsets[start][0] : offsets[end][1]].strip()){null}
    return answers''',
        'predict([("Where is it?", "It is in Berlin.")])',
    )


def _add_embeddings(run: RunConfig, result: Mapping[str, Any], code: Code) -> None:
    pooling = POOLING[result["audit"]["sources"]["model"]["pooling"]]
    mask = "    mask = inputs.attention_mask[..., None]\n" if "mask)" in pooling else ""
    _add_function(
        code,
        f'''def predict(texts):
    """Return the embeddings of texts, of length one: their cosine is the dot product."""
{_tokenized(run, "texts")}
    states = model(**inputs)[0]
{mask}    return torch.nn.functional.normalize({pooling}, dim=-1)''',
        'predict(["a text"])',
    )


def _add_answers(run: RunConfig, code: Code) -> None:
    """Add a function that generates an answer to each text or conversation."""
    is_decoder, kind = run.model.family == DECODER, kind_of(run.task)
    limit = _limit(run, run.task.answer_length if is_decoder else 0)
    settings = {"max_new_tokens": run.task.answer_length, "do_sample": False} | upstream_values(
        run.task.generation or {}
    )
    how = "sampled, with other random numbers than the run's" if settings["do_sample"] else "as the run generated them"
    is_chat = is_decoder and kind.name == "instructions"
    if run.task.template is not None and not is_chat:
        code.lines.append(f"template = {literal(positional_template(run.task.template, run.task.text))}")
    cut = "" if is_decoder else f", truncation=True, max_length={limit}"
    read = TURNS.format("text") if is_chat else f"tokenizer({_filled(run, run.task.template)}{cut})"
    if kind.name == "preferences" and run.task.chat is not False:
        turn = '[{"role": "user", "content": ' + _filled(run, run.task.template) + "}]"
        read = f"({TURNS.format(turn)} if tokenizer.chat_template else {read})"
    start, answer = (f"[-{limit} :]", "out[0, len(ids) :]") if is_decoder else ("", "out[0]")
    _add_function(
        code,
        f'''def predict(texts):
    """Return the answer to each of a list of {"conversations" if is_chat else _argument(run)}, {how}."""
    answers = []
    for text in texts:
        ids = {read}["input_ids"]{start}
        inputs = torch.tensor([ids])
        out = model.generate(
            input_ids=inputs, attention_mask=torch.ones_like(inputs), pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id, {", ".join(f"{name}={value!r}" for name, value in settings.items())},
        )
        answers.append(tokenizer.decode({answer}, skip_special_tokens=True).strip())
    return answers''',
        f"predict([{CHAT}])" if is_chat else f"predict({_example(run)})",
    )


def _add_pipeline(pipeline: str, code: Code) -> None:
    text = 'f"a {tokenizer.mask_token} text"' if pipeline == "fill-mask" else '"a text"'
    code.lines.append(f'predict = {code.name("pipeline")}("{pipeline}", model=model, tokenizer=tokenizer)')
    code.lines.append(f"print(predict({text}))")
