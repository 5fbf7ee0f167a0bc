"""What every store refuses, in the same words and with nothing written; the other half of the contract."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from m3_vdb.errors import ConfigError, DocumentError
from m3_vdb.types import Document, Passage, SparseVector
from tests.stores._corpus import make_documents, make_embeddings, make_queries

RESERVED = ["x¶2", "¶1", "x¶02", "x¶2¶3", "book¶99999"]
"""Ids that only passages may have."""


def test_bad_filters(store):
    for bad in ({"": 1}, {'a"b': 1}, {"a\\b": 1}, {"a": {"gte": 1}}, {"a": {"x.y": 1}}, {"a": math.nan}, {"a": 2**63}):
        with pytest.raises(ConfigError, match="filter"):
            store.query(make_queries(1)[0], filter=bad)


def _with_dense(e, i, value):
    dense = e.dense.copy()
    dense[i, 3] = value
    return dataclasses.replace(e, dense=dense)


def _with_rows(e, i, value):
    rows = e.multi_vector.copy()
    rows[e.multi_vector_offsets[i] + 1, 0] = value
    return dataclasses.replace(e, multi_vector=rows)


def _with_sparse(e, i, *, ids=None, weights=None):
    all_ids, all_weights = e.sparse_ids.copy(), e.sparse_weights.copy()
    start = e.sparse_offsets[i]
    if ids:
        all_ids[start : start + len(ids)] = ids
    if weights:
        all_weights[start : start + len(weights)] = weights
    return dataclasses.replace(e, sparse_ids=all_ids, sparse_weights=all_weights)


def _without_rows(e, i):
    lengths = np.diff(e.multi_vector_offsets)
    keep = np.repeat(np.arange(len(lengths)) != i, lengths)
    lengths[i] = 0
    return dataclasses.replace(
        e, multi_vector=e.multi_vector[keep], multi_vector_offsets=np.concatenate([[0], np.cumsum(lengths)])
    )


BAD_VECTORS = {
    "NaN in dense": lambda e: _with_dense(e, 1, np.nan),
    "infinity in dense": lambda e: _with_dense(e, 1, -np.inf),
    "NaN in multi_vector": lambda e: _with_rows(e, 1, np.nan),
    "no rows": lambda e: _without_rows(e, 1),
    "repeated sparse id": lambda e: _with_sparse(e, 1, ids=[5, 5]),
    "unsorted sparse ids": lambda e: _with_sparse(e, 1, ids=[6, 5]),
    "negative sparse id": lambda e: _with_sparse(e, 1, ids=[-1]),
    "NaN sparse weight": lambda e: _with_sparse(e, 1, weights=[np.nan]),
    "zero sparse weight": lambda e: _with_sparse(e, 1, weights=[0.0]),
}


def test_bad_vectors_are_named_and_nothing_is_written(store):
    for name, spoil in BAD_VECTORS.items():
        with pytest.raises(DocumentError) as caught:
            store.upsert(make_documents(3), spoil(make_embeddings(3)))
        assert caught.value.index == 1, name
        assert store.count() == 0, name
    store.upsert(make_documents(3), make_embeddings(3))  # the store still works
    assert len(store.query(make_queries(1)[0])) == 3


def _loop():
    payload = {}
    payload["self"] = payload
    return payload


def _deep(levels):
    return {"a": _deep(levels - 1)} if levels else {}


BAD_DOCUMENTS = {
    "empty id": Document(id="", text="t"),
    "id no str": Document(id=7, text="t"),
    "surrogate in id": Document(id="\ud800", text="t"),
    "surrogate in text": Document(id="a", text="\udfff"),
    "text None": Document(id="a", text=None),
    "payload NaN": Document(id="a", text="t", payload={"x": [math.nan]}),
    "payload object": Document(id="a", text="t", payload={"x": np.float32(1)}),
    "payload key": Document(id="a", text="t", payload={"x": {1: 2}}),
    "payload no mapping": Document(id="a", text="t", payload=[1, 2]),
    "payload huge int": Document(id="a", text="t", payload={"x": 2**70}),
    "payload surrogate": Document(id="a", text="t", payload={"x": "\ud800"}),
    "payload loop": Document(id="a", text="t", payload=_loop()),
    "payload deep": Document(id="a", text="t", payload=_deep(100)),
    "payload None": Document(id="a", text="t", payload=None),
    **{f"id {id} of a passage": Document(id=id, text="t") for id in RESERVED},
    "another document's passage": Document("a", "text", passage=Passage("b", 1, 2, 0, 4)),
    "another passage's id": Document("b¶2", "text", passage=Passage("b", 3, 3, 0, 4)),
    "a passage beyond the last": Document("b¶3", "text", passage=Passage("b", 3, 2, 0, 4)),
    "a passage that is a dict": Document("a", "text", passage={"document": "a"}),
}


def test_bad_documents_are_named_and_nothing_is_written(store):
    for name, bad in BAD_DOCUMENTS.items():
        with pytest.raises(DocumentError) as caught:
            store.upsert([*make_documents(2), bad], make_embeddings(3))
        assert caught.value.index == 2, name
        assert "passage" not in name or "use another id" in str(caught.value) or "leave it out" in str(caught.value)
        assert store.count() == 0, name


BAD_BATCHES = {
    "fewer embeddings": (ConfigError, lambda _: make_embeddings(2)),
    "no dense": (ConfigError, lambda e: dataclasses.replace(e, dense=None)),
    "no sparse": (ConfigError, lambda e: dataclasses.replace(e, sparse_ids=None)),
    "no multi_vector": (ConfigError, lambda e: dataclasses.replace(e, multi_vector=None)),
    "ids and weights differ": (ConfigError, lambda e: dataclasses.replace(e, sparse_ids=e.sparse_ids[:-1])),
    "offsets fall": (ConfigError, lambda e: dataclasses.replace(e, sparse_offsets=e.sparse_offsets[[0, 2, 1, 3]])),
    "offsets end early": (ConfigError, lambda e: dataclasses.replace(e, multi_vector=e.multi_vector[:-1])),
    "narrow dense": (DocumentError, lambda e: dataclasses.replace(e, dense=e.dense[:, :-1])),
    "narrow rows": (DocumentError, lambda e: dataclasses.replace(e, multi_vector=e.multi_vector[:, :-1])),
}


def test_bad_batches_write_nothing(store):
    for name, (error, spoil) in BAD_BATCHES.items():
        with pytest.raises(error):
            store.upsert(make_documents(3), spoil(make_embeddings(3)))
        assert store.count() == 0, name


BAD_QUERIES = {
    "no dense": lambda q: dataclasses.replace(q, dense=None),
    "no sparse": lambda q: dataclasses.replace(q, sparse=None),
    "wide dense": lambda q: dataclasses.replace(q, dense=np.ones(65, np.float32)),
    "NaN": lambda q: dataclasses.replace(q, dense=np.full(64, np.nan, np.float32)),
    "no rows": lambda q: dataclasses.replace(q, multi_vector=np.empty((0, 24), np.float32)),
    "ragged sparse": lambda q: dataclasses.replace(q, sparse=SparseVector(np.array([4, 5]), np.ones(1, np.float32))),
    "repeated id": lambda q: dataclasses.replace(q, sparse=SparseVector(np.array([5, 5]), np.ones(2, np.float32))),
}


def test_bad_queries(store):
    store.upsert(make_documents(10), make_embeddings(10))
    for spoil in BAD_QUERIES.values():
        with pytest.raises(ConfigError, match="query"):
            store.query(spoil(make_queries(1)[0]))
    for args in ({"limit": 0}, {"limit": -1}, {"candidates": 0}):
        with pytest.raises(ConfigError, match="at least 1"):
            store.query(make_queries(1)[0], **args)
    assert len(store.query(make_queries(1)[0])) == 10
