"""Extended vocabularies: listed and mined terms as new tokens of a model, each with an embedding row."""

import sys
from collections import Counter
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from peftkit.config import Extend, RunConfig, UserError
from peftkit.config.console import log
from peftkit.config.source import Source, fingerprint
from peftkit.data.batches import batch_by_characters
from peftkit.data.streaming import corpus_files, stream_documents
from peftkit.data.term_mining import TermCandidate, WordCounts, count_words, rank_candidates, read_terms
from peftkit.models.embedding_rows import RECORD_FILE, ROWS_FILE, Vocabulary, add_new_rows, initial_rows, save_rows
from peftkit.models.load import load_language_model
from peftkit.models.tokenizer import load_tokenizer
from peftkit.models.vocabulary import Extension, extend_tokenizer, normalized_term, piece_counts
from peftkit.paths import safe_name
from peftkit.pipeline.artifacts import base_source, find_model
from peftkit.pipeline.sources import device_name, warn_substitutions
from peftkit.results import run_folder
from peftkit.results.locks import locked_folder
from peftkit.results.run_result import RunResult

BATCH_CHARACTERS = 1 << 20  # tokenized at a time
MAX_SHOWN = 10  # refused terms on the console


def extend(config: RunConfig) -> Path:
    """Add listed and mined terms to a tokenizer, and write it, their embedding rows and result.json to a folder.

    Raises:
        UserError: the list or the corpus cannot be read, or no term can become a token.
    """
    settings, source = config.extend, find_model(config.model, config.source)
    folder = _folder(config, settings, source)
    with locked_folder(folder):
        if run_folder.is_finished(folder) and not config.force:
            log(f"finished already: {folder} (force=true repeats it)")
        else:
            _extend(config, source, folder)
    return folder


