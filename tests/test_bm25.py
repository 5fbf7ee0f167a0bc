"""Tokens and vectors of exact words: rules written out by hand, and what holds for any text."""

from __future__ import annotations

import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from m3_vdb.bm25 import AVERAGE_TOKENS, K1, B, bm25_document, bm25_query, bm25_tokens, token_id
from m3_vdb.scoring import BM25_HALF, bm25_score, hybrid_score, saturated
from m3_vdb.types import Scores
from m3_vdb.weights import Weights

TOKENS = {
    "Where is the Filter?": "where is the filter",
    # Part numbers, versions, options, numbers, addresses: whole, and in parts.
    "AB-1234/5": "ab-1234/5 ab-1234 ab 1234 5",
    "X7-4410-B, E1047.": "x7-4410-b x7 4410 b e1047",
    "1.2.3-4+deb12u1": "1.2.3-4+deb12u1 1.2.3 1 2 3 4 deb12u1",
    "--no-install-recommends": "no-install-recommends no install recommends",
    "1,234.5 ٣٢": "1,234.5 1 234 5 32",
    "https://a.org/b": "https a.org/b a.org a org b",
    # Code.
    "m3_vdb.open_store()": "m3_vdb.open_store m3_vdb m3 vdb open_store open store",
    "getHTTPServer2": "gethttpserver2 get http server2",
    "std::vector<int>": "std::vector std vector int",
    # Languages.
    "L’homme, l'eau": "l'homme l homme l'eau l eau",
    "Straße ﬁne ΣΟΦΟΣ": "strasse fine σοφοσ",
    "हिन्दी में": "हिन्दी में",
    "می\u200cخواهم co\u00adoperate": "میخواهم cooperate",
    # Without spaces, and Hangul.
    "中文搜索": "中文 文搜 搜索",
    "第3章": "第 3 章",
    "バージョン": "バー ージ ジョ ョン",
    "ﾊﾞｰ": "バー",
    "한국어로": "한국 국어 어로",
    "ภาษา": "ภา าษ ษา",
    "ភាសាខ្មែរ": "ភាសា សាខ្ ខ្មែ មែរ",
    # Nothing.
    "": "",
    " — …!? \u0301": "",
}


@pytest.mark.parametrize("text", TOKENS)
def test_the_tokens_of_a_text(text):
    assert bm25_tokens(text) == TOKENS[text].split()


TEXTS = st.text(max_size=60) | st.text(alphabet="aB1.-_/:é中ภ한\u0301 ", max_size=60)


@given(TEXTS)
def test_tokens_are_folded_pieces_of_the_text(text):
    tokens = bm25_tokens(text)
    assert all(any(map(str.isalnum, token)) and not any(map(str.isspace, token)) for token in tokens)
    assert tokens == bm25_tokens(unicodedata.normalize("NFD", text))
    assert sorted(map(str.casefold, tokens)) == sorted(tokens)


@given(TEXTS, TEXTS)
def test_a_blank_separates_tokens(left, right):
    assert bm25_tokens(f"{left} {right}") == bm25_tokens(left) + bm25_tokens(right)


@given(TEXTS)
def test_a_query_finds_a_document_of_the_same_text(text):
    query, document = bm25_query(text), bm25_document(text)
    assert query.ids.tolist() == document.ids.tolist() == sorted({token_id(token) for token in bm25_tokens(text)})
    assert query.ids.dtype == document.ids.dtype == np.int32
    assert (query.weights == 1).all()
    assert ((document.weights > 0) & (document.weights < K1 + 1)).all()


def test_token_ids_are_fixed_for_ever():
    """Stored vectors hold them."""
    assert [token_id(token) for token in ("filter", "ab-1234/5", "中文")] == [2143575837, 2205552, 1510599991]


def test_the_weight_of_a_token_by_hand():
    document = bm25_document("pump lamp pump")
    length = 1 - B + B * 3 / AVERAGE_TOKENS
    weights = dict(zip(document.ids.tolist(), document.weights.tolist(), strict=True))
    assert weights == pytest.approx(
        {token_id("pump"): 2 * 2.2 / (2 + 1.2 * length), token_id("lamp"): 1 * 2.2 / (1 + 1.2 * length)}
    )


def test_the_score_by_hand():
    """Three texts; "pump" is in two of them, "lamp" in one: idf ln(1 + 1.5/2.5) and ln(1 + 2.5/1.5)."""
    holders = {token_id("pump"): 2, token_id("lamp"): 1}
    document = bm25_document("pump lamp pump")
    pump, lamp = (document.as_dict()[token_id(word)] for word in ("pump", "lamp"))
    b = np.log(1.6) * pump + np.log(1 + 2.5 / 1.5) * lamp
    found = bm25_score(bm25_query("Lamp, PUMP or drill"), document, documents=3, holders=holders)
    assert found == pytest.approx(b / (b + BM25_HALF))
    assert bm25_score(bm25_query("drill"), document, documents=3, holders=holders) == 0


def test_the_saturated_score_is_half_at_c_and_keeps_the_order():
    assert saturated(BM25_HALF) == 0.5
    assert saturated(0.0) == 0
    assert (np.diff(saturated(np.linspace(0, 100, 50, dtype=np.float32))) > 0).all()


def test_the_fourth_part_has_a_weight_of_its_own():
    parts = Scores(0.5, 2.0, 0.25, 0.4)
    assert hybrid_score(parts, Weights(1, 0.3, 1, 0.5)) == pytest.approx(0.5 + 0.6 + 0.25 + 0.2)
    assert hybrid_score(parts, Weights(1, 0.3, 1)) == pytest.approx(1.35)
    assert (
        Weights.parse("1,0.3,1,0.5") == Weights.parse({**Weights().as_dict(), "bm25": 0.5}) == Weights(1, 0.3, 1, 0.5)
    )
    assert Weights().as_dict() == {"dense": 1, "sparse": 0.3, "multi_vector": 1}
    assert Weights.parse((0, 0, 0, 1)).as_dict()["bm25"] == 1
