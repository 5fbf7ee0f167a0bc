"""The checks against a slow and obvious version of themselves."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from m3_vdb.errors import DocumentError
from m3_vdb.filter_parser import parse_filter
from m3_vdb.filters import matches
from m3_vdb.stores.checks import MAX_PAYLOAD_DEPTH, check_documents
from m3_vdb.stores.points import batches, point_id
from m3_vdb.stores.vectors import check_embeddings
from m3_vdb.types import Document
from tests.stores._corpus import IDENTITY, make_embeddings

LIMIT = 29


def _sound(e):
    """Whether one text's vectors may be stored, said plainly."""
    ids, weights = e.sparse.ids.tolist(), e.sparse.weights.tolist()
    return (
        np.isfinite(e.dense).all()
        and np.isfinite(e.multi_vector).all()
        and ids == sorted(set(ids))
        and all(i >= 0 for i in ids)
        and all(np.isfinite(w) and w > 0 for w in weights)
        and 0 < len(e.multi_vector) <= LIMIT
    )


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 999), n=st.integers(1, 6), data=st.data())
def test_a_fault_is_found_and_names_an_unsound_document(seed, n, data):
    e = make_embeddings(n, seed=seed, max_rows=data.draw(st.sampled_from([20, 40])))
    e = dataclasses.replace(
        e, dense=e.dense.copy(), sparse_ids=e.sparse_ids.copy(), sparse_weights=e.sparse_weights.copy()
    )
    for _ in range(data.draw(st.integers(0, 2))):
        at = data.draw(st.integers(0, len(e.sparse_ids) - 1))
        kind = data.draw(st.sampled_from(["id", "weight", "dense", "row"]))
        if kind == "id":
            e.sparse_ids[at] = data.draw(st.integers(-2, 40))
        elif kind == "weight":
            e.sparse_weights[at] = data.draw(st.sampled_from([0.0, -1.0, np.nan, np.inf, 0.7]))
        elif kind == "dense":
            e.dense[at % n, 0] = np.nan
        else:
            e.multi_vector[at % len(e.multi_vector), -1] = np.inf
    unsound = [i for i in range(n) if not _sound(e[i])]
    if not unsound:
        check_embeddings(e, n=n, identity=IDENTITY, max_rows=LIMIT)
        return
    with pytest.raises(DocumentError) as caught:
        check_embeddings(e, n=n, identity=IDENTITY, max_rows=LIMIT)
    assert caught.value.index in unsound
    assert str(caught.value).startswith(f"document {caught.value.index}: ")


def test_the_depth_of_a_payload_has_a_limit():
    def nested(depth):
        value = 1
        for _ in range(depth):
            value = [value]
        return [Document(id="a", text="t", payload={"x": value})]

    assert check_documents(nested(MAX_PAYLOAD_DEPTH - 2))
    with pytest.raises(DocumentError, match="deep"):
        check_documents(nested(MAX_PAYLOAD_DEPTH))


def test_a_checked_document_does_not_change_with_the_users_dict():
    payload = {"tags": ["a"], "pair": (1, 2)}
    (kept,) = check_documents([Document(id="a", text="t", payload=payload)])
    payload["tags"].append("b")
    assert kept.payload == {"tags": ["a"], "pair": [1, 2]}


@given(
    value=st.booleans()
    | st.integers(-3, 3)
    | st.sampled_from([-1.5, 0.0, 1.0, 2.0])
    | st.sampled_from(["", "1", "True"]),
    wanted=st.booleans()
    | st.integers(-3, 3)
    | st.sampled_from([-1.5, 0.0, 1.0, 2.0])
    | st.sampled_from(["", "1", "True"]),
)
def test_what_equals_what(value, wanted):
    if isinstance(wanted, float):
        expected = not isinstance(value, (bool, str)) and value == wanted
    else:
        expected = type(value) is type(wanted) and value == wanted
    assert matches({"x": value}, parse_filter({"x": wanted})) is expected
    assert matches({"x": [None, value]}, parse_filter({"x": ["other", wanted]})) is expected
    assert not matches({"y": value}, parse_filter({"x": wanted}))


def test_point_ids_never_change():
    """Pinned: with another namespace, upsert would no longer replace what older versions stored."""
    assert point_id("doc-1") == "aaed0df7-cce9-5538-8867-ecf43e1ad3a0"
    assert len({point_id(str(i)) for i in range(1000)}) == 1000


@given(sizes=st.lists(st.integers(1, 30), max_size=30), limit=st.integers(1, 40))
def test_batches_keep_order_lose_nothing_and_stay_below_the_limit(sizes, limit):
    items = list(enumerate(sizes))
    cut = list(batches(items, lambda item: item[1], max_bytes=limit))
    totals = [sum(size for _, size in batch) for batch in cut]
    assert [item for batch in cut for item in batch] == items
    assert all(len(batch) == 1 or total <= limit for batch, total in zip(cut, totals, strict=True))
    assert all(
        total + after[0][1] > limit for total, after in zip(totals, cut[1:], strict=False)
    )  # no cut without need
