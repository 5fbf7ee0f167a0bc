"""What only milvus-lite has: a folder, one process, no arrays of structs. The contract runs over it, too."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import pytest

from m3_vdb.stores import CollectionOptions, MemoryStore, open_store
from m3_vdb.types import Document
from m3_vdb.weights import PRESETS
from tests.stores._corpus import IDENTITY, assert_same_hits, make_documents, make_embeddings, make_queries

ROOT = Path(__file__).parents[2]
DOCUMENTS = 600


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "notes.milvus.db")


@pytest.fixture(scope="module")
def big(tmp_path_factory):
    """The oracle and milvus-lite with the same 600 documents."""
    documents, embeddings = make_documents(DOCUMENTS), make_embeddings(DOCUMENTS)
    oracle = MemoryStore(IDENTITY)
    oracle.upsert(documents, embeddings)
    with open_store(str(tmp_path_factory.mktemp("big") / "c.milvus.db"), identity=IDENTITY) as lite:
        lite.upsert(documents, embeddings)
        yield lite, oracle


@pytest.mark.parametrize("optimized", [False, True])
@pytest.mark.parametrize("preset", ["default", "dense_sparse", "long_document"])
def test_lite_equals_the_oracle_on_600_documents(big, preset, optimized, record_property):
    lite, oracle = big
    if optimized:
        lite.optimize()
    args = {"weights": PRESETS[preset], "filter": {"lang": ["de", "en"], "draft": False}}
    worst = [
        assert_same_hits(lite.query(query, limit=50, **args), oracle.query(query, limit=60, **args), limit=50)
        for query in make_queries(4)
    ]
    record_property("max_relative_error", max(worst))
    assert max(worst) < 1e-6


def test_what_lite_can_do_is_found_out(big):
    able = big[0].capabilities
    assert (able.multi_vector_search, able.fusion) == (False, "client")
    assert able.struct_arrays is False  # it takes them in a schema and drops them
    assert able.raw_weights is True
    assert able.exact_candidates is True
    assert able.exact_scores is True
    assert able.server.startswith("milvus_lite-3.")


@pytest.mark.parametrize("exact", [None, True, False])
def test_candidates_are_always_chosen_by_a_full_scan(path, exact):
    with open_store(path, identity=IDENTITY, exact=exact) as store:
        assert store.capabilities.exact_candidates is True


def test_half_halves_the_rows_and_keeps_the_scores(path):
    embeddings, query = make_embeddings(60), make_queries(1)[0]
    oracle = MemoryStore(IDENTITY)
    oracle.upsert(make_documents(60), embeddings)
    with open_store(path, identity=IDENTITY, options=CollectionOptions(storage="half")) as store:
        store.upsert(make_documents(30), embeddings_slice(embeddings, 0, 30))
    with open_store(path, identity=IDENTITY) as store:  # the collection stays as it was made
        store.upsert(make_documents(30, start=30), embeddings_slice(embeddings, 30, 60))
        truth = dict(oracle.rank(query, limit=60))
        got = dict(store.rank(query, limit=60))
        assert got == pytest.approx(truth, abs=1e-3)
        assert got != pytest.approx(truth, abs=1e-7)


def embeddings_slice(whole, start, stop):
    """Some texts of a batch."""
    parts = {}
    for name in ("sparse", "multi_vector"):
        offsets = getattr(whole, f"{name}_offsets")
        first, last = offsets[start], offsets[stop]
        parts[f"{name}_offsets"] = offsets[start : stop + 1] - first
        for array in ("sparse_ids", "sparse_weights") if name == "sparse" else ("multi_vector",):
            parts[array] = getattr(whole, array)[first:last]
    plain = {name: getattr(whole, name)[start:stop] for name in ("token_counts", "truncated", "dense")}
    return dataclasses.replace(whole, **plain, **parts)


def test_long_texts_and_many_rows_have_no_limit_here(path):
    long = Document(id="x" * 100_000, text="é" * 500_000, payload={"x": "y" * 200_000})
    embeddings = make_embeddings(1, max_rows=9)
    with open_store(path, identity=IDENTITY) as store:
        store.upsert([long], embeddings)
        assert store.get([long.id]) == [long]
        assert store.query(make_queries(1)[0])[0].document == long


@pytest.mark.skipif(sys.platform == "win32", reason="needs sockets in the file system")
def test_no_other_user_can_reach_it(path):
    from m3_vdb.stores.milvus.client import LiteServer

    server = LiteServer(Path(path))
    folder = Path(server.uri.removeprefix("unix:")).parent
    assert folder.stat().st_mode & 0o777 == 0o700
    server.stop()
    assert not folder.exists()
    server.stop()


def test_disk_bytes_counts_what_is_there(big):
    assert big[0].disk_bytes() > DOCUMENTS * (64 + 5 * 24) * 4
