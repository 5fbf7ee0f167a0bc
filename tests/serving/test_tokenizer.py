from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from m3_vdb.encoding.tokenizer import CLS, CONTROL_PIECES, PAD, SEP, Tokenizer, plain_text_only
from m3_vdb.errors import BundleError, ConfigError, TextError

TEXT = "the vector search of a document"


@pytest.fixture(scope="session")
def tokenizer(tiny_tokenizer_json: str) -> Tokenizer:
    return Tokenizer(tiny_tokenizer_json)


def ids_of(tokenizer: Tokenizer, text: str, max_length: int = 64) -> list[int]:
    return tokenizer.encode([text], max_length=max_length).ids.tolist()


def pieces_of(tokenizer: Tokenizer, text: str) -> list[str]:
    return [tokenizer.id_to_token(i) for i in ids_of(tokenizer, text)[1:-1]]


def test_words_become_pieces_between_start_and_end(tokenizer):
    assert pieces_of(tokenizer, TEXT) == ["▁the", "▁vector", "▁search", "▁of", "▁a", "▁document"]
    assert ids_of(tokenizer, TEXT)[0] == CLS
    assert ids_of(tokenizer, TEXT)[-1] == SEP


@pytest.mark.parametrize("text", ["", " ", "\n\t \u3000"])
def test_a_text_without_characters_is_start_and_end(tokenizer, text):
    assert ids_of(tokenizer, text) == [CLS, SEP]


@pytest.mark.parametrize("special", ["<s>", "</s>", "<pad>", "<mask>"])
@pytest.mark.parametrize("template", ["{}", "a{}b", "the {} of", "{}{}"])
def test_a_special_token_spelled_in_a_text_stays_plain_text(tokenizer, special, template):
    text = template.format(special, special)
    inner = ids_of(tokenizer, text)[1:-1]
    assert not {CLS, PAD, SEP} & set(inner)
    spelled = "".join(tokenizer.id_to_token(i) for i in inner)
    assert spelled.replace("▁", " ").strip() == text, "every character is still there"


def test_the_shipped_tokenizer_keeps_special_tokens_plain():
    from m3_vdb import find_bundle

    shipped = Tokenizer.from_file(find_bundle().path / "tokenizer.json")
    inner = ids_of(shipped, "x <s> y </s> <pad> <mask>")[1:-1]
    assert not {CLS, PAD, SEP} & set(inner)
    assert {shipped.id_to_token(i) for i in inner}.isdisjoint(CONTROL_PIECES)
    assert shipped.id_to_token(shipped.vocab_size) is None


def test_a_raw_hugging_face_file_is_repaired(tiny_tokenizer_json):
    import tokenizers

    raw = tokenizers.Tokenizer.from_str(tiny_tokenizer_json)
    assert PAD in raw.encode("a <pad> b", add_special_tokens=False).ids, "else there is nothing to repair"
    repaired = Tokenizer(tiny_tokenizer_json)
    assert PAD not in ids_of(repaired, "a <pad> b")
    assert repaired.vocab_size == raw.get_vocab_size()
    assert ids_of(repaired, TEXT) == raw.encode(TEXT).ids


def test_a_raw_file_with_truncation_and_padding_is_repaired(tiny_tokenizer_json):
    import tokenizers

    raw = tokenizers.Tokenizer.from_str(tiny_tokenizer_json)
    raw.enable_truncation(4)
    raw.enable_padding(length=16, pad_id=PAD)
    assert ids_of(Tokenizer(raw.to_str()), TEXT) == ids_of(Tokenizer(tiny_tokenizer_json), TEXT)


def test_its_own_json_reads_back_the_same(tokenizer):
    again = Tokenizer(tokenizer.to_json())
    assert again.to_json() == tokenizer.to_json()
    assert ids_of(again, f"{TEXT} <s>") == ids_of(tokenizer, f"{TEXT} <s>")


def test_repairing_twice_changes_nothing(tiny_tokenizer_json):
    once = plain_text_only(tiny_tokenizer_json)
    assert plain_text_only(once) == once


