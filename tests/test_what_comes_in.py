"""Arguments of public functions: any iterable is read once, in its order; a string instead of several is refused."""

from __future__ import annotations

import dataclasses
import datetime
import math
import uuid
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from m3_vdb import Document, HybridIndex, LongDocuments, M3EmbeddingFunction, Weights, open_store
from m3_vdb.errors import ConfigError, DocumentError, ModelOutputError, StoreUrlError, TextError
from m3_vdb.ingest import Corpus, Fields, SourceFields, ingest
from m3_vdb.inputs import plain_value, read_ids, read_path, whole_number
from m3_vdb.stores import CollectionOptions, MemoryStore
from m3_vdb.weights import PRESETS
from tests.ingest._fakes import HashEmbed
from tests.serving._fakes import FakeSession, embed_with

TEXTS = ["the vector", "a", "repeat repeat repeat", "hello world"]


@pytest.fixture(scope="module")
def embed(tiny_bundle):
    return embed_with(FakeSession(), tiny_bundle, on_truncate="ignore")


@pytest.fixture
def index():
    embed = HashEmbed()
    with HybridIndex(embed, open_store("memory://", identity=embed)) as opened:
        yield opened


def in_a_file(tmp_path: Path):
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(TEXTS), encoding="utf-8")
    return path.open(encoding="utf-8")


class Table:
    """What a data frame looks like to those who do not import its library; iterating gives names of columns."""

    columns = ("text",)

    def __iter__(self):
        return iter(self.columns)

    def __repr__(self):
        return "Table()"


class Column:
    """A column of a filtered table: its labels are not its positions."""

    def __init__(self, labels: list[int]):
        self._rows = {label: TEXTS[label] for label in labels}

    def __len__(self):
        return len(self._rows)

    def __getitem__(self, label):
        return self._rows[label]

    def __iter__(self):
        return iter(self._rows.values())


MANY: dict[str, Callable[[Path], object]] = {
    "list": lambda _: TEXTS,
    "tuple": lambda _: tuple(TEXTS),
    "generator": lambda _: (text for text in TEXTS),
    "map": lambda _: map(str, TEXTS),
    "filter": lambda _: filter(None, TEXTS),
    "iterator": lambda _: iter(TEXTS),
    "values of a dict": lambda _: dict(enumerate(TEXTS)).values(),
    "keys of a dict": lambda _: dict.fromkeys(TEXTS).keys(),
    "array": lambda _: np.array(TEXTS),
    "array of objects": lambda _: np.array(TEXTS, dtype=object),
    "numpy strings": lambda _: [np.str_(text) for text in TEXTS],
    "open file": in_a_file,
}


def entrances(embed: M3EmbeddingFunction) -> dict[str, Callable[[object], list[object]]]:
    """Everything that takes texts → what it says of each."""
    return {
        "encode_documents": lambda texts: [one.dense.tolist() for one in embed.encode_documents(texts)],
        "encode_queries": lambda texts: [one.dense.tolist() for one in embed.encode_queries(texts)],
        "call": lambda texts: [one.multi_vector.tolist() for one in embed(texts)],
        "token_count": lambda texts: embed.token_count(texts).tolist(),
        "tokenizer.count": lambda texts: embed.tokenizer.count(texts).tolist(),
        "tokenizer.encode": lambda texts: embed.tokenizer.encode(texts, max_length=64).lengths.tolist(),
    }


ENTRANCES = [*entrances(SimpleNamespace())]


@pytest.mark.parametrize("entrance", ENTRANCES)
@pytest.mark.parametrize("form", MANY)
def test_n_texts_in_any_form_give_n_results_in_their_order(embed, tmp_path, form, entrance):
    encode = entrances(embed)[entrance]
    each = [encode([text])[0] for text in TEXTS]
    got = encode(MANY[form](tmp_path))
    if form == "open file":  # lines end with a line break, which is no token
        assert len(got) == len(each)
    else:
        assert got == each