def _extend(config: RunConfig, source: Source, folder: Path) -> None:
    """Write the folder, which is locked."""
    settings = config.extend
    warn_substitutions(source)
    meta = run_folder.meta(config.seed, device_name(), "fp32") | {"status": "finished"}
    tokenizer = load_tokenizer(source)
    listed = read_terms(Path(settings.terms)) if settings.terms else []
    mined, counts = _mine(settings, tokenizer, {normalized_term(tokenizer, term) for term in listed})
    model, no_head = load_language_model(source, tokenizer)
    old_rows = model.get_input_embeddings().weight.shape[0]
    extension = extend_tokenizer(tokenizer, [*listed, *(candidate.term for candidate in mined)], old_rows)
    if not extension.tokens:
        reasons = "; ".join(f"{term!r}: {reason}" for term, reason in extension.refused[:3])
        raise UserError(f"no term became a token ({reasons or 'the corpus has none'}); use other terms or more text")
    first, count, multiple = extension.tokens[0].id, len(extension.tokens), settings.pad_to_multiple_of or 1
    padded_rows = -(-(first + count) // multiple) * multiple
    vocabulary = Vocabulary(first, count, padded_rows, old_rows, source.name, source.revision)
    trained_rows = min(max(tokenizer.get_vocab().values()) + 1, old_rows)
    weights = initial_rows(model, extension.tokens, trained_rows, settings.init, config.seed)
    if no_head:  # the output layer is newly initialized: its rows carry no information
        weights = {name: rows for name, rows in weights.items() if name.removeprefix("rest.") == "input"}
    save_rows(folder, vocabulary, weights)
    extension.tokenizer.save_pretrained(str(folder))
    result = {
        "run": {"config": config.to_dict(), "overrides": list(config.overrides)},
        "terms": _terms(extension, tokenizer, {candidate.term: candidate for candidate in mined}),
        "rows": {
            **asdict(vocabulary),
            "rule": settings.init,
            "tables": sorted(name for name in weights if not name.startswith("rest.")),
            "bytes": (folder / ROWS_FILE).stat().st_size,
        },
        "corpus": _measure(settings, tokenizer, extension, counts),
        "audit": {"sources": {"model": {**asdict(source), "folder": None}}},
        "meta": meta,
    }
    run_folder.write_config(folder, config)
    run_folder.write_result(folder, result)
    _report(folder, result)


def is_vocabulary(folder: Path) -> bool:
    """Return whether a folder was written by job=extend."""
    return (folder / RECORD_FILE).is_file()


def load_extended(folder: Path) -> tuple[Any, Any]:
    """Return the untrained model of an extended vocabulary and its tokenizer.

    The model has the language modeling head of its checkpoint, or only the base if the checkpoint has none.
    """
    source = base_source(RunResult.finished(folder))
    model, no_head = load_language_model(source, load_tokenizer(source))
    extended = model.base_model if no_head else model
    add_new_rows(extended, folder)
    return extended.eval(), load_tokenizer(Source("folder", str(folder), folder=str(folder)))


def _folder(config: RunConfig, settings: Extend, source: Source) -> Path:
    """Return out/extend/<model>/<id>: the id depends on what determines the tokens and their embedding rows."""
    options = {key: value for key, value in asdict(settings).items() if key not in ("terms", "corpus")}
    files = corpus_files(settings.corpus) if settings.corpus else []
    contents = [fingerprint(Path(settings.terms)) if settings.terms else None]
    contents += [settings.corpus] if files is None else map(fingerprint, files)
    determining = [options, contents, source.name if source.kind != "folder" else None, source.revision, config.seed]
    return Path(config.out, "extend", safe_name(config.model.name), run_folder.digest(determining))


def _mine(settings: Extend, tokenizer: Any, listed: set[str]) -> tuple[list[TermCandidate], WordCounts | None]:
    """Return the terms of the corpus, best first, and its word counts; the held-out tenth is skipped."""
    if settings.corpus is None or settings.budget == 0:
        return [], None
    texts = (text for text, is_held_out in stream_documents(settings.corpus, settings.column) if not is_held_out)
    counts = count_words(normalized_term(tokenizer, text) for text in texts)
    for term in listed:
        counts.words.pop(term, None)
    return rank_candidates(counts, partial(piece_counts, tokenizer), settings.budget, settings.min_count), counts


def _terms(extension: Extension, tokenizer: Any, mined: dict[str, TermCandidate]) -> dict[str, Any]:
    """Return the added terms, with their new ids and former sub-words, and the refused ones with their reasons."""
    ids: dict[str, list[int]] = {}
    for token in extension.tokens:
        ids.setdefault(token.term, []).append(token.id)
    added = [
        {
            "term": term,
            "ids": ids[term],
            "count": mined[term].count if term in mined else None,
            "pieces": pieces,
            "pieces_before": tokenizer.tokenize(term),
        }
        for term, pieces in zip(ids, piece_counts(tokenizer, list(ids)), strict=True)
    ]
    return {"added": added, "refused": [{"term": term, "reason": reason} for term, reason in extension.refused]}


def _measure(settings: Extend, before: Any, extension: Extension, counts: WordCounts | None) -> dict[str, Any] | None:
    """Return the tokens per word (between spaces) on the held-out tenth, with the old and the new tokenizer.

    `changed` counts documents that contain no new token, but are tokenized differently than before.
    """
    if settings.corpus is None:
        return None
    new = {token.id for token in extension.tokens}
    texts = (text for text, is_held_out in stream_documents(settings.corpus, settings.column) if is_held_out)
    counted = Counter(
        dict.fromkeys(("documents", "words", "pieces_before", "pieces_after", "with_terms", "changed"), 0)
    )
    for batch in batch_by_characters(texts, BATCH_CHARACTERS, sys.maxsize, str):
        old_ids, new_ids = (
            each(batch, add_special_tokens=False)["input_ids"] for each in (before, extension.tokenizer)
        )
        has_term = [not new.isdisjoint(ids) for ids in new_ids]
        counted.update(
            documents=len(batch),
            words=sum(len(text.split()) for text in batch),
            pieces_before=sum(map(len, old_ids)),
            pieces_after=sum(map(len, new_ids)),
            with_terms=sum(has_term),
            changed=sum(old != now for old, now, has in zip(old_ids, new_ids, has_term, strict=True) if not has),
        )
    words = max(counted["words"], 1)
    return {
        "held_out": counted,
        "pieces_a_word": {"before": counted["pieces_before"] / words, "after": counted["pieces_after"] / words},
        "mined_from": None if counts is None else {"words": counts.total, "missed": counts.max_undercount},
    }


def _report(folder: Path, result: dict[str, Any]) -> None:
    terms, rows = result["terms"], result["rows"]
    for entry in terms["refused"][:MAX_SHOWN]:
        log(f"   refused {entry['term']!r}: {entry['reason']}")
    if (more := len(terms["refused"]) - MAX_SHOWN) > 0:
        log(f"   and {more} more; result.json has all reasons")
    print(f"{len(terms['added'])} terms, {rows['count']} of {rows['rows']:,} embedding rows, {rows['bytes']:,} bytes")
    if corpus := result["corpus"]:
        ratio = corpus["pieces_a_word"]
        print(f"tokens per word on the held-out tenth: {ratio['before']:.3f} before, {ratio['after']:.3f} after")
        if changed := corpus["held_out"]["changed"]:
            log(f"!! {changed} held-out documents without a new token are tokenized differently than before")
    log(f"-> {folder}; train with it: vocab={folder}")