def test_ids_above_the_specials_do_not_move(tokenizer, tiny_tokenizer_json):
    vocabulary = [piece for piece, _ in json.loads(tiny_tokenizer_json)["model"]["vocab"]]
    assert [tokenizer.id_to_token(i) for i in range(4, len(vocabulary) - 1)] == vocabulary[4:-1]


@pytest.mark.parametrize("content", ["", "{}", "[]", "no json", '{"version": "1.0"}'])
def test_what_is_no_tokenizer_is_a_bundle_error(content):
    with pytest.raises(BundleError, match=r"tokenizer\.json cannot be read"):
        Tokenizer(content)


def test_a_missing_file_is_a_bundle_error(tmp_path):
    with pytest.raises(BundleError, match="cannot be read"):
        Tokenizer.from_file(tmp_path / "tokenizer.json")


def test_a_file_that_is_not_utf8_is_a_bundle_error(tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_bytes(b"\xff\xfe{}")
    with pytest.raises(BundleError, match="cannot be read"):
        Tokenizer.from_file(path)


def test_truncation_keeps_the_end_token_and_is_reported(tokenizer):
    batch = tokenizer.encode([TEXT, "the vector", ""], max_length=5)
    assert batch.truncated.tolist() == [True, False, False]
    assert batch.lengths.tolist() == [5, 4, 2]
    whole = ids_of(tokenizer, TEXT)
    assert batch.ids[:5].tolist() == [*whole[:4], SEP]


def test_a_text_that_just_fits_is_not_truncated(tokenizer):
    batch = tokenizer.encode([TEXT], max_length=8)
    assert (batch.truncated.tolist(), batch.lengths.tolist()) == ([False], [8])


@pytest.mark.parametrize("max_length", [2, 1, 0, -5])
def test_a_length_that_holds_no_token_of_the_text_is_refused(tokenizer, max_length):
    with pytest.raises(ConfigError, match=f"max_length={max_length}: at least 3"):
        tokenizer.encode([TEXT], max_length=max_length)


@pytest.mark.parametrize("bad", ["\ud800", "é\udfff", "x" * 10_000 + "\udc80"])
@pytest.mark.parametrize("method", ["encode", "count"])
def test_a_lone_surrogate_is_named_by_index_and_place(tokenizer, bad, method):
    arguments = {"max_length": 8} if method == "encode" else {}
    with pytest.raises(TextError, match=rf"item 2 .* at character {len(bad) - 1},") as caught:
        getattr(tokenizer, method)(["é", "", bad], **arguments)
    assert caught.value.index == 2


def test_count_is_the_length_before_truncation(tokenizer, tiny_texts):
    counts = tokenizer.count(tiny_texts)
    assert counts.tolist() == tokenizer.encode(tiny_texts, max_length=64).lengths.tolist()
    assert tokenizer.count([TEXT]).tolist() == [8]
    assert tokenizer.encode([TEXT], max_length=4).lengths.tolist() == [4]
    assert counts.dtype == np.int32


def test_no_texts_give_an_empty_batch(tokenizer):
    batch = tokenizer.encode([], max_length=8)
    assert (len(batch), batch.ids.size, batch.offsets.tolist()) == (0, 0, [0])
    assert tokenizer.count([]).tolist() == []


def test_padded_rows_hold_pads_and_zero_mask_behind_the_text(tokenizer):
    batch = tokenizer.encode(["a", TEXT, ""], max_length=64)
    input_ids, mask = batch.padded(np.array([2, 0]))
    assert input_ids.tolist() == [[CLS, SEP, PAD], ids_of(tokenizer, "a")]
    assert mask.tolist() == [[1, 1, 0], [1, 1, 1]]
    assert (input_ids.dtype, mask.dtype) == (np.int64, np.int64)


def test_eight_threads_share_one_tokenizer(tokenizer, tiny_texts):
    expected = tokenizer.encode(tiny_texts, max_length=9)

    def encode(_: int) -> bool:
        batch = tokenizer.encode(tiny_texts, max_length=9)
        whole = tokenizer.encode(tiny_texts, max_length=64)
        return np.array_equal(batch.ids, expected.ids) and not whole.truncated.any()

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(encode, range(64)))