@pytest.mark.parametrize("labels", [[3, 1, 0, 2], [2, 3], [0]], ids=["sorted", "filtered", "one row"])
@pytest.mark.parametrize("entrance", ENTRANCES)
def test_a_column_is_taken_in_its_own_order_whatever_its_labels(embed, entrance, labels):
    encode = entrances(embed)[entrance]
    assert encode(Column(labels)) == [encode([TEXTS[label]])[0] for label in labels]


def test_pandas_columns_are_taken_in_their_own_order(embed):
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame({"text": TEXTS, "score": [3, 1, 2, 0]})
    for column in (table.sort_values("score").text, table[::-1].text, table[table.score > 1].text):
        each = [embed.encode_documents([text])[0].dense.tolist() for text in column]
        assert [one.dense.tolist() for one in embed.encode_documents(column)] == each
    with pytest.raises(TextError, match=r"table \(DataFrame\): pass a column"):
        embed.encode_documents(table)
    with pytest.raises(TextError, match=r"item 1 is .*leave missing texts out"):
        embed.encode_documents(pandas.Series(["a", pandas.NA]))


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        ("one text", r"got one string: pass \[text\]"),
        (b"bytes", r"pass \[text\]"),
        (None, "got None"),
        (7, "got int 7"),
        ({"a": "text"}, r"values\(\)"),
        (Table(), "table.*df"),
        (np.array("a"), "expected a list"),
        (Document("1", "x"), r"pass \[text\]"),
    ],
    ids=repr,
)
@pytest.mark.parametrize("entrance", ENTRANCES)
def test_what_holds_no_texts_is_refused_and_never_an_empty_result(embed, entrance, texts, expected):
    with pytest.raises(TextError, match=expected):
        entrances(embed)[entrance](texts)


@pytest.mark.parametrize("bad", [None, math.nan, b"bytes", 3, ["nested"], np.float64(1)], ids=repr)
@pytest.mark.parametrize("entrance", ENTRANCES)
def test_an_item_that_is_no_text_is_named_by_its_index(embed, entrance, bad):
    with pytest.raises(TextError, match=f"item 2 is {type(bad).__name__}, expected str") as caught:
        entrances(embed)[entrance](text for text in ["a", "the", bad, "a"])
    assert caught.value.index == 2


def test_what_is_empty_gives_an_empty_result(embed):
    used_up = iter(TEXTS)
    list(used_up)
    for nothing in ([], (), used_up, {}.values(), np.array([], dtype=str)):
        assert len(embed.encode_documents(nothing)) == 0


# Ids, documents and numbers, in an index over a store in memory; tests/stores/test_arguments.py has all stores.


@pytest.mark.parametrize("method", ["get", "delete"])
@pytest.mark.parametrize(
    ("ids", "error", "expected"),
    [
        ("12", ConfigError, r"one string: pass \['12'\]"),
        (b"12", ConfigError, r"pass \[b'12'\]"),
        (None, ConfigError, "ids: expected.*(None|neither)"),
        (12, ConfigError, "int 12"),
        ({"12": 1}, ConfigError, r"keys\(\)"),
        ([1], DocumentError, r"item 0: an id must be a str, got int 1: pass str\(1\)"),
        (["1", None], DocumentError, "item 1.*leave missing ids out"),
        (["\ud800"], DocumentError, "surrogates"),
    ],
    ids=repr,
)
def test_ids_that_are_none_are_refused_before_anything_is_done(index, method, ids, error, expected):
    index.add([Document("1", "one"), Document("2", "two"), Document("12", "twelve")])
    with pytest.raises(error, match=expected):
        getattr(index, method)(ids)
    assert index.count() == 3


def test_ids_in_any_form(index):
    index.add([Document("1", "one"), Document("2", "two")])
    for ids in (("2", "1"), (i for i in "21"), np.array(["2", "1"]), {"2": 0, "1": 0}.keys()):
        assert [document.id for document in index.get(ids)] == ["2", "1"]
    assert [document.id for document in index.get(["x", "2", "2"])] == ["2", "2"]
    index.delete(i for i in ["1", "unknown"])
    assert [document.id for document in index.get({"1", "2"})] == ["2"]


