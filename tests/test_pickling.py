"""What goes from one process to another: errors, embedding functions, results."""

from __future__ import annotations

import copy
import importlib
import inspect
import multiprocessing
import pickle
import pkgutil
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from m3_vdb import Document, M3EmbeddingFunction
from m3_vdb.errors import (
    BundleError,
    ConfigError,
    DocumentError,
    InputError,
    M3Error,
    MissingExtraError,
    ModelOutputError,
    StoreConnectionError,
    StoreRequestError,
    TextError,
    TruncationError,
)
from m3_vdb.scoring import score
from m3_vdb.stores import MemoryStore
from m3_vdb.types import Hit, M3Embeddings
from tests.ingest._fakes import HashEmbed
from tests.serving._fakes import FakeSession, embed_with

TEXTS = ["the vector search", "a", "hello world"]
PACKAGES = ("m3_vdb", "train", "onnx_export")


@cache
def error_classes() -> dict[str, type[Exception]]:
    """Every exception that is defined in this project; a module whose extra is not installed is left out."""
    found = {}
    for package in PACKAGES:
        top = importlib.import_module(package)
        for module in pkgutil.walk_packages(top.__path__, f"{package}."):
            if module.name.endswith("__main__"):
                continue
            try:
                members = vars(importlib.import_module(module.name))
            except ImportError:
                continue
            for one in members.values():
                if inspect.isclass(one) and issubclass(one, Exception) and one.__module__.split(".")[0] in PACKAGES:
                    found[f"{one.__module__}.{one.__qualname__}"] = one
    return found


def made(kind: type[Exception]) -> Exception:
    """An error of this kind with an argument for each parameter of its constructor."""
    own = kind.__init__
    parameters = list(inspect.signature(own).parameters.values())[1:] if inspect.isfunction(own) else []
    values = {"index": 7, "status": 503, "retry_after": 1.5}
    positional = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    named = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
    arguments = [values.get(name, f"the {name} of item 7") for name in positional] or ["what went wrong with item 7"]
    return kind(*arguments, **{name: values.get(name, f"the {name}") for name in named})


def described(error: BaseException) -> tuple[object, ...]:
    slots = [getattr(error, name, None) for name in ("msg", "name", "path", "errno", "strerror")]
    return type(error), str(error), error.args, vars(error), slots


def test_all_kinds_of_errors_are_looked_at():
    names = {name.rpartition(".")[2] for name in error_classes()}
    assert {
        "TextError",
        "MissingExtraError",
        "StoreRequestError",
        "DamagedError",
        "RowError",
        "RequestFailedError",
    } <= names
    assert {one.__name__ for one in _subclasses(M3Error)} <= names


def test_every_error_survives_pickling_and_copying():
    for name, kind in error_classes().items():
        error = made(kind)
        error.note = "added by the caller"
        for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
            assert described(pickle.loads(pickle.dumps(error, protocol))) == described(error), name
        assert described(copy.copy(error)) == described(copy.deepcopy(error)) == described(error), name


def _subclasses(kind: type[Exception]) -> set[type[Exception]]:
    return {kind}.union(
        *(_subclasses(one) for one in kind.__subclasses__() if one.__module__.split(".")[0] in PACKAGES)
    )


def test_an_error_keeps_what_its_python_kind_has():
    missing = pickle.loads(pickle.dumps(MissingExtraError("a store", extra="qdrant")))
    assert isinstance(missing, ImportError)
    assert missing.msg == str(missing) == "a store needs packages that are not installed: pip install 'm3-vdb[qdrant]'"
    refused = pickle.loads(pickle.dumps(StoreRequestError("no", status=429, retry_after=2.0)))
    assert (refused.status, refused.retry_after, str(refused)) == (429, 2.0, "no")
    assert str(pickle.loads(pickle.dumps(StoreConnectionError()))) == ""


@pytest.mark.parametrize("kind", [TextError, TruncationError, DocumentError, ModelOutputError, InputError])
def test_an_error_about_an_item_can_speak_of_another_place(kind):
    moved = kind("item 3 and document 3 and item 31", index=3).at(12)
    assert (type(moved), moved.index, str(moved)) == (kind, 12, "item 12 and document 3 and item 31")
    assert str(kind("its title is too long", index=3).at(4)) == "its title is too long"


