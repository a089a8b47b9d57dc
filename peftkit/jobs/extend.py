"""Turn a model's tokenizer and a list or a corpus of terms into a folder by which those terms are tokens of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from peftkit.config import Extend, RunConfig, UserError
from peftkit.config.source import Source, fingerprint
from peftkit.data.corpus import corpus_files, stream_documents
from peftkit.data.term_mining import Candidate, WordCounts, count_words, rank_candidates, read_terms
from peftkit.models.embedding_rows import FACTS, WEIGHTS, Vocabulary, first_rows, grow, save_rows
from peftkit.models.language_model import load_language_model
from peftkit.models.load import load_tokenizer
from peftkit.models.vocabulary import Extension, as_read, extend_tokenizer, piece_counts
from peftkit.paths import safe_name
from peftkit.pipeline.sources import device_name, find_model
from peftkit.results import run_folder
from peftkit.results.console import is_main_process, log

LETTERS = 1 << 20  # of text tokenized at a time


def extend(run: RunConfig) -> Path:
    """Make listed and mined terms tokens of a model, and leave a folder with tokenizer, new rows and result.json.

    Raises:
        UserError: the list or the corpus cannot be read, or no term of them can become a token.
    """
    settings = run.extend
    assert settings is not None  # its section is in config.yaml
    source = find_model(run.model, run.source)
    folder = _folder(run, settings, source)
    if run_folder.is_finished(folder) and not run.force:
        log(f"finished already: {folder} (force=true makes it again)")
        return folder
    if sentence := source.substitution("MODEL"):
        log(f"!! {sentence}")
    started = datetime.now(timezone.utc).isoformat(timespec="seconds")
    tokenizer = load_tokenizer(source)
    listed = read_terms(Path(settings.terms)) if settings.terms else []
    mined, counts = _mine(settings, tokenizer, {as_read(tokenizer, term) for term in listed})
    model, why_no_head = load_language_model(source, tokenizer)
    old_rows = model.get_input_embeddings().weight.shape[0]
    extension = extend_tokenizer(tokenizer, [*listed, *(found.term for found in mined)], old_rows)
    if not extension.tokens:
        reasons = "; ".join(f"{term!r}: {reason}" for term, reason in extension.refused[:3])
        raise UserError(f"no term became a token ({reasons or 'none was found'}); name other terms or more text")
    vocabulary = _vocabulary(extension, source, old_rows, settings.pad_to_multiple_of)
    known = max(tokenizer.get_vocab().values()) + 1
    weights = first_rows(model, extension.tokens, min(known, old_rows), settings.init, run.seed)
    if why_no_head:  # what was drawn at random just now says nothing about any token
        weights = {name: rows for name, rows in weights.items() if name.removeprefix("rest.") == "input"}
    if is_main_process():
        save_rows(folder, vocabulary, weights)
        extension.tokenizer.save_pretrained(str(folder))
        result = {
            "run": {"config": run.to_dict(), "overrides": list(run.overrides)},
            "terms": _terms(extension, tokenizer, {found.term: found for found in mined}),
            "rows": {
                **asdict(vocabulary),
                "rule": settings.init,
                "tables": sorted(name for name in weights if not name.startswith("rest.")),
                "bytes": (folder / WEIGHTS).stat().st_size,
            },
            "corpus": _measure(settings, tokenizer, extension, counts),
            "audit": {"sources": {"model": {**asdict(source), "folder": None}}},
            "meta": run_folder.meta(run.seed, device_name(), "fp32", started) | {"status": "finished"},
        }
        run_folder.write_config(folder, run)
        run_folder.write_result(folder, result)
        _tell(folder, result)
    return folder


def is_vocabulary(folder: Path) -> bool:
    """Tell whether job=extend made a folder."""
    return (folder / FACTS).is_file()


def load(folder: Path) -> tuple[Any, Any]:
    """Return the model of an extended vocabulary, nothing trained yet, and its tokenizer.

    The model has the head that it was pretrained with, or none where the checkpoint has none.
    """
    result = run_folder.read_result(folder)
    if result is None:
        raise UserError(f"{folder} holds no result.json; name a folder that job=extend made")
    entry = dict(result["audit"]["sources"]["model"])
    source = Source(**entry)
    if source.kind == "offline":
        source = find_model(RunConfig.from_config(result["run"]["config"]).model, "offline")
    elif source.kind == "folder":
        source = Source("folder", source.name, source.revision, folder=source.name)
    model, why_no_head = load_language_model(source, load_tokenizer(source))
    whole = model.base_model if why_no_head else model
    grow(whole, folder)
    return whole.eval(), load_tokenizer(Source("folder", str(folder), folder=str(folder)))


def write_whole(folder: Path, target: Path) -> None:
    """Write the base with the new rows in its embeddings as a checkpoint that transformers loads."""
    model, tokenizer = load(folder)
    model.save_pretrained(str(target))
    tokenizer.save_pretrained(str(target))
    log(f"merged -> {target}")


def _folder(run: RunConfig, settings: Extend, source: Source) -> Path:
    """Return out/extend/<model>/<id>: the id is of all that determines the tokens and their rows."""
    read = {key: value for key, value in asdict(settings).items() if key not in ("terms", "corpus")}
    files = corpus_files(settings.corpus) if settings.corpus else []
    revisions = [fingerprint(Path(settings.terms)) if settings.terms else None]
    revisions += [settings.corpus] if files is None else [fingerprint(file) for file in files]
    text = json.dumps([read, revisions, source.name, source.revision, run.seed], sort_keys=True)
    name = safe_name(run.model.name)
    return Path(run.out, "extend", name, hashlib.sha256(text.encode()).hexdigest()[:8])


def _mine(settings: Extend, tokenizer: Any, listed: set[str]) -> tuple[list[Candidate], WordCounts | None]:
    """Return the corpus's own terms, best first, and how its words were counted; the held-out tenth is not read."""
    if settings.corpus is None or settings.budget == 0:
        return [], None
    texts = (text for text, is_held_out in stream_documents(settings.corpus, settings.column) if not is_held_out)
    counts = count_words(as_read(tokenizer, text) for text in texts)
    for term in listed:
        counts.words.pop(term, None)
    found = rank_candidates(counts, lambda words: piece_counts(tokenizer, words), settings.budget, settings.min_count)
    return found, counts


