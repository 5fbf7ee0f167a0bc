"""Filters as conditions of Milvus against their definition, evaluated by milvus-lite's own parser."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from milvus_lite.search.filter import parse_expr
from milvus_lite.search.filter.eval.python_backend import _eval_row

from m3_vdb.filter_parser import parse_filter
from m3_vdb.filters import matches
from m3_vdb.stores import open_store
from m3_vdb.stores.milvus.filters import _term, numbers, terms, terms_text, to_condition
from m3_vdb.types import Document
from tests.stores._corpus import IDENTITY, make_embeddings, make_queries

NAMES = ["a", "b", "c.d", "ü x", "t[0]", "c", "c.d.e"]
NUMBERS = [0, 1, 2, -1, 7, 2**53, 2**53 + 1, 2**63 - 1, -(2**63), 0.0, -0.0, 1.0, 2.5, -3.5, 1e22, 1e-300]
DATES = ["2024-01-31", "2024-01-31T12:00", "2024-02-01 00:00:00.000001", "1969-07-20T20:17:40Z"]
SCALARS = [*NUMBERS, *DATES, True, False, "de", "", "true", "1", 'a"b', "\\", "日本"]
number, scalar = st.sampled_from(NUMBERS), st.sampled_from(SCALARS)
value = scalar | st.none() | st.lists(scalar | st.none() | st.just([1]) | st.just({"x": 1}), max_size=4)
inner = st.dictionaries(st.sampled_from(["d", "e", ""]), value | st.fixed_dictionaries({"e": value}), max_size=2)
payload = st.dictionaries(st.sampled_from(NAMES), value | st.just({"x": 1}) | inner, max_size=4)
test = (
    scalar
    | st.lists(scalar, max_size=3)
    | st.fixed_dictionaries({"$exists": st.booleans()})
    | st.fixed_dictionaries({"$ne": scalar})
    | st.fixed_dictionaries({"$nin": st.lists(scalar, max_size=3)})
    | st.dictionaries(st.sampled_from(["$gt", "$gte", "$lt", "$lte"]), number, min_size=1)
    | st.dictionaries(st.sampled_from(["$gt", "$gte", "$lt", "$lte"]), st.sampled_from(DATES), min_size=1)
    | st.none()
)
leaf = st.dictionaries(st.sampled_from(NAMES), test, min_size=1, max_size=2)
filters = st.recursive(
    leaf,
    lambda inner: (
        st.fixed_dictionaries({"$not": inner})
        | st.fixed_dictionaries({"$and": st.lists(inner, min_size=1, max_size=3)})
        | st.fixed_dictionaries({"$or": st.lists(inner, min_size=1, max_size=3)})
    ),
    max_leaves=6,
)


@dataclass
class Rows:
    """Rows in memory that answer like ``Requests``."""

    rows: dict[str, dict[str, Any]]
    terms_as_text: bool = False
    asked: int = 0

    def meeting(self, text: str) -> set[str]:
        tree = parse_expr(text)
        return {key for key, row in self.rows.items() if _eval_row(tree, row) is True}

    def matching(self, text: str, fields: list[str]) -> dict[str, dict[str, Any]]:
        self.asked += 1
        return {key: {field: self.rows[key][field] for field in fields} for key in self.meeting(text)}


def rows_of(payloads: list[dict[str, Any]], *, as_text: bool = False) -> Rows:
    found = {
        f"k{i}": {"key": f"k{i}", "payload": p, "terms": terms(p), "numbers": json.loads(json.dumps(numbers(p)))}
        for i, p in enumerate(payloads)
    }
    for row in found.values() if as_text else ():
        row["terms"] = terms_text(row["terms"])
    return Rows(found, as_text)


@settings(max_examples=150, deadline=None)
@given(payloads=st.lists(payload, min_size=1, max_size=12), filter=filters, as_text=st.booleans())
def test_a_condition_means_what_the_filter_means(payloads, filter, as_text):
    rows, expression = rows_of(payloads, as_text=as_text), parse_filter(filter)
    wanted = {f"k{i}" for i, p in enumerate(payloads) if matches(p, expression)}
    assert rows.meeting(to_condition(expression, rows)) == wanted


@settings(max_examples=80, deadline=None)
@given(payloads=st.lists(payload, min_size=1, max_size=12), filter=filters)
def test_rows_without_field_types_are_judged_by_their_payload(payloads, filter):
    """As version 0.1 wrote them: among new rows, and with terms and numbers of the top level alone."""
    rows, expression = rows_of(payloads), parse_filter(filter)
    for row in list(rows.rows.values())[::2]:
        row["terms"], row["numbers"] = old_fields(row["payload"])
    wanted = {f"k{i}" for i, p in enumerate(payloads) if matches(p, expression)}
    assert rows.meeting(to_condition(expression, rows)) == wanted


def old_fields(payload):
    """Terms and numbers as version 0.1 made them."""
    found, ends = set(), {}
    for name, value in payload.items():
        if value is None or value == []:
            continue
        found.add(_term(name, "exists"))
        elements = value if isinstance(value, list) else [value]
        numbers = [e for e in elements if isinstance(e, (int, float)) and not isinstance(e, bool)]
        found |= {_term(name, type(e).__name__, e) for e in elements if isinstance(e, (bool, int, float, str))}
        found |= {_term(name, "float", float(e)) for e in numbers if abs(e) > 2**53}
        if numbers:
            found.add(_term(name, "number"))
            ends[_term(name, "number")] = [float(min(map(float, numbers))), float(max(map(float, numbers)))]
    return sorted(found), ends


def test_rows_are_asked_for_only_where_a_list_spans_a_range():
    rows = rows_of([{"x": 5}, {"x": [1, 9]}, {"x": [1, 5, 9]}, {"x": [1, 2]}, {}])
    for filter, asked, expected in [
        ({"x": 5}, 0, {"k0", "k2"}),
        ({"x": {"$gte": 5}}, 0, {"k0", "k1", "k2"}),
        ({"x": {"$gt": 1, "$lt": 9}}, 1, {"k0", "k2", "k3"}),
        ({"$not": {"x": {"$gt": 1, "$lt": 9}}}, 1, {"k1", "k4"}),
        ({"x": {"$gt": 2, "$lt": 4}}, 1, set()),
    ]:
        rows.asked = 0
        assert rows.meeting(to_condition(parse_filter(filter), rows)) == expected
        assert rows.asked == asked


@pytest.mark.parametrize("engine", ["lite", "stub"])
def test_an_engine_understands_every_form(engine, tmp_path, request):
    payloads = [
        {"x": 5, "s": "de"}, {"x": [1, 9]}, {"x": [1, 5, 9], "s": ["de", "fr"]}, {"x": 1e-300}, {"x": -1e22, "s": None},
        {"x": True}, {"x": "5"}, {},
    ]  # fmt: skip
    url = str(tmp_path / "c.milvus.db") if engine == "lite" else f"{request.getfixturevalue('milvus_stub')}/filters"
    with open_store(url, identity=IDENTITY) as store:
        store.upsert([Document(str(i), "t", payload=p) for i, p in enumerate(payloads)], make_embeddings(len(payloads)))
        for filter in (
            {"x": 5}, {"x": 5.0}, {"x": []}, {"x": {"$nin": []}}, {"s": ["de", "x"]}, {"s": {"$exists": False}},
            {"x": {"$gt": -1e23, "$lte": 1e-300}}, {"x": {"$gte": 4, "$lt": 6}}, {"$not": {"x": {"$gt": 4, "$lt": 6}}},
            {"$or": [{"x": {"$lt": 0}}, {"$and": [{"s": "de"}, {"x": {"$ne": 9}}]}]}, {"x": True, "s": {"$ne": "de"}},
        ):  # fmt: skip
            expression = parse_filter(filter)
            wanted = {str(i) for i, p in enumerate(payloads) if matches(p, expression)}
            assert {name for name, _ in store.rank(make_queries(1)[0], filter=filter)} == wanted, filter
