"""Tags of tasks: a new token for each task of a run, which its tokenizer puts in front of every input."""

from collections.abc import Sequence
from pathlib import Path

from peftkit.config import RunConfig
from peftkit.config.source import Source
from peftkit.models.embedding_rows import Vocabulary, initial_rows, save_rows
from peftkit.models.load import load_model
from peftkit.models.tokenizer import load_tokenizer
from peftkit.models.tokenizer_extension import with_tag
from peftkit.models.vocabulary import NewToken
from peftkit.paths import safe_name


def write_tags(config: RunConfig, source: Source, tasks: Sequence[str], folder: Path) -> dict[str, str]:
    """Write a vocabulary for each task as job=extend does, and return their folders by the task's name.

    Each has the rows of all tags, which start as the mean of the checkpoint's, and a tokenizer with the task's own tag
    in front of a text.
    """
    tokenizer = load_tokenizer(source)
    model = load_model(config.model, source, tokenizer, "retrieval", None)
    rows, last = model.get_input_embeddings().weight.shape[0], max(tokenizer.get_vocab().values())
    first, names = max(rows, last + 1), [f"<task_{safe_name(task)}>" for task in tasks]
    tokens = [NewToken(number, name, name, []) for number, name in enumerate(names, start=first)]
    weights = initial_rows(model, tokens, min(last + 1, rows), "mean", config.seed)
    weights = {name: each for name, each in weights.items() if name.removeprefix("rest.") == "input"}
    vocabulary = Vocabulary(first, len(tokens), first + len(tokens), rows, source.name, source.revision)
    unused = [f"<unused_{number}>" for number in range(last + 1, first)]
    folders = {task: folder / safe_name(task) for task in tasks}
    for name, place in zip(names, folders.values(), strict=True):
        save_rows(place, vocabulary, weights)
        with_tag(tokenizer, [*unused, *names], name).save_pretrained(str(place))
    return {task: str(place) for task, place in folders.items()}
