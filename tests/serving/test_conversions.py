"""``M3Embeddings``: indexing and the forms that other libraries expect."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from m3_vdb.types import Document, M3Embeddings


def make(*absent: str) -> M3Embeddings:
    """Three texts: two lexical weights and two rows; none and one row; one weight and one row."""
    parts = {
        "dense": {"dense": np.array([[1, 0], [0, 1], [0.5, -0.5]], np.float32)},
        "sparse": {
            "sparse_ids": np.array([4, 9, 5], np.int32),
            "sparse_weights": np.array([0.5, 0.25, 2.0], np.float32),
            "sparse_offsets": np.array([0, 2, 2, 3], np.int64),
        },
        "multi_vector": {
            "multi_vector": np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, -1]], np.float32),
            "multi_vector_offsets": np.array([0, 2, 3, 4], np.int64),
        },
    }
    kept = {key: value for name, part in parts.items() if name not in absent for key, value in part.items()}
    return M3Embeddings(token_counts=np.array([3, 2, 2], np.int32), truncated=np.zeros(3, np.bool_), **kept)


def test_an_index_gives_one_text():
    first = make()[0]
    assert first.dense.tolist() == [1, 0]
    assert first.sparse.as_dict() == {4: 0.5, 9: 0.25}
    assert first.multi_vector.tolist() == [[1, 0, 0], [0, 1, 0]]


def test_negative_indices_count_from_the_end():
    embeddings = make()
    assert embeddings[-1].sparse.as_dict() == {5: 2.0}
    assert embeddings[-3].dense.tolist() == embeddings[0].dense.tolist()
    assert embeddings[-2].multi_vector.tolist() == [[0, 0, 1]]


@pytest.mark.parametrize("index", [3, -4, 100])
def test_an_index_out_of_range_is_an_index_error(index):
    with pytest.raises(IndexError):
        make()[index]


def test_numpy_integers_are_indices_too():
    assert make()[np.int64(2)].sparse.as_dict() == {5: 2.0}


def test_iteration_gives_every_text_in_order():
    embeddings = make()
    assert len(embeddings) == 3
    assert [e.dense.tolist() for e in embeddings] == embeddings.dense.tolist()
    assert [len(e.multi_vector) for e in embeddings] == [2, 1, 1]


@given(
    st.one_of(
        st.slices(3),
        st.lists(st.integers(-3, 2), max_size=5),
        arrays(np.bool_, 3),
        arrays(np.int64, st.integers(0, 5), elements=st.integers(-3, 2)),
    )
)
@pytest.mark.parametrize("absent", [(), ("dense", "sparse"), ("multi_vector",)])
def test_some_texts_are_those_that_numpy_would_choose(absent, index):
    embeddings = make(*absent)
    chosen = np.arange(3)[index if isinstance(index, slice | np.ndarray) else np.array(index, int)]
    some = embeddings[index]
    assert list(some) == [embeddings[i] for i in chosen]
    assert some.token_counts.tolist() == embeddings.token_counts[chosen].tolist()
    assert len(some) == len(chosen)
    assert some == embeddings[chosen]


@pytest.mark.parametrize("index", [[3], np.array([True, False]), [0.5]])
def test_numbers_that_choose_no_text_are_index_errors(index):
    with pytest.raises(IndexError):
        make()[index]


def test_a_slice_is_a_view_and_no_copy():
    embeddings = make()
    for name in ("dense", "sparse_weights", "multi_vector"):
        assert np.shares_memory(getattr(embeddings[1:], name), getattr(embeddings, name))


def test_embeddings_show_their_shapes():
    assert repr(make()) == (
        "M3Embeddings(3 texts, 0 of them truncated; dense: 3 × 2, sparse: 3 weights, multi_vector: 4 × 3)"
    )
    assert repr(make("sparse")[0]) == "M3Embedding(dense: 2, sparse: None, multi_vector: 2 × 3)"
    assert repr(make()[0].sparse) == "SparseVector(2 tokens)"


def test_one_text_is_a_view_and_no_copy():
    embeddings = make()
    assert np.shares_memory(embeddings[0].multi_vector, embeddings.multi_vector)
    assert np.shares_memory(embeddings[0].dense, embeddings.dense)


def test_sparse_dicts_hold_plain_numbers():
    dicts = make().sparse_dicts()
    assert dicts == [{4: 0.5, 9: 0.25}, {}, {5: 2.0}]
    assert {type(value) for row in dicts for item in row.items() for value in item} == {int, float}


def test_sparse_csr_is_what_scipy_takes():
    import scipy.sparse as scipy_sparse

    matrix = scipy_sparse.csr_array(make().sparse_csr(), shape=(3, 10))
    expected = np.zeros((3, 10), np.float32)
    expected[0, [4, 9]], expected[2, 5] = [0.5, 0.25], 2.0
    np.testing.assert_array_equal(matrix.toarray(), expected)


def test_sparse_csr_without_the_sparse_part_says_what_to_do():
    with pytest.raises(ValueError, match="encode with sparse=True"):
        make("sparse").sparse_csr()


def test_to_qdrant_is_the_vector_field_of_a_rest_point():
    points = json.loads(json.dumps(make().to_qdrant()))
    assert points[0] == {
        "dense": [1, 0],
        "sparse": {"indices": [4, 9], "values": [0.5, 0.25]},
        "multi_vector": [[1, 0, 0], [0, 1, 0]],
    }
    assert points[1]["sparse"] == {"indices": [], "values": []}
    assert len(points) == 3


def test_to_pymilvus_model_has_its_keys():
    out = make().to_pymilvus_model()
    json.dumps(out)
    assert out == {
        "dense": [[1, 0], [0, 1], [0.5, -0.5]],
        "sparse": [{4: 0.5, 9: 0.25}, {}, {5: 2.0}],
        "colbert_vecs": [[[1, 0, 0], [0, 1, 0]], [[0, 0, 1]], [[0, 0, -1]]],
    }


def test_to_flag_embedding_has_its_keys_and_string_token_ids():
    out = make().to_flag_embedding()
    assert json.loads(json.dumps(out)) == out
    assert out == {
        "dense_vecs": [[1, 0], [0, 1], [0.5, -0.5]],
        "lexical_weights": [{"4": 0.5, "9": 0.25}, {}, {"5": 2.0}],
        "colbert_vecs": [[[1, 0, 0], [0, 1, 0]], [[0, 0, 1]], [[0, 0, -1]]],
    }


@pytest.mark.parametrize(
    ("part", "pymilvus", "flag"),
    [
        ("dense", "dense", "dense_vecs"),
        ("sparse", "sparse", "lexical_weights"),
        ("multi_vector",) + ("colbert_vecs",) * 2,
    ],
)
def test_an_absent_part_is_left_out_or_none(part, pymilvus, flag):
    embeddings = make(part)
    assert all(point.keys() == {"dense", "sparse", "multi_vector"} - {part} for point in embeddings.to_qdrant())
    assert embeddings.to_pymilvus_model().keys() == {"dense", "sparse", "colbert_vecs"} - {pymilvus}
    assert [name for name, value in embeddings.to_flag_embedding().items() if value is None] == [flag]


def test_real_embeddings_convert_too(tiny_bundle, tiny_texts):
    from m3_vdb import M3EmbeddingFunction

    function = M3EmbeddingFunction(tiny_bundle, runtime="onnxruntime", device="cpu")
    embeddings = function.encode_documents(tiny_texts)
    for out in (embeddings.to_qdrant(), embeddings.to_pymilvus_model(), embeddings.to_flag_embedding()):
        assert len(json.dumps(out)) > 1000
    lexical = embeddings.to_flag_embedding()["lexical_weights"]
    assert [{int(k): v for k, v in row.items()} for row in lexical] == embeddings.sparse_dicts()


def test_the_title_of_a_document_is_encoded_before_its_text():
    assert Document(id="1", text="body", title="head").content == "head\nbody"
    assert Document(id="1", text="body").content == "body"