def test_a_dict_with_the_fields_of_a_document_is_one(index):
    documents = [
        {"id": "1", "text": "one"},
        {"id": "2", "text": "two", "title": "Two", "lang": "de", "year": 2},
        {"id": "3", "text": "three", "title": None, "payload": {"lang": "en"}},
        {"id": "4", "text": None, "title": "Only a title"},
        dataclasses.asdict(Document("5", "five", "V", {"lang": "fr"})),
    ]
    expected = [
        Document("1", "one"),
        Document("2", "two", "Two", {"lang": "de", "year": 2}),
        Document("3", "three", "", {"lang": "en"}),
        Document("4", "", "Only a title"),
        Document("5", "five", "V", {"lang": "fr"}),
    ]
    assert index.add(iter(documents)).documents == 5
    assert index.get("12345"[i] for i in range(5)) == expected
    report = ingest(documents, HashEmbed(), MemoryStore(HashEmbed().identity))
    assert (report.documents, report.rejected) == (5, [])


NO_DOCUMENTS = {
    "text": ("text", r"document 1: expected a Document, .*got str 'text'"),
    "no id": ({"text": "x"}, "document 1: .*got one with 'text'"),
    "no text": ({"id": "x", "title": None}, "document 1: .*got one with 'id', 'title'"),
    "empty": ({}, "nothing in it"),
    "pair": (("1", "x"), "tuple"),
    "payload twice": ({"id": "1", "text": "x", "payload": {}, "lang": "de"}, "besides its payload it has 'lang'"),
    "number as id": ({"id": 7, "text": "x"}, r"pass str\(7\)"),
    "uuid as id": (Document(uuid.UUID(int=1), "x"), r"id must be a str, got UUID .*pass str\(UUID"),
    "payload in the place of the title": (
        Document("1", "x", {"a": 1}),
        r"title must be a str, got dict.*payload=\{'a'",
    ),
}


@pytest.mark.parametrize(("bad", "expected"), NO_DOCUMENTS.values(), ids=NO_DOCUMENTS)
def test_an_item_that_is_no_document_is_named(index, bad, expected):
    with pytest.raises(DocumentError, match=expected) as caught:
        index.add([Document("0", "zero"), bad])
    assert caught.value.index == 1
    assert index.count() == 0


@pytest.mark.parametrize(("bad", "_"), NO_DOCUMENTS.values(), ids=NO_DOCUMENTS)
def test_in_an_ingest_it_costs_itself_only(bad, _):
    store = MemoryStore(HashEmbed().identity)
    report = ingest([Document("0", "zero"), bad, Document("2", "two")], HashEmbed(), store)
    assert report.documents == store.count() == 2
    (rejected,) = report.rejected
    assert "document 1" not in rejected.reason


@pytest.mark.parametrize(
    ("documents", "expected"),
    [
        (Document("1", "x"), r"pass \[document\]"),
        ({"id": "1", "text": "x"}, r"\[document\]"),
        ("text", r"pass \[document\]"),
        (None, "None"),
        (Table(), r"to_dict\('records'\)"),
    ],
    ids=["document", "dict", "text", "None", "table"],
)
def test_one_document_where_many_are_expected_is_refused(index, documents, expected):
    with pytest.raises(ConfigError, match=expected):
        index.add(documents)
    with pytest.raises(ConfigError, match=expected):
        ingest(documents, HashEmbed(), MemoryStore(HashEmbed().identity))


@pytest.mark.parametrize("place", [0, 3, 5])
@pytest.mark.parametrize("batch_size", [1, 2, 4, 64])
@pytest.mark.parametrize(
    ("bad", "error"),
    [(Document("x", "poison"), ModelOutputError), (Document("x", None), DocumentError), ("text", DocumentError)],
    ids=["model", "document", "item"],
)
def test_an_error_of_add_counts_from_the_beginning(index, bad, error, batch_size, place):
    documents = [Document(str(i), f"text {i}") for i in range(6)]
    documents[place] = bad
    with pytest.raises(error, match=rf"(item|document) {place}\b") as caught:
        index.add(iter(documents), batch_size=batch_size)
    assert caught.value.index == place
    assert index.count() == place // batch_size * batch_size, "batches before it stay"


