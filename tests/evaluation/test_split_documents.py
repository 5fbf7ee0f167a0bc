"""Documents that are split: ranked by their best passage in every figure, against passages scored one by one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from m3_vdb.encoding.long_documents import LongDocuments
from m3_vdb.encoding.splitter import Splitter
from m3_vdb.errors import ConfigError
from m3_vdb.evaluation import MODES, PROTOCOLS, Collection, Protocol, Query, evaluate
from m3_vdb.evaluation.metrics import MEASURES, measure, read_run
from m3_vdb.evaluation.protocol import DEPTH, PARTS
from m3_vdb.evaluation.search import encode, fill, search
from m3_vdb.evaluation.tuning import gather, mean_ndcg
from m3_vdb.scoring import hybrid_score, score
from m3_vdb.stores import MemoryStore
from m3_vdb.types import Document, Scores
from m3_vdb.weights import Weights
from tests.evaluation._toy import Kept, collection, documents, toy_embed

LENGTH = 24
SPLIT = LongDocuments(plan="split", overlap=4)


@pytest.fixture
def pages() -> Collection:
    """24 pages of 160 characters; all of their passages are candidates."""
    return collection(n=12)


def best_passages(task: Collection, protocol: Protocol) -> dict[str, dict[str, dict[str, float]]]:
    """Mode → query → document → the highest score of its passages, by the definition of the scores."""
    embed = toy_embed(max_length=LENGTH)
    splitter = Splitter(embed.tokenizer, max_tokens=LENGTH, overlap=SPLIT.overlap)
    parts = [(document.id, one.content) for document in task.documents for one in splitter.split(document)]
    assert len(task.documents) < len(parts) <= protocol.rerank, "split, and nothing is beyond the candidates"
    passages = list(embed.encode_documents([text for _, text in parts]))
    runs: dict[str, dict[str, dict[str, float]]] = {mode: {} for mode in MODES}
    for name, query in task.queries.items():
        encoded = toy_embed(max_length=LENGTH).encode_queries([query.text])[0]
        scores: list[tuple[str, Scores]] = [
            (owner, score(encoded, one)) for (owner, _), one in zip(parts, passages, strict=True)
        ]
        for mode in MODES:
            found: dict[str, float] = {}
            for owner, one in scores:
                if mode != "sparse" or one.sparse > 0:
                    fused = hybrid_score(one, protocol.weights_of(mode))
                    found[owner] = max(found.get(owner, -np.inf), fused)
            runs[mode][name] = found
    return runs


@pytest.mark.parametrize("kind", ["memory", "folder"])
def test_a_document_has_the_score_of_its_best_passage(pages: Collection, tmp_path: Path, kind: str):
    store = "memory://" if kind == "memory" else str(tmp_path / "e.qdrant")
    embed, out = toy_embed(max_length=LENGTH), tmp_path / "out"
    found = evaluate([pages], embed, store, bm25=True, long_documents=SPLIT, out=out)
    expected = best_passages(pages, PROTOCOLS["paper"])
    for mode in MODES:
        run = read_run(out / "help" / f"{mode}.trec")
        for query, hits in expected[mode].items():
            assert run.get(query, {}) == pytest.approx(hits, abs=1e-5), (mode, query)  # float32 sums, nine digits
        figures = measure(run, pages.qrels)
        for name in MEASURES:
            values = [group.figures[mode][name].value * group.queries for group in found.groups]
            assert sum(values) / len(pages.queries) == pytest.approx(figures[name], abs=1e-9)
    assert found.protocol["long documents"] == "split, overlap 4"
    assert found.groups[0].documents == len(pages.documents) < found.costs["help"].documents
    assert found.fusion_error is None
    # BM25 reads whole documents, as without a plan.
    assert found.mean["bm25"] == evaluate([pages], embed, "memory://", modes=["dense"], bm25=True).mean["bm25"]


def test_the_curve_passes_through_the_figure(pages: Collection):
    found = evaluate([pages], toy_embed(max_length=LENGTH), "memory://", modes=["all"], long_documents=SPLIT)
    measured = found.mean["all"]["nDCG@10"].value
    for curve in found.curves:
        assert dict(curve.points)[curve.used] == pytest.approx(measured, abs=1e-6)
        assert len({value for _, value in curve.points}) > 1


def test_weights_are_tuned_on_documents(pages: Collection):
    opener, embed = Kept(toy_embed(max_length=LENGTH)), toy_embed(max_length=LENGTH)
    start = Protocol("start", weights=Weights(0, 1, 0.1))
    dev, test = collection(queries=slice(5)), collection(queries=slice(5, None))
    found = evaluate([test], embed, opener, protocol=start, modes=["all"], dev=[dev], long_documents=SPLIT)
    (tuned,) = found.tunings
    after = start.with_weights("all", Weights(*tuned.after))
    for task, value in ((dev, tuned.dev_after), (test, tuned.test_after)):
        again = evaluate([task], embed, opener, protocol=after, modes=["all"], long_documents=SPLIT)
        assert value == pytest.approx(again.mean["all"]["nDCG@10"].value, abs=1e-6)


def test_passages_of_one_document_do_not_crowd_out_the_others():
    embed, store = toy_embed(max_length=LENGTH), MemoryStore(toy_embed().identity)
    book = Document("book", "Spalte einfügen " * 4000)
    others = [Document(f"d{i:03}", f"Zeile {i}") for i in range(DEPTH + 20)]
    filled = fill([book, *others], embed, store, long_documents=LongDocuments(plan="split"))
    assert store.count() > 400 + filled.documents, "passages that are asked for in vain"
    queries = encode(embed, {"q": Query("Spalte einfügen")})
    for mode in ("dense", "multi_vector", "all"):
        run = search(store, queries, PROTOCOLS["paper"].request(mode), passages=True)["q"]
        assert len(run) == DEPTH
        assert max(run, key=run.__getitem__) == "book"
        assert run.keys() <= {"book", *(one.id for one in others)}


def test_what_is_split_is_kept_until_the_plan_changes():
    embed, texts = toy_embed(max_length=LENGTH), documents(6)
    store = MemoryStore(embed.identity)

    def refill(plan: LongDocuments) -> tuple[int, int]:
        found = fill(texts, embed, store, long_documents=plan)
        assert found.documents == len(texts)
        assert found.reused + found.report.documents == store.count()
        return found.reused, found.report.documents

    _, passages = refill(SPLIT)
    assert passages > 2 * len(texts)
    assert refill(SPLIT) == (passages, 0)
    assert refill(replace(SPLIT, overlap=0))[0] == 0
    assert refill(LongDocuments(plan="truncate", max_rows=8)) == (0, len(texts))
    assert store.count() == len(texts)


def test_finished_rankings_are_not_asked_for_again(pages: Collection, tmp_path: Path):
    embed = toy_embed(max_length=LENGTH)
    opener = Kept(embed)
    first = evaluate([pages], embed, opener, long_documents=SPLIT, out=tmp_path)
    with opener.counting() as calls:
        again = evaluate([pages], embed, opener, long_documents=SPLIT, out=tmp_path)
        assert not calls
    assert again.mean == first.mean
    other = evaluate([pages], embed, opener, long_documents=replace(SPLIT, max_rows=14), out=tmp_path)
    assert other.mean != first.mean


def test_the_best_passage_depends_on_the_weights():
    """By hand: document a is good at words in its second passage and at meaning in its first, b at neither."""
    scores = {"a": (0.9, 0.0, 0.2), "a¶2": (0.1, 1.0, 0.1), "b": (0.5, 0.5, 0.5), "c¶2": (0.0, 0.0, 0.9)}
    components: Mapping = {part: {"q": {name: one[i] for name, one in scores.items()}} for i, part in enumerate(PARTS)}
    task = Collection("c", [], {"q": Query("?")}, {"q": {"a": 1, "c": 2}})
    parts = gather(components, task, passages=True)
    for weights, expected in (
        (Weights(1, 0, 0), {"a": 0.9, "b": 0.5, "c": 0.0}),
        (Weights(0, 1, 0), {"a": 1.0, "b": 0.5, "c": 0.0}),
        (Weights(1, 1, 1), {"a": 1.2, "b": 1.5, "c": 0.9}),
    ):
        fused = parts.fused(weights)[0]
        assert sorted(fused[np.isfinite(fused)]) == pytest.approx(sorted(expected.values()))
        ranked = [expected[name] for name in sorted(expected, key=expected.__getitem__, reverse=True)]
        assert sorted(fused, reverse=True)[:3] == pytest.approx(ranked)
        assert parts.ndcg(weights) == pytest.approx(list(_ndcg(expected)))
    assert gather(components, task).fused(Weights()).shape == (1, 4), "without passages a¶2 is a document"


def _ndcg(scores: Mapping[str, float]) -> list[float]:
    return [measure({"q": dict(scores)}, {"q": {"a": 1, "c": 2}}, ["nDCG@10"])["nDCG@10"]]


def test_pools_of_documents_and_of_passages_go_together(pages: Collection):
    name = next(iter(pages.queries))
    (relevant, _), *_ = sorted(pages.qrels[name].items(), key=lambda one: -one[1])
    task = replace(pages, queries={name: pages.queries[name]}, qrels={name: pages.qrels[name]})
    components: Mapping = {part: {name: {f"{relevant}¶3": 1.0}} for part in PARTS}
    whole, split = gather(components, task), gather(components, task, passages=True)
    alone = mean_ndcg([split], Weights())
    assert (mean_ndcg([whole], Weights()), alone > 0) == (0, True)
    assert mean_ndcg([whole, split], Weights()) == pytest.approx(alone / 2)


def test_a_plan_that_does_not_fit_says_so(pages: Collection):
    with pytest.raises(ConfigError, match="passages of 24 tokens that share 12"):
        evaluate([pages], toy_embed(max_length=LENGTH), "memory://", long_documents=replace(SPLIT, overlap=12))
