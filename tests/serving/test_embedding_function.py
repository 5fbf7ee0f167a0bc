"""The embedding function over a real (tiny) model."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import product

import numpy as np
import pytest

from m3_vdb import M3EmbeddingFunction
from m3_vdb.errors import BundleError, ConfigError, TextError, TruncationError

LONG = "the vector search of a document " * 20
PARTS = [parts for parts in product([True, False], repeat=3) if any(parts)]


@pytest.fixture(scope="module")
def embed(tiny_bundle):
    with M3EmbeddingFunction(tiny_bundle, runtime="onnxruntime", device="cpu", threads=1) as function:
        yield function


def open_tiny(tiny_bundle, **options):
    return M3EmbeddingFunction(tiny_bundle, runtime="onnxruntime", device="cpu", threads=1, **options)


def assert_close(left, right):
    """The same embedding up to float32 rounding; a lexical weight of nearly nothing may be on one side alone."""
    np.testing.assert_allclose(left.dense, right.dense, atol=1e-5)
    np.testing.assert_allclose(left.multi_vector, right.multi_vector, atol=1e-5)
    ours, theirs = left.sparse.as_dict(), right.sparse.as_dict()
    for token_id in ours.keys() | theirs.keys():
        assert ours.get(token_id, 0.0) == pytest.approx(theirs.get(token_id, 0.0), abs=1e-5)


@pytest.mark.parametrize("batch_tokens", [1, 40, 4096])
def test_results_stand_in_the_order_of_the_texts_whatever_the_packing(tiny_bundle, embed, tiny_texts, batch_tokens):
    texts = [*tiny_texts, *tiny_texts[::-1]]
    together = open_tiny(tiny_bundle, batch_tokens=batch_tokens).encode_documents(texts)
    assert len(together) == len(texts)
    assert together.sparse_ids.size > 20
    for text, embedding in zip(texts, together, strict=True):
        assert_close(embedding, embed.encode_documents([text])[0])


def test_every_part_has_its_documented_form(embed, tiny_texts):
    embeddings = embed.encode_documents(tiny_texts)
    n = len(tiny_texts)
    assert embeddings.dense.shape == (n, embed.dim["dense"])
    assert embeddings.multi_vector.shape == (embeddings.token_counts.sum() - n, embed.dim["multi_vector"])
    assert np.diff(embeddings.multi_vector_offsets).tolist() == (embeddings.token_counts - 1).tolist()
    assert embeddings.token_counts.tolist() == embed.token_count(tiny_texts).tolist()
    np.testing.assert_allclose(np.linalg.norm(embeddings.dense, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(embeddings.multi_vector, axis=1), 1, rtol=1e-5)
    for embedding in embeddings:
        assert (np.diff(embedding.sparse.ids) > 0).all()
        assert (embedding.sparse.ids > 3).all()
        assert (embedding.sparse.ids < embed.dim["sparse"]).all()
        assert (embedding.sparse.weights > 0).all()


def test_lexical_ids_are_tokens_of_the_text(embed, tiny_texts):
    tokens = embed.tokenizer.encode(tiny_texts, max_length=64)
    for i, embedding in enumerate(embed.encode_documents(tiny_texts)):
        own = tokens.ids[tokens.offsets[i] : tokens.offsets[i + 1]]
        assert set(embedding.sparse.ids) <= set(own)


def test_no_texts_give_empty_parts_of_the_right_shapes(embed):
    nothing = embed.encode_documents([])
    assert (len(nothing), list(nothing), nothing.stats.forwards) == (0, [], 0)
    assert nothing.dense.shape == (0, 64)
    assert nothing.multi_vector.shape == (0, 16)
    assert (nothing.sparse_ids.shape, nothing.sparse_weights.shape) == ((0,), (0,))
    assert nothing.sparse_offsets.tolist() == nothing.multi_vector_offsets.tolist() == [0]
    assert (nothing.dense.dtype, nothing.sparse_ids.dtype) == (np.float32, np.int32)
    assert (nothing.sparse_dicts(), nothing.to_qdrant()) == ([], [])


def test_the_empty_text_has_a_dense_vector_one_row_and_no_lexical_weights(embed):
    (empty,) = embed.encode_documents([""])
    assert np.linalg.norm(empty.dense) == pytest.approx(1, abs=1e-5)
    assert empty.multi_vector.shape == (1, 16)
    assert empty.sparse.as_dict() == {}


@pytest.mark.parametrize(("dense", "sparse", "multi_vector"), PARTS)
def test_only_what_was_asked_for_is_there_and_it_equals_the_full_result(embed, tiny_texts, dense, sparse, multi_vector):
    full = embed.encode_documents(tiny_texts)
    part = embed.encode_documents(tiny_texts, dense=dense, sparse=sparse, multi_vector=multi_vector)
    present = {
        "dense": dense,
        **dict.fromkeys(("sparse_ids", "sparse_weights", "sparse_offsets"), sparse),
        **dict.fromkeys(("multi_vector", "multi_vector_offsets"), multi_vector),
    }
    for name, wanted in present.items():
        if wanted:
            np.testing.assert_allclose(getattr(part, name), getattr(full, name), atol=1e-6)
        else:
            assert getattr(part, name) is None


def test_an_absent_part_of_one_text_is_none(embed):
    (only,) = embed.encode_documents(["a"], sparse=False, multi_vector=False)
    assert only.dense is not None
    assert only.sparse is None
    assert only.multi_vector is None


@pytest.mark.parametrize("texts", [[], ["a"]])
def test_to_ask_for_nothing_is_an_error(embed, texts):
    with pytest.raises(ConfigError, match="ask for dense, sparse or multi_vector"):
        embed.encode_documents(texts, dense=False, sparse=False, multi_vector=False)


def test_queries_and_calls_are_encoded_like_documents(embed, tiny_texts):
    documents = embed.encode_documents(tiny_texts)
    for other in (embed.encode_queries(tiny_texts), embed(tiny_texts)):
        for left, right in zip(documents, other, strict=True):
            assert_close(left, right)
    assert embed.encode_queries(["a"], dense=False).dense is None


@pytest.mark.parametrize("method", ["encode_documents", "encode_queries", "__call__"])
def test_truncation_warns_once_at_the_line_of_the_caller(embed, method):
    with pytest.warns(UserWarning, match="2 of 3 texts were cut to 64 tokens, the first is item 1") as caught:
        embeddings = getattr(embed, method)(["a", LONG, LONG])
    assert [warning.filename for warning in caught] == [__file__]
    assert embeddings.truncated.tolist() == [False, True, True]
    assert embeddings.token_counts.tolist() == [3, 64, 64]


def test_truncation_can_be_an_error_before_anything_is_computed(tiny_bundle):
    with pytest.raises(TruncationError, match="item 1 has more than 8 tokens") as caught:
        open_tiny(tiny_bundle, max_length=8, on_truncate="error").encode_documents(["a", LONG])
    assert caught.value.index == 1


@pytest.mark.filterwarnings("error")
def test_truncation_can_be_ignored_and_is_still_reported(tiny_bundle):
    embeddings = open_tiny(tiny_bundle, on_truncate="ignore").encode_documents([LONG, "a"])
    assert embeddings.truncated.tolist() == [True, False]


def test_a_text_cut_by_hand_gives_the_same_vectors(tiny_bundle, embed):
    cut = open_tiny(tiny_bundle, max_length=8, on_truncate="ignore").encode_documents([LONG])[0]
    assert_close(cut, embed.encode_documents(["the vector search of a document"])[0])


@pytest.mark.parametrize("max_length", [2, 0, -1, 65])
def test_a_length_beyond_the_model_is_refused_with_the_range(tiny_bundle, max_length):
    with pytest.raises(ConfigError, match=f"max_length={max_length}: tiny takes 3 … 64 tokens"):
        open_tiny(tiny_bundle, max_length=max_length)


@pytest.mark.parametrize("max_length", [3, 64, None])
def test_a_length_that_the_model_has_is_taken(tiny_bundle, max_length):
    assert open_tiny(tiny_bundle, max_length=max_length).max_length == (max_length or 64)


@pytest.mark.parametrize("options", [{"on_truncate": "cut"}, {"batch_tokens": 0}, {"runtime": "x"}])
def test_options_out_of_range_are_refused_at_once(tiny_bundle, options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        M3EmbeddingFunction(tiny_bundle, **options)


def test_the_identity_is_that_of_the_bundle(embed):
    assert embed.identity == embed.bundle.identity
    assert embed.dim == {"dense": 64, "sparse": embed.tokenizer.vocab_size, "multi_vector": 16}


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_eight_threads_share_one_function(tiny_bundle, tiny_texts, runtime):
    function = M3EmbeddingFunction(tiny_bundle, runtime=runtime, device="cpu", threads=1)
    expected = function.encode_documents(tiny_texts)

    def check(i: int) -> bool:
        shift = i % len(tiny_texts)
        texts = tiny_texts[shift:] + tiny_texts[:shift]
        return np.allclose(function.encode_documents(texts).dense, np.roll(expected.dense, -shift, axis=0), atol=1e-2)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(check, range(40)))


def test_a_batch_size_limits_the_texts_of_a_forward_pass(embed, tiny_texts):
    together, apart = embed.encode_documents(tiny_texts), embed.encode_queries(tiny_texts, batch_size=1)
    assert apart.stats.forwards == len(tiny_texts) > together.stats.forwards
    for left, right in zip(together, apart, strict=True):
        assert_close(left, right)


def test_one_call_may_have_a_shorter_max_length(tiny_bundle, embed):
    with pytest.warns(UserWarning, match=r"cut to 8 tokens.*\(max_length=8\)"):
        cut = embed.encode_documents([LONG], max_length=8)
    assert (cut.token_counts.tolist(), cut.truncated.tolist()) == ([8], [True])
    assert_close(cut[0], open_tiny(tiny_bundle, max_length=8, on_truncate="ignore").encode_documents([LONG])[0])
    assert embed.encode_documents(["vector search of a document " * 4]).token_counts[0] > 8


@pytest.mark.parametrize("option", [{"max_length": 2}, {"max_length": 100_000}, {"batch_size": 0}, {"batch_size": "8"}])
def test_numbers_of_a_call_are_checked(embed, option):
    for call in (embed.encode_documents, embed.encode_queries, embed.encode_iter):
        with pytest.raises(ConfigError, match=next(iter(option))):
            call(["a"], **option)


def test_progress_is_shown_on_standard_error_alone(embed, tiny_texts, capsys):
    embed.encode_documents(tiny_texts, show_progress=True)
    shown = capsys.readouterr()
    assert (shown.out, f"{len(tiny_texts)}/{len(tiny_texts)}" in shown.err) == ("", True)
    embed.encode_documents(tiny_texts)
    assert capsys.readouterr().err == ""


def test_texts_are_read_as_far_as_chunks_are_taken(embed, tiny_texts):
    taken = []
    texts = (taken.append(text) or text for text in tiny_texts * 2)
    chunks = embed.encode_iter(texts, chunk_size=3)
    first = next(chunks)
    assert (len(first), len(taken)) == (3, 3)
    rest = list(chunks)
    assert [len(chunk) for chunk in rest[:-1]] == [3] * (len(rest) - 1)
    together = embed.encode_documents(tiny_texts * 2)
    for left, right in zip([one for chunk in (first, *rest) for one in chunk], together, strict=True):
        assert_close(left, right)
    assert list(embed.encode_iter([])) == []


def test_a_bad_text_of_many_chunks_is_named_by_its_number(embed):
    chunks = embed.encode_iter(["a", "b", "c", None, "e"], chunk_size=2)
    assert len(next(chunks)) == 2
    with pytest.raises(TextError, match="item 3") as raised:
        next(chunks)
    assert raised.value.index == 3


def test_one_string_is_not_many_texts(embed):
    with pytest.raises(TextError, match="texts"):
        embed.encode_iter("a text")


def test_the_embedding_function_says_which_model_it_is(embed):
    shown = repr(embed)
    assert all(part in shown for part in (embed.identity.name, embed.identity.fingerprint, "onnxruntime", "64"))


def test_a_function_from_parts_encodes_like_the_one_that_opened_them(embed, tiny_texts):
    made = M3EmbeddingFunction.from_parts(embed.tokenizer, embed.session, identity=embed.identity, model_max_length=64)
    assert (made.identity, made.dim, made.max_length) == (embed.identity, embed.dim, 64)
    assert made.encode_documents(tiny_texts) == embed.encode_documents(tiny_texts)
    assert made.encode_documents([]).multi_vector.shape == (0, 16)
    with pytest.raises(BundleError, match="made from parts"):
        made.bundle  # noqa: B018
    with pytest.raises(ConfigError, match="max_length=65: tiny takes 3 … 64 tokens"):
        M3EmbeddingFunction.from_parts(
            embed.tokenizer, embed.session, identity=embed.identity, model_max_length=64, max_length=65
        )
