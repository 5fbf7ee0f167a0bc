"""The benchmarks of stores, small: that they run, that they compare, and that they can fail."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from typer import Typer
from typer.testing import CliRunner

from benchmarks import common, exact_words, exactness, identifiers, size_quality, storage, stores
from benchmarks.size_quality import Form, narrowed
from m3_vdb import CollectionOptions, HybridIndex, M3EmbeddingFunction, bm25_query, open_store
from m3_vdb.encoding.long_documents import LongDocuments
from m3_vdb.errors import ConfigError
from m3_vdb.evaluation import MODES, evaluate, open_collections
from m3_vdb.evaluation.metrics import measure
from m3_vdb.stores import MemoryStore
from m3_vdb.stores.options import DEFAULT_SOURCE
from tests.evaluation._toy import collection
from tests.evaluation.test_cli_eval import write


def last_line(main, *arguments, code=0):
    app = Typer()
    app.command()(main)
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == code, done.output
    return json.loads(done.output.splitlines()[-1])


def test_synthetic_texts_are_the_same_for_a_seed_and_shaped_like_a_models():
    one, again, other = (common.embeddings(40, seed=seed) for seed in (3, 3, 4))
    assert np.array_equal(one.multi_vector, again.multi_vector)
    assert not np.array_equal(one.dense, other.dense)
    assert one.dense.shape == (40, 384)
    assert one.multi_vector.shape[1] == 96
    for rows in (one.dense, one.multi_vector):
        assert np.linalg.norm(rows, axis=1) == pytest.approx(1, abs=1e-6)
    assert 80 < np.diff(one.multi_vector_offsets).mean() < 120
    assert all((np.diff(text.sparse.ids) > 0).all() for text in one)
    assert all(3 <= len(query.multi_vector) <= 13 for query in common.queries(20))


def test_exactness_of_a_small_collection():
    of_four_parts = {"qdrant folder": True, "qdrant gRPC stub": True, "milvus gRPC stub": False}
    named = [part for name in of_four_parts for part in ("--store", name)]
    result = last_line(exactness.main, *named, "--documents", 200, "--queries", 2, "--slow-queries", 2)
    assert result["passed"]
    for name, found in result["stores"].items():
        assert found["searches"] == 2 * 3 * (4 if of_four_parts[name] else 3)
        assert bool(found["without_four_parts"]) != of_four_parts[name]
        assert found["hits"] > found["searches"] * 40
        assert 0 < found["largest_error"] < 1e-6
        assert found["largest_gap"] < 1e-6


def test_the_synthetic_queries_ask_for_different_things():
    """A guard: equal rankings under all weights and filters would make equality cheap."""
    (query,) = exactness.asked_words(common.queries(1))
    truth = exactness.oracle(300, [query])
    first = {key: tuple(name for name, _ in hits[:10]) for key, hits in truth.items()}
    assert len(set(first.values())) == len(first) == 12
    with MemoryStore(common.identity()) as store:
        exactness.fill(store, 300)
        hits = store.query(query, limit=50, explain=True)
    assert 0 < sum(hit.parts.sparse > 0 for hit in hits) < 50


@pytest.mark.parametrize(
    ("got", "error", "gap", "strangers"),
    [
        ([("a", 2.0), ("b", 1.0)], 0, 0, 0),
        ([("a", 2.001), ("b", 1.0)], 5e-4, 0, 0),
        ([("b", 1.0), ("a", 2.0)], 0, 1, 0),
        ([("a", 2.0), ("x", 1.0)], 0, 0, 1),
        ([("a", 2.0)], 0, 0, 1),
    ],
    ids=["right", "a wrong score", "a wrong order", "a stranger", "one too few"],
)
def test_a_comparison_sees_what_is_wrong(got, error, gap, strangers):
    found = exactness.Comparison()
    found.add(got, [("a", 2.0), ("b", 1.0)])
    assert (found.largest_error, found.largest_gap) == pytest.approx((error, gap))
    assert found.strangers == strangers
    assert found.passed == (error == gap == strangers == 0)


def test_speed_of_a_small_collection():
    result = last_line(stores.main, "--documents", 150, "--queries", 2)
    (folder,) = result["results"]
    assert folder["documents_per_s"] > 0
    assert set(folder["modes"]) == set(stores.MODES)
    assert all(0 < times["p50_ms"] <= times["p95_ms"] for times in folder["modes"].values())
    assert folder["one_against_three"] < 1e-6


def test_part_numbers_are_found_by_default():
    """Texts that are alike but for an identifier: the default finds what the dense list alone would lose."""
    result = last_line(identifiers.main, "--per-kind", 50, "--queries", 20, "--candidates", 5)["results"]["catalogue"]
    asked = [result[f"{kind}, in a question"] for kind in ("part number", "error code")]
    assert all(of["near zero"] < 0.05 for of in asked)
    assert min(of[f"{DEFAULT_SOURCE} 5"] for of in asked) > 0.85  # measured 1 and .9
    assert all(of["dense 5"] < of[f"{DEFAULT_SOURCE} 5"] - 0.1 for of in asked)  # .85 and .55
    assert all(of["exact words 5"] == 1 for of in asked)


def test_what_storage_costs():
    result = last_line(storage.main, "--documents", 60, "--queries", 2, "--width", 96)
    errors = {row["storage"]: row["largest_relative_error"] for row in result["results"]}
    assert errors["float32"] < 1e-6 < errors["half"] < errors[storage.FLOAT16] < errors["quarter"] < 1e-2


@pytest.fixture(scope="module")
def embed():
    return M3EmbeddingFunction(on_truncate="ignore")


def test_exact_words_of_some_queries(tmp_path, embed):
    pages, url = collection(n=8), str(tmp_path / "help.qdrant")
    dev, test = (collection(n=8, queries=some) for some in (slice(3), slice(3, None)))
    folder = write(tmp_path / "help", dev, test, splits=("dev", "test"))
    with HybridIndex.open(url, model=embed, options=CollectionOptions(bm25=True)) as index:
        index.add(pages.documents)
    with open_store(url, embed) as store:
        every, some = (exact_words.read(store, folder, "test", embed, most) for most in (None, 3))
        assert [one.gains for one in some] == [every[at].gains for at in (0, 3, 6)], "evenly spaced"
        texts = {name: query.text for name, query in test.queries.items()}
        expected = {}
        for name, weights in (("three parts", (1, 0.3, 1)), ("BM25 alone", (0, 0, 0, 1))):
            asked = [replace(embed.encode_queries([text])[0], bm25=bm25_query(text)) for text in texts.values()]
            found = [[pair for pair in store.rank(one, weights=weights) if pair[1] > 0] for one in asked]
            runs = dict(zip(texts, map(dict, found), strict=True))
            expected[name] = measure(runs, test.qrels, ["nDCG@10"])["nDCG@10"]
    result = last_line(exact_words.main, f"{url}={folder}", "--queries", 4)
    assert (result["dev"], result["test"]) == (4, 4)
    result = last_line(exact_words.main, f"{url}={folder}")
    assert (result["dev"], result["test"]) == (6, 10)
    assert {name: result[name] for name in expected} == pytest.approx(expected, abs=1e-4)
    assert 0.1 < expected["BM25 alone"] < expected["three parts"] < 1


def test_a_form_costs_and_finds_what_the_same_collection_does(tmp_path, embed):
    folder = write(tmp_path / "help", collection(n=5))
    options = ("--split", "test", "--widths", "96,32", "--factors", "1,3", "--storages", "float32,quarter")
    lines = last_line(size_quality.main, folder, *options)["curve"]
    assert len(lines) == 8
    found = {(line["width"], line["factor"], line["storage"]): line for line in lines}
    for factor in (1, 3):
        (task,) = open_collections(str(folder))
        expected = evaluate(
            [task], embed, "memory://", modes=["multi_vector", "all"], long_documents=LongDocuments(pool_factor=factor)
        ).mean
        for mode in ("multi_vector", "all"):
            assert found[96, factor, "float32"][mode] == pytest.approx(expected[mode]["nDCG@10"].value, abs=1e-4)
    one = found[96, 1, "float32"]
    assert one["bytes"] == pytest.approx(one["rows"] * 96 * 4, rel=1e-4)
    assert found[32, 3, "quarter"]["bytes"] == pytest.approx(found[32, 3, "quarter"]["rows"] * 32, rel=1e-4)
    assert one["rows"] / 3 <= found[96, 3, "float32"]["rows"] < one["rows"] / 3 + 1, "rounded up, document by document"
    assert found[32, 1, "float32"]["multi_vector"] != one["multi_vector"]


def test_rows_are_averaged_or_cut(embed):
    whole = embed.encode_documents(["one text of several words", "another one"])
    pooled, cut = (Form(16, 2, "float32", cut=cut).of(whole) for cut in (False, True))
    assert np.linalg.norm(pooled.multi_vector, axis=1) == pytest.approx(1, abs=1e-6)
    assert len(pooled.multi_vector) == len(cut.multi_vector) < len(whole.multi_vector)
    np.testing.assert_allclose(cut[0].multi_vector[0], narrowed(whole, 16)[0].multi_vector[0], atol=1e-6)
    assert not np.allclose(pooled.multi_vector, cut.multi_vector, atol=1e-3)


def test_directions_of_training_rows_come_first(tmp_path, embed):
    rows = tmp_path / "rows.jsonl"
    texts = [one.text for one in collection(n=8).documents]
    rows.write_text("".join(json.dumps({"query": "?", "pos": [text]}) + "\n" for text in texts), encoding="utf-8")
    given = embed.encode_documents(texts)
    turned = size_quality.rotation(embed, rows)(given)
    np.testing.assert_allclose(
        turned.multi_vector @ turned.multi_vector.T, given.multi_vector @ given.multi_vector.T, atol=1e-4
    )
    strength = (turned.multi_vector**2).mean(axis=0)
    # Encoded twice, in other batches: bfloat16 keeps 8 bits of a number, and these are squares of about 0.01.
    assert (np.diff(strength) < 1e-4).all(), "strongest first"
    assert strength[0] > 100 * strength[-1]
    assert size_quality.rotation(embed, None)(given) is given


def test_an_unknown_storage_is_refused():
    with pytest.raises(ConfigError, match="storage 'tiny': expected some of float32, half, quarter"):
        size_quality.forms_of([96], [1], ["tiny"], cut=False)
    assert set(size_quality.MODES) <= set(MODES)