def test_an_error_about_a_passage_counts_documents(tiny_bundle):
    embed = embed_with(FakeSession(), tiny_bundle, max_length=16)
    store = MemoryStore(embed.identity)
    index = HybridIndex(embed, store, long_documents=LongDocuments(plan="split"))
    long = Document("long", "the vector search " * 20)
    with pytest.raises(DocumentError, match="document 2") as caught:
        index.add([long, Document("a", "a"), Document("t", "a", title="the vector search " * 5)], batch_size=2)
    assert caught.value.index == 2
    assert len(index.get(["long", "a"])) == 2


def test_a_source_that_fails_midway_keeps_the_batches_before(index):
    def source():
        yield from (Document(str(i), f"text {i}") for i in range(5))
        raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        index.add(source(), batch_size=2)
    assert index.count() == 4


def test_payload_values_that_mean_one_json_value_are_taken(index):
    day = datetime.date(2024, 2, 29)
    moment = datetime.datetime(2024, 2, 29, 12, 30, tzinfo=datetime.timezone.utc)
    payload = {
        "integer": np.int64(7),
        "boolean": np.bool_(True),
        "float": np.float64(0.1),
        "text": np.str_("x"),
        "list": [np.int32(1), (np.uint8(2),)],
        "day": day,
        "moment": moment,
    }
    index.add([Document("1", "x", payload=payload)])
    (stored,) = index.get(["1"])
    assert stored.payload == {
        "integer": 7,
        "boolean": True,
        "float": 0.1,
        "text": "x",
        "list": [1, [2]],
        "day": "2024-02-29",
        "moment": "2024-02-29T12:30:00+00:00",
    }
    assert [hit.document.id for hit in index.query("x", filter={"integer": 7, "boolean": True})] == ["1"]


@pytest.mark.parametrize(
    "value",
    [np.float32(0.1), np.array([1, 2]), {1, 2}, b"x", Path("x"), uuid.UUID(int=1), np.datetime64("2024-01-01"), 1j],
    ids=repr,
)
def test_payload_values_that_could_mean_several_are_refused(index, value):
    with pytest.raises(DocumentError, match=rf"holds a {type(value).__name__}, which is not JSON; convert it"):
        index.add([Document("1", "x", payload={"field": [value]})])


def test_a_time_that_is_none_is_not_a_date():
    pandas = pytest.importorskip("pandas")
    assert plain_value(pandas.NaT) is pandas.NaT
    assert plain_value(pandas.Timestamp("2024-02-29")) == "2024-02-29T00:00:00"


# One text.


@pytest.mark.parametrize("text", [["a", "b"], ("a",), None, 3, b"a"], ids=repr)
def test_a_query_is_one_text(index, text):
    with pytest.raises(TextError, match=r"query: expected one text .* query once per text"):
        index.query(text)


# Weights.

THREE = [(1, 0.3, 0), [1, 0.3, 0], np.array([1, 0.3, 0]), "1,0.3,0", " 1, 0.3, 0 ", "dense_sparse", Weights(1, 0.3, 0)]
THREE += [{"dense": 1, "sparse": 0.3, "multi_vector": 0}, (np.float64(1), np.float32(0.3), np.int64(0))]


@pytest.mark.parametrize("weights", THREE, ids=repr)
def test_weights_in_any_form_are_the_same_everywhere(index, weights):
    index.add([Document(str(i), f"text {i}") for i in range(20)])
    wanted = index.query("text 3", weights=Weights(1, 0.3, 0))
    hits = index.query("text 3", weights=weights)
    assert [hit.document.id for hit in hits] == [hit.document.id for hit in wanted]
    assert [hit.score for hit in hits] == pytest.approx([hit.score for hit in wanted], rel=1e-6)
    assert dataclasses.astuple(Weights.parse(weights)) == pytest.approx((1, 0.3, 0, 0))


NO_WEIGHTS = [None, 1.0, "hybrid", "1,2", (1, 2), [1, 2, 3, 4, 5], {"dense": 1}, {1, 2, 3}, object(), b"1,2,3"]


