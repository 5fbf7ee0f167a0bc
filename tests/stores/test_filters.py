"""The filter language: what is read, what holds, and that every store finds exactly what ``matches`` says."""

from __future__ import annotations

from contextlib import ExitStack

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.stubs.qdrant_rest_stub import RestStub
from m3_vdb.errors import ConfigError
from m3_vdb.filter_parser import parse_filter
from m3_vdb.filters import And, AnyOf, Exists, Not, Or, Range, fields, matches
from m3_vdb.stores import CollectionOptions, MemoryStore, open_store
from m3_vdb.stores.checks import check_condition
from m3_vdb.types import Document
from tests.stores._corpus import IDENTITY, make_embeddings, make_queries

INDEXES = {"whole": "integer", "a.b": "keyword", "ü": "float", "yes": "bool"}
NAMES = [*INDEXES, "none", "o.p", "o"]


def test_a_filter_becomes_a_tree():
    tree = parse_filter(
        {
            "lang": ["de", 1, 1.5, True],
            "year": {"$gte": 2000, "$lt": 2010, "$ne": 2005},
            "$or": [{"title": {"$exists": True}}, {"$not": {"tag": {"$nin": ["x"]}}}],
            "$and": [{"k": {"$in": []}}],
        }
    )
    assert tree == And((
        AnyOf("lang", ("de",), (1,), (1.5,), (True,)),
        Range("year", gte=2000.0, lt=2010.0),
        Not(AnyOf("year", integers=(2005,))),
        Or((Exists("title"), Not(Not(AnyOf("tag", ("x",)))))),
        And((AnyOf("k"),)),
    ))  # fmt: skip
    assert fields(tree) == {"lang", "year", "title", "tag", "k"}
    assert parse_filter(None) is None
    assert parse_filter({}) is None
    assert fields(None) == frozenset()
    assert matches({"anything": 1}, None)


PAYLOAD = {
    "lang": "de", "year": 2004, "price": 1.5, "draft": False, "tags": ["a", "b"], "years": [1990, 2020], "null": None,
    "empty": [], "nulls": [None], "object": {"x": 1}, "blank": "", "nested": [["a"]], "a.b": 1,
}  # fmt: skip


@pytest.mark.parametrize(
    ("filter", "expected"),
    [
        ({"lang": "de"}, True),
        ({"lang": "DE"}, False),
        ({"lang": {"$ne": "en"}}, True),
        ({"missing": {"$ne": "en"}}, True),
        ({"missing": {"$nin": ["en"]}}, True),
        ({"missing": "en"}, False),
        ({"tags": "b"}, True),
        ({"tags": {"$ne": "b"}}, False),
        ({"tags": {"$nin": ["c"]}}, True),
        ({"nested": "a"}, False),
        ({"year": 2004.0}, True),
        ({"price": 1.5}, True),
        ({"draft": False}, True),
        ({"draft": 0}, False),
        ({"draft": {"$gte": 0}}, False),
        ({"year": {"$gt": 2003.5, "$lte": 2004}}, True),
        ({"year": {"$gt": 2004}}, False),
        ({"years": {"$gte": 2000, "$lt": 2010}}, False),  # no one element lies within
        ({"$and": [{"years": {"$gte": 2000}}, {"years": {"$lt": 2010}}]}, True),
        ({"lang": {"$gte": 0}}, False),
        ({"null": {"$exists": True}}, False),
        ({"empty": {"$exists": True}}, False),
        ({"missing": {"$exists": False}}, True),
        ({"nulls": {"$exists": True}}, True),
        ({"blank": {"$exists": True}}, True),
        ({"object": {"$exists": True}}, True),
        ({"object": {"$ne": "x"}}, True),
        ({"a.b": 1}, True),
        ({"$or": [{"lang": "en"}, {"year": 2004}]}, True),
        ({"$or": [{"lang": "en"}, {"year": 2005}]}, False),
        ({"$not": {"lang": "de", "year": 2005}}, True),
        ({"lang": []}, False),
        ({"lang": {"$nin": []}}, True),
    ],
    ids=str,
)
def test_what_holds(filter, expected):
    assert matches(PAYLOAD, parse_filter(filter)) is expected


def deep(levels):
    return {"$not": deep(levels - 1)} if levels else {"a": 1}


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("lang=de", "expected an object"),
        ({"$nor": []}, "expected \\$and, \\$or, \\$not, \\$text or a field; fields whose name begins with \\$ cannot"),
        ({"$or": []}, "'\\$or': expected a list of at least one filter"),
        ({"$and": {"a": 1}}, "'\\$and': expected a list"),
        ({"$or": [{}]}, "'\\$or': expected an object with at least one condition, got {}"),
        ({"$not": []}, "'\\$not': expected an object"),
        ({"year": {}}, "'year': expected an operator"),
        ({"year": {"$gt": "2000"}}, "'year': \\$gt expected a finite number, got '2000'"),
        ({"year": {"$lt": True}}, "'year': \\$lt expected a finite number, got True"),
        ({"year": {"$lte": float("inf")}}, "finite"),
        ({"year": {"gte": 2000}}, "'year': unknown operator 'gte'; expected \\$gt"),
        ({"lang": {"$in": "de"}}, "'lang': \\$in expected a list, got 'de'"),
        ({"lang": {"$ne": ["de"]}}, "'lang': \\$ne expected one value, got \\['de'\\]; \\$nin takes a list"),
        ({"lang": {"$exists": 1}}, "'lang': \\$exists expected true or false"),
        ({"lang": {"$in": [["de"]]}}, "cannot match \\['de'\\] "),
        ({"lang": "\ud800"}, "cannot match"),
        ({"": 1}, "non-empty name"),
        ({7: 1}, "field 7: expected a non-empty name"),
        (deep(17), "expected at most 16"),
    ],
    ids=str,
)
def test_what_cannot_be_read_is_named(bad, message):
    with pytest.raises(ConfigError, match=message):
        parse_filter(bad)
    assert parse_filter(deep(15)) is not None


