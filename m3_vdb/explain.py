"""Explains the score of a hit token by token: what the lexical and the multi-vector score are the sum of.

The store returns three numbers per hit (``Hit.parts``) and keeps no tokens. So query and documents are encoded again,
one pass for each, and the numbers are split by the definitions of ``m3_vdb.scoring``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from m3_vdb.encoding.embedder import Embedder, Tokenizing
from m3_vdb.encoding.long_documents import text_encoding
from m3_vdb.encoding.tokenizer import CLS, HIDING
from m3_vdb.errors import ConfigError
from m3_vdb.inputs import read_query
from m3_vdb.scoring import score
from m3_vdb.types import Explanation, Hit, LexicalMatch, M3Embedding, Token, TokenMatch

_WORD_START = "▁"


@dataclass(frozen=True, slots=True)
class _Text:
    """A text with its tokens: those of the lexical weights, then ``</s>``, as the rows of the multi-vector are."""

    text: str
    ids: list[int]
    tokens: list[Token]
    embedding: M3Embedding


def explain_hits(embed: Embedder, text: str, hits: Sequence[Hit]) -> list[Explanation]:
    """Explain hits of one query.

    Args:
        embed: the embedding function that made the vectors.
        text: the query.
        hits: n results of it.

    Returns:
        n explanations.

    Raises:
        ConfigError: the embedding function has no tokenizer.
        TextError: ``text`` is not one string.
    """
    if not isinstance(embed, Tokenizing):
        raise ConfigError(
            f"scores are explained by tokens, and {type(embed).__name__} has no tokenizer: use M3EmbeddingFunction"
        )
    query = _read(embed, read_query(text), embed.encode_queries([text])[0])
    contents = [hit.document.content for hit in hits]
    embeddings = embed.encode_documents(contents)
    explained = []
    for hit, content, embedding in zip(hits, contents, embeddings, strict=True):
        marks = dict(mark.partition("=")[::2] for mark in hit.document.encoding.split(",") if mark)
        if "truncate" in marks and embedding.multi_vector is not None:
            embedding = replace(embedding, multi_vector=embedding.multi_vector[: int(marks["truncate"])])  # noqa: PLW2901
        found = _explained(query, _read(embed, content, embedding), _notes(embed, marks))
        # Exact words also depend on the other documents, boosts on the query: these are what the store has given.
        words, boost = (None, None) if hit.parts is None else (hit.parts.bm25, hit.parts.boost)
        explained.append(replace(found, parts=replace(found.parts, bm25=words, boost=boost)))
    return explained


def _read(embed: Tokenizing, text: str, embedding: M3Embedding) -> _Text:
    kept = embed.tokenizer.encode([text], max_length=embed.max_length, mcls_every=embed.mcls_every).ids
    ids = kept[kept != CLS].tolist()  # no text contains <s>
    spans = embed.tokenizer.spans(text)[: len(ids) - 1].tolist()
    end = spans[-1][1] if spans else 0
    tokens = []
    for token_id, (start, stop) in zip(ids, [*spans, (end, end)], strict=True):
        piece = (embed.tokenizer.id_to_token(token_id) or "").removeprefix(HIDING)
        # The span of a "▁" alone is the character after it, which is another token's.
        after = start if piece == _WORD_START else stop
        tokens.append(Token(piece, text[start:after], start, after))
    return _Text(text, ids, tokens, embedding)


def _explained(query: _Text, document: _Text, notes: tuple[str, ...]) -> Explanation:
    parts = score(query.embedding, document.embedding)
    return Explanation(query.text, document.text, parts, _lexical(query, document), _alignment(query, document), notes)


def _lexical(query: _Text, document: _Text) -> tuple[LexicalMatch, ...]:
    """The terms of ``scoring.lexical_score``, the largest first."""
    assert query.embedding.sparse is not None
    assert document.embedding.sparse is not None
    in_query, in_document = query.embedding.sparse.as_dict(), document.embedding.sparse.as_dict()
    found = []
    for token_id in in_query.keys() & in_document.keys():
        of_query, of_document = (
            tuple(token for token, id in zip(side.tokens, side.ids, strict=True) if id == token_id)
            for side in (query, document)
        )
        weight, other = in_query[token_id], in_document[token_id]
        found.append(LexicalMatch(of_query[0].piece, of_query, of_document, weight, other, weight * other))
    return tuple(sorted(found, key=lambda match: (-match.product, match.query[0].start)))


def _alignment(query: _Text, document: _Text) -> tuple[TokenMatch, ...]:
    """The terms of ``scoring.multi_vector_score``, in the order of the query."""
    assert query.embedding.multi_vector is not None
    assert document.embedding.multi_vector is not None
    similarities = query.embedding.multi_vector @ document.embedding.multi_vector.T
    best = similarities.argmax(axis=1)
    return tuple(
        TokenMatch(token, document.tokens[row], float(similarities[i, row]))
        for i, (token, row) in enumerate(zip(query.tokens, np.asarray(best).tolist(), strict=True))
    )


def _notes(embed: Tokenizing, marks: Mapping[str, str]) -> tuple[str, ...]:
    """Why the stored score may differ from the one explained, as far as the document's ``encoding`` says."""
    notes = []
    pooled = [f"{name}={marks[name]}" for name in ("pool_factor", "pool") if name in marks]
    if pooled:
        notes.append(
            f"stored rows are means of several tokens ({', '.join(pooled)}), which no single token stands for: the "
            f"similarities are those of the tokens before pooling"
        )
    stored, now = marks.get("max_length", "the model's"), text_encoding(embed).partition("=")[2] or "the model's"
    if stored != now:
        notes.append(f"encoded with max_length {now}, stored with {stored}")
    return tuple(notes)