@pytest.mark.parametrize("weights", NO_WEIGHTS, ids=lambda one: type(one).__name__)
def test_anything_else_is_no_weights(index, weights):
    with pytest.raises(ConfigError, match=r"expected three numbers .* or one of default"):
        index.query("x", weights=weights)


@pytest.mark.parametrize(
    "weights", [("1", 0.3, 1), (True, 0, 0), (None, 1, 1), (-1, 1, 1), (math.nan, 1, 1), (0, 0, 0)]
)
def test_weights_that_are_no_numbers_or_rank_nothing(index, weights):
    with pytest.raises(ConfigError, match="weights must be finite numbers, at least 0 and not all 0"):
        Weights(*weights)
    with pytest.raises(ConfigError, match="weights must be finite numbers"):
        index.query("x", weights=weights)


def test_presets_are_weights():
    assert {Weights.parse(name) for name in PRESETS} == set(PRESETS.values())


# Numbers, paths, and objects of another kind.


WHOLE = [2.0, "2", True, np.bool_(True), [2], math.nan, -1]
NO_NUMBERS = [(name, value) for name in ("limit", "offset", "candidates") for value in [*WHOLE, None]]
NO_NUMBERS += [("ef", value) for value in WHOLE]
NO_NUMBERS += [("score_threshold", value) for value in ("2", True, [2], math.nan, math.inf)]


@pytest.mark.parametrize(("name", "value"), NO_NUMBERS, ids=str)
def test_a_number_of_a_search_is_a_number(index, name, value):
    with pytest.raises(ConfigError, match=f"{name}=.*: expected "):
        index.query("x", **{name: value})


def test_whole_numbers_of_any_type(index):
    index.add([Document(str(i), f"text {i}") for i in np.arange(5)], batch_size=np.int64(2))
    assert len(index.query("x", limit=np.int64(2), offset=np.uint8(1), candidates=np.int32(5))) == 2
    assert whole_number("n", np.int64(2), least=1) == 2
    with pytest.raises(ConfigError, match="batch_size=0: expected a whole number, at least 1"):
        index.add([], batch_size=0)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"threads": 0}, "threads=0: expected a whole number, at least 1, or None"),
        ({"threads": -1}, "threads=-1"),
        ({"threads": "2"}, "threads='2'"),
        ({"threads": True}, "threads=True"),
        ({"max_length": "32"}, "max_length='32': tiny takes 3 … 64 tokens"),
        ({"max_length": 32.0}, "max_length=32.0"),
        ({"batch_tokens": "4096"}, "batch_tokens='4096': expected a whole number, at least 1"),
        ({"batch_tokens": 1.5}, "batch_tokens=1.5"),
        ({"mcls_every": "256"}, "mcls_every='256'"),
        ({"mcls_every": 0.5}, "mcls_every=0.5"),
        ({"device": "cuda:0"}, r"device='cuda:0': .*'auto', 'cpu', 'cuda'.*CUDA_VISIBLE_DEVICES"),
        ({"device": "mps"}, r"device='mps': .*'auto', 'cpu', 'cuda'"),
        ({"device": 0}, "device=0"),
        ({"on_truncate": None}, "on_truncate=None: expected one of warn, error, ignore"),
    ],
    ids=str,
)
def test_options_of_an_embedding_function_are_checked_when_it_is_made(tiny_bundle, options, expected):
    with pytest.raises(ConfigError, match=expected):
        M3EmbeddingFunction(tiny_bundle, **options)


@pytest.mark.parametrize("model", [123, b"m3-small", ["m3-small"], ""], ids=repr)
def test_a_model_is_a_name_or_path(model):
    with pytest.raises(ConfigError, match=r"model=.*: expected a path"):
        M3EmbeddingFunction(model)


def test_paths_are_text_or_paths_everywhere(tiny_bundle, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "model").symlink_to(tiny_bundle)
    found = [M3EmbeddingFunction(path).identity for path in (tiny_bundle, str(tiny_bundle), "~/model", Path("~/model"))]
    assert len(set(found)) == 1
    assert read_path("x", Path("a/~")) == Path("a/~")
    embed, letters = HashEmbed(), tmp_path / "bad.jsonl"
    for path in (letters, str(letters)):
        store = MemoryStore(embed.identity)
        ingest([Document("", "x")], embed, store, rejected=path, checkpoint=type(path)(tmp_path / "state"))
        assert letters.read_text(encoding="utf-8")
        letters.unlink()
    with pytest.raises(ConfigError, match="rejected=7: expected a path"):
        ingest([], embed, store, rejected=7)