WHOLE = st.integers(-2, 3) | st.sampled_from([2**62 + 1, -(2**63)])
NUMBERS = WHOLE | st.integers(-5, 5).map(lambda i: i / 2)
DATES = st.sampled_from(["2024-01-31", "2024-01-31T12:00", "2024-02-01 00:00:00.5", "1969-07-20T20:17:40Z"])
OTHERS = st.booleans() | st.sampled_from(["", "1", "x", "true"]) | DATES


def payload_values(numbers):
    scalars = OTHERS | numbers | st.none()
    return scalars | st.lists(scalars | st.lists(scalars, max_size=2), max_size=3) | st.just({"x": 1})


PAYLOADS = st.fixed_dictionaries(
    {},
    optional={
        **{name: payload_values(WHOLE if name == "whole" else NUMBERS) for name in NAMES},
        "o": payload_values(NUMBERS) | st.fixed_dictionaries({"p": payload_values(NUMBERS)}),
    },
)
SCALARS = OTHERS | NUMBERS
BOUNDS = st.dictionaries(
    st.sampled_from(["$gt", "$gte", "$lt", "$lte"]), st.integers(-5, 5).map(lambda i: i / 2), min_size=1, max_size=2
)
SCALARS = SCALARS | st.none()
CONDITIONS = st.one_of(
    SCALARS,
    st.dictionaries(st.sampled_from(["$gt", "$gte", "$lt", "$lte"]), DATES, min_size=1, max_size=2),
    st.lists(SCALARS, max_size=3),
    BOUNDS,
    st.fixed_dictionaries({"$ne": SCALARS}),
    st.fixed_dictionaries({"$nin": st.lists(SCALARS, max_size=3)}),
    st.fixed_dictionaries({"$exists": st.booleans()}),
    st.fixed_dictionaries({"$gte": st.integers(-2, 2), "$ne": SCALARS}),
)
FILTERS = st.recursive(
    st.dictionaries(st.sampled_from(NAMES), CONDITIONS, min_size=1, max_size=2),
    lambda inner: st.one_of(
        st.fixed_dictionaries({"$or": st.lists(inner, min_size=1, max_size=3)}),
        st.fixed_dictionaries({"$and": st.lists(inner, min_size=1, max_size=3)}),
        st.fixed_dictionaries({"$not": inner}),
    ),
    max_leaves=4,
)


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """Every store of Qdrant's, with and without payload indexes, and the memory store."""
    folder, stub, indexed = tmp_path_factory.mktemp("filters"), RestStub(), CollectionOptions(indexes=INDEXES)
    with ExitStack() as stack:
        stack.callback(stub.close)
        opened = {
            "memory": MemoryStore(IDENTITY),
            "edge": open_store(str(folder / "a.qdrant"), identity=IDENTITY),
            "edge, indexed": open_store(str(folder / "b.qdrant"), identity=IDENTITY, options=indexed),
            "server": open_store(f"qdrant://{stub.address}/a", identity=IDENTITY),
            "server, indexed": open_store(f"qdrant://{stub.address}/b", identity=IDENTITY, options=indexed),
        }
        for store in opened.values():
            stack.enter_context(store)
        yield opened


HELD = {"whole": int, "a.b": str, "ü": (int, float), "yes": bool}


def indexable(payload):
    """What remains of a payload when its indexed fields may hold nothing but their type."""

    def fits(name, value):
        return value is None or (isinstance(value, HELD[name]) and (name == "yes") == isinstance(value, bool))

    kept = {}
    for name, value in payload.items():
        if name not in HELD or (not isinstance(value, list) and fits(name, value)):
            kept[name] = value
        elif isinstance(value, list):
            kept[name] = [element for element in value if fits(name, element)]
    return kept


EMBEDDINGS = make_embeddings(12, max_rows=5)
QUERY = make_queries(1)[0]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(payloads=st.lists(PAYLOADS, min_size=12, max_size=12), filters=st.lists(FILTERS, min_size=4, max_size=4))
def test_every_store_finds_what_matches_says(stores, payloads, filters):
    for name, store in stores.items():
        kept = [indexable(payload) for payload in payloads] if "indexed" in name else payloads
        documents = [Document(str(i), "t", payload=payload) for i, payload in enumerate(kept)]
        store.upsert(documents, EMBEDDINGS)
        for condition in filters:
            try:
                read = check_condition(parse_filter(condition), store.field_types)
            except ConfigError:
                with pytest.raises(ConfigError, match="indexes the field as"):
                    store.rank(QUERY, filter=condition)
                continue
            expected = {d.id for d in documents if matches(d.payload, read)}
            found = {document for document, _ in store.rank(QUERY, limit=12, filter=condition)}
            assert found == expected, (name, condition)