def _raise(kind: type[Exception]) -> None:
    raise made(kind)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_pool_gets_every_error_and_never_hangs(method):
    """An error that cannot be unpickled kills the thread of the pool that reads results."""
    kinds = (TextError, MissingExtraError, ModelOutputError, StoreRequestError, StoreConnectionError, ConfigError)
    context = multiprocessing.get_context(method)
    with context.Pool(1) as pool:
        for kind in kinds:
            with pytest.raises(kind) as caught:
                pool.apply_async(_raise, (kind,)).get(timeout=120)
            assert described(caught.value)[:4] == described(made(kind))[:4]
    with ProcessPoolExecutor(1, mp_context=context) as executor:
        for kind in kinds:
            with pytest.raises(kind):
                executor.submit(_raise, kind).result(timeout=120)


# Embedding functions.


@pytest.fixture(scope="module")
def embed(tiny_bundle):
    return M3EmbeddingFunction(
        tiny_bundle, runtime="onnxruntime", device="cpu", threads=1, max_length=32, on_truncate="error", batch_tokens=99
    )


def _options(embed: M3EmbeddingFunction) -> tuple[object, ...]:
    return embed.identity, embed.max_length, embed.on_truncate, embed.batch_tokens, embed.session.description


def test_an_embedding_function_pickles_as_its_model_and_options(embed):
    data = pickle.dumps(embed)
    assert len(data) < 2_000, "the model stays where it is"
    twin = pickle.loads(data)
    assert _options(twin) == _options(embed)
    np.testing.assert_array_equal(twin.encode_documents(TEXTS).dense, embed.encode_documents(TEXTS).dense)
    again = pickle.loads(pickle.dumps(twin))
    assert _options(again) == _options(embed)


def test_mcls_is_one_of_the_options(tiny_bundle):
    embed = M3EmbeddingFunction(tiny_bundle, runtime="onnxruntime", device="cpu", threads=1, mcls_every=8)
    assert pickle.loads(pickle.dumps(embed)).identity == embed.identity


def test_a_pickle_finds_its_model_from_any_working_directory(tiny_bundle, tmp_path, monkeypatch):
    monkeypatch.chdir(tiny_bundle.parent)
    embed = M3EmbeddingFunction(tiny_bundle.name, runtime="onnxruntime", device="cpu", threads=1)
    monkeypatch.chdir(tmp_path)
    assert pickle.loads(pickle.dumps(embed)).identity == embed.identity


def test_a_pickle_refuses_another_model_of_the_same_name(embed, monkeypatch):
    data = pickle.dumps(embed)
    monkeypatch.setattr("m3_vdb.encoding.bundle.fingerprint", lambda _: "another")
    with pytest.raises(BundleError, match="another model here"):
        pickle.loads(data)


def test_a_session_of_the_users_own_cannot_be_pickled(tiny_bundle):
    embed = embed_with(FakeSession(), tiny_bundle)
    with pytest.raises(ConfigError, match=r"made from parts \(FakeSession\) cannot be pickled: make it in the process"):
        pickle.dumps(embed)
    assert len(copy.deepcopy(embed).encode_documents(TEXTS)) == 3


def test_a_copy_shares_the_model_and_has_options_of_its_own(embed):
    for twin in (copy.copy(embed), copy.deepcopy(embed)):
        assert twin.session is embed.session
        assert _options(twin) == _options(embed)
        twin.on_truncate = "ignore"
        assert embed.on_truncate == "error"


def _encode(embed: M3EmbeddingFunction, texts: list[str]) -> M3Embeddings:
    return embed.encode_documents(texts)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_pool_encodes_with_an_embedding_function_that_is_handed_to_it(embed, method):
    expected = embed.encode_documents(TEXTS)
    with multiprocessing.get_context(method).Pool(1) as pool:
        got = pool.apply_async(_encode, (embed, TEXTS)).get(timeout=120)
        assert got == expected
        with pytest.raises(TruncationError, match="item 1") as caught:
            pool.apply_async(_encode, (embed, ["a", "the vector " * 50])).get(timeout=120)
        assert caught.value.index == 1


