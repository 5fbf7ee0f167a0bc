"""Training rows: a query, the texts that answer it, and BM25's best wrong answers.

A row is ``{"query", "pos": [...], "neg": [...], "lang", "doc_lang", "source", "concept"}``; ``lang`` is the query's
language and ``doc_lang`` that of the texts. Same-language rows come first in number; cross-lingual rows pair a
language with English in one of the two directions. Nothing held out appears anywhere in a row, not even as a
negative. Texts are cut to :data:`MAX_TEXT_CHARS`, which keeps the file small.
"""

from collections.abc import Iterator, Sequence
from functools import cache

from m3_vdb.evaluation.bm25 import BM25

from .pool import HeldOut, Pool, queries_of
from .records import Record, digest

MAX_TEXT_CHARS = 1_200
"""About 300 tokens of XLM-R in a European language and 700 in Chinese."""

MAX_ROWS = 3_000
"""Same-language rows per language and source: English descriptions must not swamp the rest."""

MAX_CROSS_ROWS = 1_000
"""Cross-lingual rows per (other) language and source."""

FIRST_RANK, LAST_RANK = 4, 40
"""Where negatives are drawn: above are too many unjudged answers, below nothing is hard."""

MIN_NEGATIVES, MAX_NEGATIVES = 4, 7
MAX_POSITIVES = 4

Row = dict[str, object]


def clip(text: str, limit: int = MAX_TEXT_CHARS) -> str:
    """``text`` cut to ``limit`` characters, at the last blank if the script has any near the end."""
    if len(text) <= limit:
        return text
    cut = text[: limit + 1]
    blank = max(cut.rfind(" "), cut.rfind("\n"))
    return cut[:blank] if blank > limit - 40 else cut[:limit]


class Miner:
    """The queries and documents of one language that training may see, and hard negatives among the latter."""

    def __init__(self, pool: Pool, held: HeldOut) -> None:
        self.pool = pool
        self.records = [record for record in pool.records if not held.touches(record)]
        self.by_concept = {record.concept_id: record for record in self.records}
        self.questions = list(self._questions(held))
        self._index = BM25([record.text for record in self.records])
        self._ranked = cache(self._rank)

    def _rank(self, query: str) -> list[Record]:
        hits = self._index.search(query, LAST_RANK)
        return [self.records[position] for position, _ in hits[FIRST_RANK - 1 :]]

    def _questions(self, held: HeldOut) -> Iterator[tuple[Record, str]]:
        """Training queries that share nothing with a held-out query, in hash order."""
        allowed = set(self.by_concept)
        for record, query in queries_of(self.pool, "train"):
            if not held.owns(query) and all(answer.concept_id in allowed for answer in self.answers(query)):
                yield record, query

    def answers(self, query: str) -> list[Record]:
        """The documents that answer ``query`` in this language, held out or not."""
        return [self.pool.records[position] for position in self.pool.relevant(query)]

    def negatives(self, query: str, *, seed: str, forbidden: set[str]) -> list[str]:
        """Texts of 4 to 7 hard negatives for ``query``, or none if BM25 finds fewer than 4.

        Args:
            query: a query in this miner's language.
            seed: what the draw depends on.
            forbidden: concepts that may not be drawn, beside those that answer ``query``.
        """
        barred = forbidden | {record.concept_id for record in self.answers(query)}
        found = [record for record in self._ranked(query) if record.concept_id not in barred]
        if len(found) < MIN_NEGATIVES:
            return []
        wanted = MIN_NEGATIVES + digest("negatives", seed) % (MAX_NEGATIVES - MIN_NEGATIVES + 1)
        drawn = sorted(found, key=lambda record: digest("negative", seed, record.concept_id))[:wanted]
        return [clip(record.text) for record in drawn]


def same_language_rows(miner: Miner) -> Iterator[Row]:
    """Rows whose query and texts are in the miner's language, at most :data:`MAX_ROWS` per source."""
    taken: dict[str, int] = {}
    for record, query in miner.questions:
        if taken.get(record.source, 0) >= MAX_ROWS:
            continue
        # The record whose query it is leads; others that answer it too follow.
        positives = sorted(miner.answers(query), key=lambda other: other.concept_id != record.concept_id)
        seed = f"{record.lang}\t{record.concept_id}"
        negatives = miner.negatives(query, seed=seed, forbidden=set())
        if negatives:
            taken[record.source] = taken.get(record.source, 0) + 1
            texts = [positive.text for positive in positives[:MAX_POSITIVES]]
            yield _row(query, texts, negatives, record=record, lang=record.lang, doc_lang=record.lang)


def cross_lingual_rows(miner: Miner, english: Miner) -> Iterator[Row]:
    """Rows with the query in one language and the texts in the other, English being one of the two.

    The negatives answer almost, but not quite, the query that the same concept has in the texts' language.
    """
    taken: dict[str, int] = {}
    english_queries = {record.concept_id: query for record, query in english.questions}
    for record, query in miner.questions:
        twin = english.by_concept.get(record.concept_id)
        english_query = english_queries.get(record.concept_id, "")
        if twin is None or not english_query or taken.get(record.source, 0) >= MAX_CROSS_ROWS:
            continue
        to_english = digest("direction", record.lang, record.concept_id) % 2 == 0
        asked, side, local = (query, english, english_query) if to_english else (english_query, miner, query)
        other = miner if to_english else english
        forbidden = {answer.concept_id for answer in other.answers(asked)}
        negatives = side.negatives(local, seed=f"{record.lang}\ten\t{record.concept_id}", forbidden=forbidden)
        if negatives:
            taken[record.source] = taken.get(record.source, 0) + 1
            text = twin.text if to_english else record.text
            yield _row(asked, [text], negatives, record=record, lang=other.pool.lang, doc_lang=side.pool.lang)


def _row(query: str, pos: Sequence[str], neg: Sequence[str], *, record: Record, lang: str, doc_lang: str) -> Row:
    return {
        "query": query,
        "pos": [clip(text) for text in pos],
        "neg": list(neg),
        "lang": lang,
        "doc_lang": doc_lang,
        "source": record.source,
        "concept": record.concept_id,
    }


def rows(pools: Sequence[Pool], held: HeldOut) -> list[Row]:
    """All training rows in an order fixed by hash.

    Cross-lingual rows need a pool of English; without one there are none.
    """
    found: list[Row] = []
    english = next((Miner(pool, held) for pool in pools if pool.lang == "en"), None)
    for pool in pools:
        miner = english if english is not None and pool.lang == "en" else Miner(pool, held)
        found.extend(same_language_rows(miner))
        if english is not None and miner is not english:
            found.extend(cross_lingual_rows(miner, english))
    return sorted(found, key=lambda row: digest("row", *(str(row[k]) for k in ("concept", "lang", "doc_lang"))))
