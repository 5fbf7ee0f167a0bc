"""The whole evaluation, on real texts: through every store, against scores made pair by pair.

The model that ships is used where stores are compared; a formula in its place (``_toy``) where requests are counted.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import ir_measures
import pytest

from m3_vdb import M3EmbeddingFunction
from m3_vdb.errors import CollectionMismatchError, ConfigError
from m3_vdb.evaluation import MODES, Collection, Evaluation, Protocol, Query, evaluate
from m3_vdb.evaluation.evaluate import place_name
from m3_vdb.evaluation.metrics import MEASURES, Run, read_run
from m3_vdb.scoring import hybrid_score, score
from m3_vdb.stores import MemoryStore
from m3_vdb.types import Document, Scores
from m3_vdb.weights import Weights
from tests.evaluation._toy import Kept, collection, same, task, toy, toy_embed
from tests.serving._fakes import embed_with

SYSTEMS = (*MODES, "bm25")


def score_pairs(task: Collection, embed: M3EmbeddingFunction) -> dict[str, dict[str, Scores]]:
    """The scores of every document for every query by the definition, one pair after the other."""
    documents = list(task.documents)
    passages = list(embed.encode_documents([document.content for document in documents]))
    queries = embed.encode_queries([query.text for query in task.queries.values()])
    return {
        name: {document.id: score(query, passage) for document, passage in zip(documents, passages, strict=True)}
        for name, query in zip(task.queries, queries, strict=True)
    }


def independent(pairs: dict[str, dict[str, Scores]], protocol: Protocol) -> dict[str, Run]:
    """The rankings of every mode."""
    runs: dict[str, dict] = {mode: {} for mode in MODES}
    for query, parts in pairs.items():
        by_dense = sorted(parts, key=lambda name: -parts[name].dense)
        by_words = sorted((name for name in parts if parts[name].sparse > 0), key=lambda name: -parts[name].sparse)
        union = {*by_dense[: protocol.candidates], *by_words[: protocol.candidates]}
        again = {*by_dense[: protocol.rerank]}
        if protocol.rerank_source == "union":
            again |= {*by_words[: protocol.rerank]}
        candidates = {"dense": by_dense, "sparse": by_words, "multi_vector": again, "dense_sparse": union, "all": again}
        for mode, found in candidates.items():
            fused = {name: hybrid_score(parts[name], protocol.weights_of(mode)) for name in found}
            runs[mode][query] = dict(sorted(fused.items(), key=lambda hit: (hit[1], hit[0]), reverse=True)[:100])
    return runs


def measured(run: Run, task: Collection) -> dict[str, float]:
    """By ir-measures alone; of equal scores, the tool behind RR would take the first and not the highest id."""
    measures = [ir_measures.parse_measure(name) for name in MEASURES]
    ordered = {query: sorted((score, name) for name, score in hits.items()) for query, hits in run.items()}
    ranks = {query: {name: float(rank) for rank, (_, name) in enumerate(hits)} for query, hits in ordered.items()}
    return {str(name): value for name, value in ir_measures.calc_aggregate(measures, task.qrels, ranks).items()}


def assert_same_ranking(found: Run, expected: Run, *, close: float = 1e-5) -> None:
    """The same scores in the same order, and other documents only where scores are as good as equal."""
    for query, hits in expected.items():
        mine = sorted(found.get(query, {}).items(), key=lambda hit: -hit[1])[:100]
        theirs = sorted(hits.items(), key=lambda hit: -hit[1])
        assert [value for _, value in mine] == pytest.approx([value for _, value in theirs], abs=close)
        last = min(hits.values(), default=0.0)
        for name, value in mine:
            assert value == pytest.approx(hits.get(name, last), abs=close), (query, name)


# --- every store


@dataclass(frozen=True)
class Outcome:
    found: Evaluation
    runs: dict[str, Run]


@pytest.fixture(scope="module")
def embed() -> M3EmbeddingFunction:
    return M3EmbeddingFunction(on_truncate="ignore")


@pytest.fixture(scope="module")
def help_pages() -> Collection:
    """32 documents in four languages; one query shares no word with anything."""
    task = collection(n=8, langs=("de", "en", "ja", "ru"), queries=slice(2))
    nothing = {"ru/🙂": Query("🙂", "ru")}
    return replace(task, queries={**task.queries, **nothing}, qrels={**task.qrels, "ru/🙂": {task.documents[0].id: 1}})


@pytest.fixture(scope="module")
def expected(help_pages: Collection, embed: M3EmbeddingFunction) -> dict[str, Run]:
    return independent(score_pairs(help_pages, embed), Protocol())


@pytest.fixture(scope="module", params=["memory", "folder", "rest"])
def outcome(
    request: pytest.FixtureRequest,
    help_pages: Collection,
    embed: M3EmbeddingFunction,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Outcome]:
    out = tmp_path_factory.mktemp(request.param)
    closing = []
    if request.param == "memory":
        store = "memory://"
    elif request.param == "folder":
        store = str(out / "x.qdrant")
    else:
        from benchmarks.stubs.qdrant_rest_stub import RestStub

        stub = RestStub()
        closing.append(stub.close)
        store = f"qdrant://{stub.address}/help"
    found = evaluate([help_pages], embed, store, bm25=True, out=out / "out")
    yield Outcome(found, {mode: read_run(out / "out" / "help" / f"{mode}.trec") for mode in SYSTEMS})
    for close in closing:
        close()


@pytest.mark.parametrize("mode", MODES)
def test_every_store_ranks_as_the_definition_says(outcome: Outcome, expected: dict[str, Run], mode: str):
    assert_same_ranking(outcome.runs[mode], expected[mode])


def test_figures_are_those_of_the_definition(outcome: Outcome, expected: dict[str, Run], help_pages: Collection):
    for mode in MODES:
        values = {name: figure.value for name, figure in outcome.found.pooled[mode].items()}
        # Near ties may fall either way; a swap beyond the first ranks moves the mean by less than this.
        assert values == pytest.approx(measured(expected[mode], help_pages), abs=0.001), mode
    # The texts and titles are real, so the model has to find most of them; what finds nothing would agree everywhere.
    assert outcome.found.pooled["all"]["nDCG@10"].value > 0.6


def test_the_store_fuses_what_it_scores(outcome: Outcome):
    assert outcome.found.fusion_error is not None
    assert 0 < outcome.found.fusion_error < 1e-5, "float32 rounds at 6e-8; 0 would mean that nothing was compared"


def test_bm25_is_the_baseline_if_it_is_there(outcome: Outcome, help_pages: Collection):
    found = outcome.found
    assert found.systems == SYSTEMS
    assert found.baseline == "bm25"
    assert set(found.comparisons) == set(MODES)
    assert found.pooled["bm25"]["nDCG@10"].value == pytest.approx(measured(outcome.runs["bm25"], help_pages)["nDCG@10"])
    gain = found.comparisons["all"]["nDCG@10"]
    assert gain.delta == pytest.approx(found.pooled["all"]["nDCG@10"].value - found.pooled["bm25"]["nDCG@10"].value)
    assert gain.low < gain.delta < gain.high


def test_languages_are_groups(outcome: Outcome, expected: dict[str, Run], help_pages: Collection):
    found = outcome.found
    assert [(group.collection, group.lang, group.queries, group.documents) for group in found.groups] == [
        ("help", "de", 2, 32),
        ("help", "en", 2, 32),
        ("help", "ja", 2, 32),
        ("help", "ru", 3, 32),
    ]
    for group in found.groups:
        part = help_pages.only(help_pages.by_language()[group.lang])
        run = {query: expected["dense"][query] for query in part.queries}
        assert group.figures["dense"]["nDCG@10"].value == pytest.approx(measured(run, part)["nDCG@10"], abs=0.001)
    means = [group.figures["all"]["R@100"].value for group in found.groups]
    assert found.mean["all"]["R@100"].value == pytest.approx(sum(means) / 4)


def test_curves_pass_through_the_figure_of_the_run(outcome: Outcome):
    for curve in outcome.found.curves:
        # The curve adds float32 scores, the store its own; near ties may fall either way.
        assert dict(curve.points)[curve.used] == pytest.approx(outcome.found.mean["all"]["nDCG@10"].value, abs=0.001)


def test_costs_say_what_was_encoded(outcome: Outcome, help_pages: Collection, embed: M3EmbeddingFunction):
    cost = outcome.found.costs["help"]
    tokens = embed.token_count([document.content for document in help_pages.documents]).sum()
    assert (cost.documents, cost.reused, cost.rejected, cost.truncated, cost.tokens) == (32, 0, 0, 0, tokens)
    assert set(cost.search_ms) == set(MODES)
    assert cost.search_ms["all"].count == 9
    assert cost.ingest_seconds > 0


# --- candidates, modes, protocols: the toy model


def test_only_the_candidates_of_the_protocol_are_scored():
    """180 documents and lists of 100, so that it matters where candidates come from."""
    task = collection(n=36, langs=("de", "en", "fr", "es", "it"), queries=slice(2, 4), length=80)
    pairs, opener, rankings = score_pairs(task, toy_embed()), Kept(toy_embed()), []
    for source in ("dense", "union"):
        protocol = Protocol(weights=Weights(0.1, 1, 2), candidates=100, rerank=100, rerank_source=source)
        expected = independent(pairs, protocol)
        found = evaluate([task], toy_embed(), opener, protocol=protocol)
        for mode, run in expected.items():
            values = {name: figure.value for name, figure in found.pooled[mode].items()}
            assert values == pytest.approx(measured(run, task), abs=1e-6), mode
        rankings.append(expected["all"])
        assert 0 < found.fusion_error < 1e-6
        for curve in found.curves:
            assert dict(curve.points)[curve.used] == pytest.approx(found.mean["all"]["nDCG@10"].value, abs=1e-6)
    everything = independent(pairs, Protocol(weights=Weights(0.1, 1, 2), rerank=1000))["all"]
    assert rankings[0] != rankings[1] != everything != rankings[0], "or the test would show nothing"


def test_some_modes_alone():
    opener = Kept(toy_embed())
    found = evaluate([toy()], toy_embed(), opener, modes=["sparse", "dense_sparse"])
    assert found.systems == ("sparse", "dense_sparse")
    assert found.baseline == "sparse"
    assert set(found.comparisons) == {"dense_sparse"}
    assert (found.curves, found.fusion_error, found.tunings, found.approximations) == ((), None, (), {})
    assert opener.calls["rank"] == 2 * 16
    every = evaluate([toy()], toy_embed(), Kept(toy_embed()))
    assert every.baseline == "dense"
    assert every.mean["sparse"] == found.mean["sparse"]


def test_the_same_request_is_asked_once():
    opener = Kept(toy_embed())
    evaluate([toy()], toy_embed(), opener, modes=["multi_vector", "all"])
    # multi_vector, all, and the two raw scores that multi_vector did not bring
    assert opener.calls["rank"] == 4 * 16


def test_short_queries_and_passages_are_cut():
    whole = evaluate([toy()], toy_embed(), "memory://", modes=["dense"])
    cut = evaluate([toy()], toy_embed(max_length=32), "memory://", modes=["dense"])
    short = evaluate([toy()], toy_embed(), "memory://", modes=["dense"], protocol=Protocol(query_max_length=4))
    assert cut.protocol["maximum length"] == "queries 32, passages 32 tokens"
    assert short.protocol["maximum length"] == "queries 4, passages 512 tokens"
    assert cut.costs["help"].truncated > 0
    assert len({one.mean["dense"]["nDCG@10"].value for one in (whole, cut, short)}) == 3


def test_queries_are_cut_without_a_warning():
    loud = embed_with(toy_embed().session, on_truncate="warn")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = evaluate([toy(length=20)], loud, "memory://", modes=["dense"], protocol=Protocol(query_max_length=4))
    assert found.protocol["maximum length"].startswith("queries 4, ")
    assert (loud.max_length, loud.on_truncate) == (8192, "warn")


def test_a_rejected_document_is_counted_and_not_found():
    task = toy()
    lost = task.documents[0].id

    class Picky(MemoryStore):
        def upsert(self, documents, embeddings):
            from m3_vdb.errors import DocumentError

            for index, document in enumerate(documents):
                if document.id == lost:
                    raise DocumentError("refused", index=index)
            super().upsert(documents, embeddings)

    found = evaluate([task], toy_embed(), lambda _name, _exact: Picky(toy_embed().identity))
    assert (found.costs["help"].rejected, found.costs["help"].documents) == (1, 15)
    assert (
        found.pooled["dense"]["R@100"].value
        < 1
        == evaluate([task], toy_embed(), "memory://").pooled["dense"]["R@100"].value
    )


def test_results_are_written_and_read_back(tmp_path: Path):
    found = evaluate(
        [toy()], toy_embed(), "memory://", task="help", command="m3-vdb eval", out=tmp_path / "new" / "out"
    )
    assert Evaluation.load(tmp_path / "new" / "out" / "results.json") == found
    assert (found.task, found.command, found.store) == ("help", "m3-vdb eval", "memory://")
    assert found.model["fingerprint"] == toy_embed().identity.fingerprint
    assert found.environment["runtime"] == "toy"


def test_nothing_is_left_behind_without_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    kept = evaluate([toy()], toy_embed(), "memory://", out=tmp_path / "out")
    gone = evaluate([toy()], toy_embed(), "memory://")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert same(kept) == same(gone)


# --- several collections


def test_collections_have_stores_of_their_own(tmp_path: Path):
    tasks = [toy("a/de", langs=["de"]), toy("a/en", langs=["en"])]
    named = evaluate(tasks, toy_embed(), str(tmp_path / "{collection}" / "e.qdrant"), modes=["all"])
    bare = evaluate(tasks, toy_embed(), str(tmp_path / "e.qdrant"), modes=["all"])
    assert {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("m3.json")} == {
        "a-de/e.qdrant/m3.json",
        "a-en/e.qdrant/m3.json",
        "e-a-de.qdrant/m3.json",
        "e-a-en.qdrant/m3.json",
    }
    assert named.mean == bare.mean
    assert named.task == "a/de, a/en"
    assert [group.collection for group in named.groups] == list(named.costs) == ["a/de", "a/en"]
    alone = [evaluate([task], toy_embed(), "memory://", modes=["all"]) for task in tasks]
    values = [one.mean["all"]["nDCG@10"].value for one in alone]
    assert named.mean["all"]["nDCG@10"].value == pytest.approx(sum(values) / 2, abs=0.001)


def test_names_reach_a_server_as_they_are():
    from benchmarks.stubs.qdrant_rest_stub import RestStub

    stub = RestStub()
    try:
        tasks = [toy("ä b#1", langs=["de"]), toy("50%25", langs=["en"])]
        evaluate(tasks, toy_embed(), f"qdrant://{stub.address}/{{collection}}", modes=["dense"])
        evaluate(tasks[:1], toy_embed(), f"qdrant://{stub.address}/one", modes=["dense"])
        names = set(stub.engine.collections)
    finally:
        stub.close()
    assert names == {"ä b#1", "50%25", "one"}


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("memory://", "memory://"),
        ("./e.qdrant", "./e-{collection}.qdrant"),
        ("./e.milvus.db", "./e-{collection}.milvus.db"),
        ("./e.qdrant/", "./e-{collection}.qdrant"),
        ("file:e", "file:e-{collection}"),
        ("runs.old/e", "runs.old/e-{collection}"),
        ("qdrant://127.0.0.1:6333/notes", "qdrant://127.0.0.1:6333/notes-{collection}"),
        ("./{collection}.qdrant", "./{collection}.qdrant"),
    ],
)
def test_a_url_gets_a_place_for_names(url: str, expected: str):
    assert place_name(url) == expected


# --- answers


def test_answers_decide_where_there_are_no_judgements():
    """Passages 1, 30 and 120 of the dense ranking hold an answer: found by 20, by 100, by none."""
    texts = collection(n=36, langs=("de", "en", "fr", "es")).documents
    asked = {lang: Query("Zeilen und Spalten in Tabellen einfügen", lang) for lang in ("de", "en", "fr")}
    ranking = independent(score_pairs(Collection("x", texts, asked), toy_embed()), Protocol())["dense"]
    assert len(texts) > 120
    far = next(one.id for one in texts if one.id not in ranking["fr"])
    places = {"de": next(iter(ranking["de"])), "en": list(ranking["en"])[29], "fr": far}
    # The marks are one token of the toy's thousands each, so that they hardly move a ranking.
    marks = {document: lang for lang, document in places.items()}
    texts = [replace(one, text=f"{one.text} {'Answer' + marks[one.id]}") if one.id in marks else one for one in texts]
    task = Collection("mkqa", texts, asked, answers={lang: [f"answer{lang}", "not there"] for lang in asked})
    found = evaluate([task], toy_embed(), "memory://", modes=["dense", "all"], bm25=True)
    assert found.measures == ("Success@20", "Success@100")
    values = {group.lang: tuple(figure.value for figure in group.figures["dense"].values()) for group in found.groups}
    assert values == {"de": (1, 1), "en": (0, 1), "fr": (0, 0)}
    assert found.mean["dense"]["Success@100"].value == pytest.approx(2 / 3)
    assert (found.curves, found.fusion_error) == ((), None)
    found = evaluate([task], toy_embed(), Kept(toy_embed()), modes=["dense"], approximate=True)
    assert found.approximations["dense"].exact == pytest.approx({"Success@20": 1 / 3, "Success@100": 2 / 3})


# --- approximate search


def test_what_approximate_search_loses():
    opener = Kept(toy_embed())

    def lossy(name: str, exact: bool):
        store = opener(name, exact)
        rank = store.rank
        if not exact:
            store.rank = lambda *arguments, **options: rank(*arguments, **options)[::2]
        return store

    found = evaluate([toy()], toy_embed(), lossy, modes=["dense", "all"], approximate=True)
    assert opener.opened == [("help", True), ("help", False)]
    assert opener.calls["optimize"] == 1, "there is no graph before"
    assert set(found.approximations) == {"dense", "all"}
    for mode, loss in found.approximations.items():
        assert loss.exact == pytest.approx({name: one.value for name, one in found.mean[mode].items()})
        # Every second of the first ten is there, and 8 of the 16 documents.
        assert loss.overlap == pytest.approx(0.5)
        assert loss.approximate["R@100"] < loss.exact["R@100"]
        assert loss.approximate["nDCG@10"] < loss.exact["nDCG@10"]
        assert loss.search_ms is not None
        assert loss.search_ms.count == 16


def test_a_folder_is_searched_approximately(tmp_path: Path):
    found = evaluate([task()], toy_embed(), str(tmp_path / "a.qdrant"), approximate=True, out=tmp_path / "out")
    for mode, loss in found.approximations.items():
        # One query finds nothing in the mode sparse, and counts all the same.
        assert loss.exact == pytest.approx({name: one.value for name, one in found.mean[mode].items()})
        # Sixteen points are no graph: the engine scans them.
        assert loss.overlap == 1
        assert loss.approximate == pytest.approx(loss.exact)
    again = evaluate([task()], toy_embed(), str(tmp_path / "a.qdrant"), approximate=True, out=tmp_path / "out")
    assert same(again) == same(found)


# --- refusals


@pytest.mark.parametrize(
    ("tasks", "options", "message"),
    [
        ([], {}, "nothing to evaluate"),
        ([Collection("a", [Document("d", "x")], {})], {}, "nothing to evaluate"),
        ([toy("a"), toy("a")], {}, "two collections have the same name"),
        ([toy("a/b"), toy("a-b")], {}, "two collections have the same name"),
        ([toy()], {"modes": []}, "expected one or more of dense"),
        ([toy()], {"modes": ["dense", "dense"]}, "each once"),
        ([toy()], {"modes": ["colbert"]}, "expected one or more of dense"),
        ([toy()], {"approximate": True}, "memory:// has no approximate search"),
        ([replace(toy(), qrels={})], {}, "either judgements everywhere or answers everywhere"),
        (
            [toy("a"), Collection("b", [], {"q": Query("q")}, answers={"q": ["x"]})],
            {},
            "evaluate its collections apart",
        ),
    ],
)
def test_what_makes_no_task_is_refused_before_anything_is_done(tasks, options, message: str, tmp_path: Path):
    with pytest.raises(ConfigError, match=message):
        evaluate(tasks, toy_embed(), "memory://", out=tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_a_store_with_other_documents_is_refused(tmp_path: Path):
    evaluate([toy(n=4)], toy_embed(), str(tmp_path / "a.qdrant"), modes=["dense"])
    evaluate([toy(n=5)], toy_embed(), str(tmp_path / "a.qdrant"), modes=["dense"])
    with pytest.raises(CollectionMismatchError, match="holds 10 documents and the collection 8"):
        evaluate([toy(n=4)], toy_embed(), str(tmp_path / "a.qdrant"), modes=["dense"])


def test_missing_packages_are_told_before_the_work(monkeypatch: pytest.MonkeyPatch):
    import sys

    from m3_vdb.errors import MissingExtraError

    for package, options in (("ir_measures", {}), ("bm25s", {"bm25": True})):
        opener = Kept(toy_embed())
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, package, None)
            with pytest.raises(MissingExtraError, match=r"m3-vdb\[eval\]"):
                evaluate([toy()], toy_embed(), opener, **options)
        assert opener.opened == []
