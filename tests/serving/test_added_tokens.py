"""Added tokens of a tokenizer: their ids are Hugging Face's, and no text can spell a control token."""

from __future__ import annotations

import json
from typing import Any

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from m3_vdb.encoding.tokenizer import Tokenizer
from m3_vdb.errors import BundleError

PLAIN = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
KINDS: dict[str, list[dict[str, Any]]] = {
    "plain": [PLAIN],
    "normalized": [PLAIN | {"normalized": True}],
    "strips left": [PLAIN | {"lstrip": True}],
    "strips right": [PLAIN | {"rstrip": True}],
    "single word": [PLAIN | {"single_word": True}],
    "special": [PLAIN | {"special": True}],
    "several": [PLAIN, PLAIN | {"lstrip": True, "rstrip": True}, PLAIN | {"normalized": True}],
}
NAMES = ("[PRODUCT]", "<brand>", "Vektor DB")
PARTS = (
    "[PRODUCT]",
    "<brand>",
    "Vektor DB",
    "the",
    "search",
    "Straße",
    " ",
    "  ",
    "x",
    "数据库",
    ".",
    "[",
    "]",
    "🙂",
    "<b",
    "\n",
)


def with_tokens(raw: str, kinds: list[dict[str, Any]]) -> str:
    tree = json.loads(raw)
    first = len(tree["model"]["vocab"])
    tree["added_tokens"] += [{"id": first + i, "content": NAMES[i]} | kind for i, kind in enumerate(kinds)]
    return json.dumps(tree)


def ours(tokenizer: Tokenizer, text: str) -> list[int]:
    return tokenizer.encode([text], max_length=512).ids.tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_ids_are_hugging_faces_on_any_text(tiny_tokenizer_json: str, kind: str) -> None:
    data = with_tokens(tiny_tokenizer_json, KINDS[kind])
    theirs, served = tokenizers.Tokenizer.from_str(data), Tokenizer(data)
    again = Tokenizer(served.to_json())  # what a bundle keeps

    @given(st.lists(st.sampled_from(PARTS), max_size=8).map("".join))
    def check(text: str) -> None:
        expected = theirs.encode(text).ids
        assert ours(served, text) == ours(again, text) == expected

    check()
    assert served.vocab_size == theirs.get_vocab_size()


@pytest.mark.parametrize("text", ["<s>", "a </s> b", "<pad><mask>", "[PRODUCT]<s>[PRODUCT]"])
def test_no_text_spells_a_control_token(tiny_tokenizer_json: str, text: str) -> None:
    served = Tokenizer(with_tokens(tiny_tokenizer_json, KINDS["plain"]))
    inner = ours(served, text)[1:-1]
    mask = tokenizers.Tokenizer.from_str(tiny_tokenizer_json).token_to_id("<mask>")
    assert not {0, 1, 2, mask} & set(inner)


def test_a_tokenizer_of_another_kind_is_refused_by_name() -> None:
    words = {"[UNK]": 0, "[CLS]": 1, "[SEP]": 2, "hello": 3}
    other = tokenizers.Tokenizer(tokenizers.models.WordPiece(words, unk_token="[UNK]"))
    with pytest.raises(BundleError, match=r"my\.json") as raised:
        Tokenizer(other.to_str(), name="my.json")
    assert "\n" not in str(raised.value)