def test_a_store_opens_by_path_and_by_the_embedding_function(tmp_path):
    pytest.importorskip("qdrant_edge")
    embed, path = HashEmbed(), tmp_path / "notes.qdrant"
    with HybridIndex(embed, open_store(path, identity=embed)) as index:
        index.add([Document("1", "one")])
    with open_store(str(path), identity=embed.identity) as store:
        assert (store.count(), store.identity) == (1, embed.identity)
    for url in (None, 7, b"notes.qdrant", ["notes.qdrant"]):
        with pytest.raises(StoreUrlError, match="a store URL must be a str or a path"):
            open_store(url, identity=embed)
    with pytest.raises(ConfigError, match=r"identity='m3-small': expected the identity of a model, as embed.identity"):
        open_store(path, identity="m3-small")
    with pytest.raises(ConfigError, match=r"options=.*CollectionOptions"):
        open_store(path, identity=embed, options={"storage": "half"})


def test_a_corpus_takes_paths_and_names_in_any_form(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    path = tmp_path / "a.jsonl"
    path.write_text('{"key": "1", "text": "x"}\n', encoding="utf-8")
    for paths in ([path], (str(path),), iter([path]), ["~/a.jsonl"]):
        (row,) = Corpus(paths, fields=Fields(id=("key",)))
        assert row.document == Document("1", "x")
    assert Fields(id=["key"]) == Fields(id=iter(["key"])) == Fields(id=("key",))
    for one in (path, str(path)):
        with pytest.raises(ConfigError, match=r"paths: expected a list .*: pass \["):
            Corpus(one)
    with pytest.raises(ConfigError, match="paths=7: expected a path"):
        Corpus([7])
    for names in ({"id": "key"}, {"text": "body"}, {"columns": "id"}):
        ((name, value),) = names.items()
        with pytest.raises(ConfigError, match=rf"{name}: expected a list .*pass \['{value}'\]"):
            Fields(**names)
    with pytest.raises(ConfigError, match=r"text: .*pass \['body'\]"):
        SourceFields(text="body")


def test_an_index_says_which_of_its_parts_is_another_thing(index):
    embed, store = HashEmbed(), MemoryStore(HashEmbed().identity)
    for arguments, expected in [
        ((store, embed), "embed: expected an embedding function"),
        (("m3-small", store), "embed: expected an embedding function"),
        ((embed, "notes.qdrant"), "store: expected an open store, open_store"),
        ((embed, embed), "store: expected an open store"),
    ]:
        with pytest.raises(ConfigError, match=expected):
            HybridIndex(*arguments)
        with pytest.raises(ConfigError, match=expected):
            ingest([], *arguments)
    with pytest.raises(ConfigError, match=r"LongDocuments\(plan='split'\)"):
        HybridIndex(embed, store, long_documents="split")


@pytest.mark.parametrize(
    "options",
    [
        {"shard_number": "2"},
        {"replication_factor": 0},
        {"shard_number": 1.5},
        {"indexes": ["year"]},
        {"indexes": "year"},
    ],
    ids=str,
)
def test_options_of_a_collection_are_checked_when_they_are_made(options):
    with pytest.raises(ConfigError, match=f"{next(iter(options))}="):
        CollectionOptions(**options)


@pytest.mark.parametrize(
    "options", [{"overlap": "3"}, {"max_rows": 0}, {"max_rows": 2.5}, {"pool_factor": "2"}], ids=str
)
def test_a_plan_for_long_documents_is_checked_when_it_is_made(options):
    with pytest.raises(ConfigError, match=f"{next(iter(options))}="):
        LongDocuments(plan="split", **options)


def test_what_is_read_is_plain_text():
    (read,) = read_ids([np.str_("12")])
    assert type(read) is str
