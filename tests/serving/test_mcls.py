"""MCLS: where ``<s>`` are inserted, what is cut, and that nothing but the dense vector of a long text changes."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from math import ceil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from m3_vdb import HybridIndex, M3EmbeddingFunction
from m3_vdb.encoding.bundle import CONFIG, Bundle, write_checksums
from m3_vdb.encoding.tokenizer import CLS, MCLS_EVERY, SEP, Tokenizer, max_text_tokens
from m3_vdb.errors import CollectionMismatchError, ConfigError, TruncationError
from m3_vdb.stores.memory import MemoryStore
from tests.serving._fakes import FakeSession, embed_with

TEXT = "the vector search of a document"  # six tokens
WORDS = [*TEXT.split(), "Straße", "Wort", "数据库", "repeat", "<s>", "</s>", "🙂", "🙂🙂", "xyz"]


@pytest.fixture(scope="session")
def tokenizer(tiny_tokenizer_json: str) -> Tokenizer:
    return Tokenizer(tiny_tokenizer_json)


def open_tiny(tiny_bundle, **options) -> M3EmbeddingFunction:
    return embed_with(FakeSession(), tiny_bundle, **options)


def without_mcls(tiny_bundle: Path, target: Path) -> Path:
    """The bundle as an export before MCLS wrote it."""
    path = Path(shutil.copytree(tiny_bundle, target))
    config = json.loads((path / CONFIG).read_text(encoding="utf-8"))
    del config["mcls"], config["mcls_errors"]
    (path / CONFIG).write_text(json.dumps(config), encoding="utf-8")
    write_checksums(path)
    return path


@pytest.mark.parametrize(
    ("every", "expected"),
    [
        (1, "<a<b<c<d<e<f>"),
        (2, "<ab<cd<ef>"),
        (4, "<abcd<ef>"),
        (5, "<abcde<f>"),
        (6, "<abcdef>"),
        (MCLS_EVERY, "<abcdef>"),
    ],
)
def test_one_start_stands_before_every_further_so_many_tokens(tokenizer, every, expected):
    names = {CLS: "<", SEP: ">"} | dict(zip(tokenizer.encode([TEXT], max_length=64).ids[1:-1], "abcdef", strict=True))
    batch = tokenizer.encode([TEXT], max_length=64, mcls_every=every)
    assert "".join(names[token] for token in batch.ids) == expected
    assert (batch.lengths.tolist(), batch.text_lengths.tolist()) == ([len(expected)], [8])
    assert not batch.truncated.any()


@pytest.mark.parametrize(
    ("max_length", "expected"),
    [(3, "<a>"), (4, "<ab>"), (5, "<ab>"), (6, "<ab<c>"), (7, "<ab<cd>"), (8, "<ab<cd>"), (9, "<ab<cd<e>")],
)
def test_a_long_text_keeps_the_longest_prefix_that_fits_and_ends_with_no_idle_start(tokenizer, max_length, expected):
    names = {CLS: "<", SEP: ">"} | dict(zip(tokenizer.encode([TEXT], max_length=64).ids[1:-1], "abcdef", strict=True))
    batch = tokenizer.encode([TEXT], max_length=max_length, mcls_every=2)
    assert "".join(names[token] for token in batch.ids) == expected
    assert batch.truncated.all()


def test_with_the_number_of_the_paper_starts_stand_at_0_257_and_514(tokenizer):
    batch = tokenizer.encode(["vector " * 600], max_length=8192, mcls_every=256)
    assert np.flatnonzero(batch.ids == CLS).tolist() == [0, 257, 514]
    assert (batch.lengths.tolist(), batch.text_lengths.tolist()) == ([604], [602])


@given(
    st.lists(st.lists(st.sampled_from(WORDS), max_size=30).map(" ".join), max_size=3),
    st.integers(1, 12),
    st.integers(3, 40),
)
def test_inserted_starts_are_as_many_as_defined_and_the_rest_is_the_plain_text(tokenizer, texts, every, max_length):
    batch = tokenizer.encode(texts, max_length=max_length, mcls_every=every)
    whole = tokenizer.encode(texts, max_length=1000)
    for i in range(len(texts)):
        row, plain = (b.ids[b.offsets[i] : b.offsets[i + 1]] for b in (batch, whole))
        kept, total = batch.text_lengths[i] - 2, len(plain) - 2
        assert [CLS, *row[row != CLS]] == [*plain[: kept + 1], SEP]
        assert (row == CLS).sum() == max(ceil(kept / every), 1)
        assert (np.flatnonzero(row == CLS) % (every + 1) == 0).all()
        assert batch.truncated[i] == (kept < total)
        assert len(row) <= max_length
        assert kept == total or kept + 1 + ceil((kept + 1) / every) + 1 > max_length
        if total <= every and total + 2 <= max_length:
            assert row.tolist() == plain.tolist()


def test_the_room_for_a_text_is_that_of_a_search():
    for every in range(1, 20):
        for max_length in range(3, 70):
            fitting = [n for n in range(1, max_length) if n + 2 + ceil(n / every) - 1 <= max_length]
            assert max_text_tokens(max_length, every) == max(fitting) + 2
    assert (max_text_tokens(512), max_text_tokens(512, 256), max_text_tokens(8192, 256)) == (512, 511, 8161)


@pytest.mark.parametrize("every", [0, -256, True])
def test_a_number_of_tokens_that_is_none_is_refused(tokenizer, tiny_bundle, every):
    with pytest.raises(ConfigError, match=f"mcls_every={every}: a number of tokens, 256 in the paper"):
        tokenizer.encode([TEXT], max_length=64, mcls_every=every)
    with pytest.raises(ConfigError, match=f"mcls_every={every}"):
        open_tiny(tiny_bundle, mcls_every=every)


def test_a_text_that_spells_a_start_is_counted_right(tokenizer):
    batch = tokenizer.encode(["<s> <s> the", ""], max_length=64, mcls_every=2)
    assert batch.text_lengths.tolist() == tokenizer.count(["<s> <s> the", ""]).tolist()
    assert tokenizer.encode([], max_length=64, mcls_every=2).text_lengths.tolist() == []


def test_counts_and_rows_are_those_of_the_text_and_costs_those_of_the_pass(tiny_bundle, tiny_texts):
    plain, embed = open_tiny(tiny_bundle), open_tiny(tiny_bundle, mcls_every=3)
    expected, found = plain.encode_documents(tiny_texts), embed.encode_documents(tiny_texts)
    assert found.token_counts.tolist() == expected.token_counts.tolist() == embed.token_count(tiny_texts).tolist()
    for name in ("sparse_ids", "sparse_weights", "sparse_offsets", "multi_vector", "multi_vector_offsets", "truncated"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    inserted = sum(max(ceil((count - 2) / 3) - 1, 0) for count in found.token_counts)
    assert found.stats.real_tokens == expected.stats.real_tokens + inserted > expected.stats.real_tokens
    assert found.stats.padded_tokens == sum(rows * length for rows, length in embed.session.shapes)


def test_short_texts_are_encoded_as_without(tiny_bundle, tiny_texts):
    options = {"runtime": "onnxruntime", "device": "cpu"}
    plain = M3EmbeddingFunction(tiny_bundle, **options)
    embed = M3EmbeddingFunction(tiny_bundle, mcls_every=MCLS_EVERY, **options)
    one, two = plain.encode_documents(tiny_texts), embed.encode_documents(tiny_texts)
    for name in ("dense", "sparse_ids", "sparse_weights", "multi_vector"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
    assert one.stats == two.stats


def test_the_message_of_a_cut_names_the_tokens_of_the_text_that_fit(tiny_bundle):
    embed = open_tiny(tiny_bundle, mcls_every=10, on_truncate="error")  # 5 blocks of 1 + 10 and one of 1 + 7
    fits = "vector " * 57
    assert embed.encode_documents([fits]).token_counts.tolist() == [59]
    assert embed.session.shapes == [(1, 64)]
    with pytest.raises(TruncationError, match=r"item 1 has more than 59 tokens: .*max_length=64"):
        embed.encode_documents([fits, fits + "vector"])


def test_the_identity_tells_vectors_with_and_without_apart(tiny_bundle):
    plain, embed, finer = (open_tiny(tiny_bundle, mcls_every=every) for every in (None, 256, 128))
    assert plain.identity == Bundle.open(tiny_bundle).identity
    assert embed.identity == replace(plain.identity, fingerprint=f"{plain.identity.fingerprint}+mcls256")
    assert len({function.identity.fingerprint for function in (plain, embed, finer)}) == 3
    with pytest.raises(CollectionMismatchError, match=r"\+mcls256"):
        HybridIndex(embed, MemoryStore(plain.identity))


def test_a_bundle_of_an_earlier_export_serves_as_before_but_not_with_mcls(tiny_bundle, tmp_path):
    path = without_mcls(tiny_bundle, tmp_path / "old")
    assert (Bundle.open(path).mcls, Bundle.open(tiny_bundle).mcls) == (False, True)
    assert len(open_tiny(path).encode_documents([TEXT])) == 1
    with pytest.raises(ConfigError, match=r"mcls_every: tiny was exported before MCLS.*python -m onnx_export"):
        M3EmbeddingFunction(path, mcls_every=256)