def test_cloudpickle_takes_an_embedding_function_in_a_function(embed):
    cloudpickle = pytest.importorskip("cloudpickle")
    function = pickle.loads(cloudpickle.dumps(lambda texts: embed.encode_queries(list(texts))))
    np.testing.assert_array_equal(function(TEXTS).dense, embed.encode_queries(TEXTS).dense)


# Results.


def test_results_survive_pickling(embed):
    embeddings = embed.encode_documents(TEXTS)
    document = Document("1", "x", "t", {"tags": ["a"]})
    values = [embeddings, embeddings[0], embeddings[0].sparse, document, embed.bundle, embed.identity, embed.dim]
    values += [Hit(document, 1.0, score(embeddings[0], embeddings[0])), embed.tokenizer.encode(TEXTS, max_length=8).ids]
    for value in values:
        for twin in (pickle.loads(pickle.dumps(value)), copy.copy(value), copy.deepcopy(value)):
            assert np.array_equal(twin, value) if isinstance(value, np.ndarray) else twin == value


def test_a_tokenizer_survives_pickling(embed):
    twin = pickle.loads(pickle.dumps(embed.tokenizer))
    assert twin.count(TEXTS).tolist() == embed.tokenizer.count(TEXTS).tolist()


# Values that compare.


def test_equal_embeddings_are_equal_whatever_they_cost(tiny_bundle):
    embed = embed_with(FakeSession(), tiny_bundle)
    apart = embed_with(FakeSession(), tiny_bundle, batch_tokens=1)
    one, other = embed.encode_documents(TEXTS), apart.encode_documents(TEXTS)
    assert one.stats != other.stats
    assert (one == other) is True
    assert (one != other) is False
    assert (one == embed.encode_documents(TEXTS[::-1])) is False
    assert (one == embed.encode_documents(TEXTS[:1])) is False
    assert (one == embed.encode_documents(TEXTS, dense=False)) is False
    assert embed.encode_documents(TEXTS, dense=False) == apart.encode_documents(TEXTS, dense=False)
    assert one[0] == other[0]
    assert one[0] != one[1]
    assert one[0].sparse == other[0].sparse
    assert one[0].sparse != one[2].sparse
    for stranger in (None, 1, "x", [], one.dense.tolist(), one[0]):
        assert (one == stranger) is False
        assert (one[0].sparse == stranger) is False
    assert one in [other]
    assert [*one].index(other[2]) == 2


def test_what_holds_arrays_cannot_be_hashed(tiny_bundle):
    embeddings = embed_with(FakeSession(), tiny_bundle).encode_documents(TEXTS)
    for value in (embeddings, embeddings[0], embeddings[0].sparse):
        with pytest.raises(TypeError, match=f"unhashable type: '{type(value).__name__}'"):
            hash(value)


def test_documents_and_hits_are_members_of_sets_and_keys():
    documents = [Document("1", "x", "t", {"tags": ["a"]}), Document("1", "x", "t", {"tags": ["a"]})]
    others = [Document("2", "x"), Document("1", "y"), Document("1", "x", "t", {"tags": ["b"]})]
    assert hash(documents[0]) == hash(documents[1])
    assert len({*documents, *others}) == 4
    assert {documents[0]: 1}[documents[1]] == 1
    assert len({Hit(document, 1.0) for document in documents}) == 1
    store = MemoryStore(HashEmbed().identity)
    store.upsert(documents[:1], HashEmbed().encode_documents(["x"]))
    assert set(store.get(["1"])) == {documents[0]}


@pytest.mark.parametrize("key", ["dense", "dense_vecs", 0.0, None], ids=repr)
def test_embeddings_are_taken_by_number(tiny_bundle, key):
    embeddings = embed_with(FakeSession(), tiny_bundle).encode_documents(TEXTS)
    with pytest.raises(TypeError, match=r"expected the number of a text, .*embeddings\.dense.*to_pymilvus_model"):
        embeddings[key]
    assert embeddings[np.int64(-1)] == embeddings[2]
    with pytest.raises(IndexError):
        embeddings[3]


def test_the_path_of_a_bundle_is_the_only_thing_that_ties_a_pickle_to_a_machine(embed):
    state = embed.__getstate__()["options"]
    assert [name for name, value in state.items() if isinstance(value, Path)] == ["model"]
    assert M3EmbeddingFunction().__getstate__()["options"]["model"] is None