def _vocabulary(extension: Extension, source: Source, old_rows: int, pad_to: int | None) -> Vocabulary:
    first, count = extension.tokens[0].id, len(extension.tokens)
    rows = -(-(first + count) // (pad_to or 1)) * (pad_to or 1)
    return Vocabulary(first, count, rows, old_rows, source.name, source.revision)


def _terms(extension: Extension, tokenizer: Any, mined: dict[str, Candidate]) -> dict[str, Any]:
    """Return every term that was added, with its ids and what it was before, and every one refused, with the reason."""
    added: dict[str, dict[str, Any]] = {}
    for token in extension.tokens:
        entry = added.setdefault(
            token.term, {"term": token.term, "ids": [], "count": None, "pieces": None, "pieces_before": []}
        )
        entry["ids"].append(token.id)
        if token.term in mined:
            entry["count"] = mined[token.term].count
    for entry, pieces in zip(added.values(), piece_counts(tokenizer, list(added)), strict=True):
        entry["pieces"] = pieces
        entry["pieces_before"] = tokenizer.tokenize(entry["term"])
    refused = [{"term": term, "reason": reason} for term, reason in extension.refused]
    return {"added": list(added.values()), "refused": refused}


def _measure(settings: Extend, before: Any, extension: Extension, counts: WordCounts | None) -> dict[str, Any] | None:
    """Return pieces a word (between spaces) on the held-out tenth, with the old and the new tokenizer.

    `changed` counts documents that hold no new token and are cut otherwise than before.
    """
    if settings.corpus is None:
        return None
    new = {token.id for token in extension.tokens}
    texts = (text for text, is_held_out in stream_documents(settings.corpus, settings.column) if is_held_out)
    found = dict.fromkeys(("documents", "words", "pieces_before", "pieces_after", "with_terms", "changed"), 0)
    for batch in _batches(texts):
        old_ids = before(batch, add_special_tokens=False)["input_ids"]
        new_ids = extension.tokenizer(batch, add_special_tokens=False)["input_ids"]
        found["documents"] += len(batch)
        found["words"] += sum(len(text.split()) for text in batch)
        found["pieces_before"] += sum(map(len, old_ids))
        found["pieces_after"] += sum(map(len, new_ids))
        for old, now in zip(old_ids, new_ids, strict=True):
            has_term = not new.isdisjoint(now)
            found["with_terms"] += has_term
            found["changed"] += not has_term and old != now
    words = max(found["words"], 1)
    return {
        "held_out": found,
        "pieces_a_word": {"before": found["pieces_before"] / words, "after": found["pieces_after"] / words},
        "mined_from": None if counts is None else {"words": counts.total, "missed": counts.missed},
    }


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    """Yield texts of LETTERS letters together, so that no corpus needs more memory than its longest text."""
    batch: list[str] = []
    size = 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if size >= LETTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _tell(folder: Path, result: dict[str, Any]) -> None:
    terms, rows = result["terms"], result["rows"]
    for entry in terms["refused"][:10]:
        log(f"   not {entry['term']!r}: {entry['reason']}")
    if len(terms["refused"]) > 10:
        log(f"   and {len(terms['refused']) - 10} more, each with its reason in result.json")
    print(f"{len(terms['added'])} terms, {rows['count']} rows of {rows['rows']:,}, {rows['bytes']:,} bytes")
    if corpus := result["corpus"]:
        pieces = corpus["pieces_a_word"]
        print(f"pieces a word on the held-out tenth: {pieces['before']:.3f} before, {pieces['after']:.3f} after")
        if changed := corpus["held_out"]["changed"]:
            log(f"!! {changed} held-out documents without a new token are cut otherwise than before")
    log(f"-> {folder}; train with it: vocab={folder}")
