"""Training rows of short texts; nothing held out appears anywhere in one, not even as a negative.

A row is ``{"query", "pos": [...], "neg": [...], "lang", "doc_lang", "source", "concept"}``; ``lang`` is the query's
language and ``doc_lang`` that of the texts, which are cut to :data:`MAX_TEXT_CHARS`. A hash fixes the order of rows.

* :func:`mined_rows`: a query, the texts that answer it, and BM25's best wrong answers; in one language, or in one and
  English, in one of the two directions
* :func:`question_rows`: every title and index entry of a translated document, about the English one; no negatives, for
  a training that takes them from the batch
* :func:`pair_rows`: titles with their texts, and paragraphs with their English originals, for contrastive pre-training:
  many, short, without negatives
* :func:`paragraph_rows`, :func:`message_rows`: a paragraph or a string of a user interface, its English original, and
  the English ones that BM25 finds most like it: among random paragraphs any trained model finds the original, among
  these it has to know what the words mean
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import chain
from typing import Any

from m3_vdb.evaluation.bm25 import BM25, tokenize

from .help_pages import LIBREOFFICE, STRINGS
from .pool import MAX_RELEVANT, HeldOut, Pool, english_of, queries_of
from .records import Record, Translation, digest, key

MAX_TEXT_CHARS = 1_200
"""About 300 tokens of XLM-R in a European language and 700 in Chinese."""
MAX_POSITIVES = 4
FIRST_RANK, LAST_RANK = 4, 40
"""Where negatives are drawn: above are too many unjudged answers, below nothing is hard."""
MIN_NEGATIVES, MAX_NEGATIVES = 4, 7

MAX_ROWS = 3_000
"""Same-language rows per language and source: English descriptions must not swamp the rest."""
MAX_CROSS_ROWS = 1_000
"""Cross-lingual rows per (other) language and source."""
MAX_QUESTIONS = 2_000
"""Questions per language and source."""
MAX_TITLES = 4_000
"""Pairs of title and text per language and source."""
MAX_PARAGRAPHS = 6_000
"""Pairs of paragraph and original per language."""

TRANSLATION_NEGATIVES = 6
MOST_ALIKE = 0.8
"""Share of different tokens in common with the original from which on a paragraph passes for the same text."""

Row = dict[str, Any]


def clip(text: str, limit: int = MAX_TEXT_CHARS) -> str:
    """``text`` cut to ``limit`` characters, at the last blank if the script has any near the end."""
    if len(text) <= limit:
        return text
    cut = text[: limit + 1]
    blank = max(cut.rfind(" "), cut.rfind("\n"))
    return cut[:blank] if blank > limit - 40 else cut[:limit]


def in_order(rows: Iterable[Row], *names: str) -> list[Row]:
    """Rows in an order fixed by the hash of what they have under ``names``."""
    return sorted(rows, key=lambda row: digest("row", *(str(row[name]) for name in names)))


def make_row(
    query: str,
    pos: Sequence[str],
    neg: Sequence[str] | None,
    langs: tuple[str, str],
    origin: tuple[str, str | None],
    limit: int = MAX_TEXT_CHARS,
) -> Row:
    """A row; ``langs`` are those of query and texts, ``origin`` is source and concept. What is None is left out."""
    row = {
        "query": clip(query),
        "pos": [clip(text, limit) for text in pos],
        "neg": None if neg is None else [clip(text, limit) for text in neg],
        **dict(zip(("lang", "doc_lang", "source", "concept"), (*langs, *origin), strict=True)),
    }
    return {name: value for name, value in row.items() if value is not None}


class Miner:
    """The queries and documents of one language that training may see, and hard negatives among the latter."""

    def __init__(self, pool: Pool, held: HeldOut) -> None:
        self.pool = pool
        self.records = [record for record in pool.records if not held.touches(record)]
        self.by_concept = {record.concept_id: record for record in self.records}
        self.questions = [
            (record, query)
            for record, query in queries_of(pool, "train")
            if not held.owns(query) and all(one.concept_id in self.by_concept for one in pool.relevant(query))
        ]
        self._index = BM25([record.text for record in self.records])
        self._ranked = cache(self._rank)

    def _rank(self, query: str) -> list[Record]:
        hits = self._index.search(query, LAST_RANK)
        return [self.records[position] for position, _ in hits[FIRST_RANK - 1 :]]

    def negatives(self, query: str, *, seed: str, forbidden: Iterable[Record] = ()) -> list[str]:
        """Texts of 4 to 7 hard negatives for ``query``, or none if BM25 finds fewer than 4.

        Args:
            query: a query in this miner's language.
            seed: what the draw depends on.
            forbidden: what may not be drawn in any language, beside the documents that answer ``query``.
        """
        barred = {record.concept_id for record in (*forbidden, *self.pool.relevant(query))}
        found = [record for record in self._ranked(query) if record.concept_id not in barred]
        if len(found) < MIN_NEGATIVES:
            return []
        wanted = MIN_NEGATIVES + digest("negatives", seed) % (MAX_NEGATIVES - MIN_NEGATIVES + 1)
        drawn = sorted(found, key=lambda record: digest("negative", seed, record.concept_id))[:wanted]
        return [record.text for record in drawn]


def mined_rows(pools: Sequence[Pool], held: HeldOut) -> list[Row]:
    """Rows with hard negatives; cross-lingual ones need a pool of English."""
    rows: list[Row] = []
    target = english_of(pools)
    english = Miner(target, held) if target is not None else None
    for pool in (pool for pool in pools if pool.records):
        miner = english if english is not None and pool is target else Miner(pool, held)
        rows += _same_language_rows(miner)
        if english is not None and miner is not english:
            rows += _cross_lingual_rows(miner, english)
    return in_order(rows, "concept", "lang", "doc_lang")


def _same_language_rows(miner: Miner) -> Iterator[Row]:
    taken = Counter[str]()
    lang = miner.pool.lang
    for record, query in miner.questions:
        if taken[record.source] >= MAX_ROWS:
            continue
        if negatives := miner.negatives(query, seed=f"{lang}\t{record.concept_id}"):
            taken[record.source] += 1
            positives = [one.text for one in miner.pool.answered_first_by(record, query)[:MAX_POSITIVES]]
            yield make_row(query, positives, negatives, (lang, lang), (record.source, record.concept_id))


def _cross_lingual_rows(miner: Miner, english: Miner) -> Iterator[Row]:
    """The negatives answer almost, but not quite, the query that the same concept has in the texts' language."""
    taken = Counter[str]()
    english_queries = {record.concept_id: query for record, query in english.questions}
    for record, query in miner.questions:
        twin = english.by_concept.get(record.concept_id)
        english_query = english_queries.get(record.concept_id, "")
        if twin is None or not english_query or taken[record.source] >= MAX_CROSS_ROWS:
            continue
        to_english = digest("direction", record.lang, record.concept_id) % 2 == 0
        asked, side, local = (query, english, english_query) if to_english else (english_query, miner, query)
        other, positive = (miner, twin) if to_english else (english, record)
        seed = f"{record.lang}\ten\t{record.concept_id}"
        if negatives := side.negatives(local, seed=seed, forbidden=other.pool.relevant(asked)):
            taken[record.source] += 1
            langs = (other.pool.lang, side.pool.lang)
            yield make_row(asked, [positive.text], negatives, langs, (record.source, record.concept_id))


def question_rows(pools: Sequence[Pool], held: HeldOut) -> list[Row]:
    """Rows without negatives; a question that several documents share has them all as positives."""
    english = english_of(pools)
    if english is None:
        return []
    texts = {record.concept_id: record.text for record in english.records if not held.touches(record)}
    rows = (row for pool in pools if pool is not english for row in _questions(pool, texts, held))
    return in_order(rows, "query", "lang", "concept")


def _questions(pool: Pool, english: Mapping[str, str], held: HeldOut) -> Iterator[Row]:
    """Rows whose questions are in the language of ``pool``, no question twice; ``english`` maps concept to text."""
    asked: set[str] = set()
    taken = Counter[str]()
    candidates = [(record, query) for record in pool.records for query in record.candidates]
    for record, query in sorted(candidates, key=lambda pair: digest("question", pool.lang, pair[1])):
        answers = pool.answered_first_by(record, query)
        clean = not held.owns(query) and not any(map(held.touches, answers))
        known = [english[one.concept_id] for one in answers if one.concept_id in english]
        if clean and 0 < len(known) == len(answers) <= MAX_RELEVANT and key(query) not in asked:
            asked.add(key(query))
            if taken[record.source] < MAX_QUESTIONS:
                taken[record.source] += 1
                origin = (record.source, record.concept_id)
                yield make_row(query, known[:MAX_POSITIVES], None, (pool.lang, "en"), origin)


def pair_rows(pools: Sequence[Pool], held: HeldOut) -> list[Row]:
    """Rows of one text each, without negatives."""
    rows = [row for pool in pools for row in _title_pairs(pool, held)]
    rows += [row for pool in pools for row in _translation_pairs(pool.lang, pool.paragraphs, held, LIBREOFFICE.name)]
    return in_order(rows, "query", "lang", "doc_lang", "pos")


def _title_pairs(pool: Pool, held: HeldOut) -> Iterator[Row]:
    """Every record's title, or else its first keyword, with its text."""
    taken = Counter[str]()
    asked: set[str] = set()
    for record in sorted(pool.records, key=lambda record: digest("pair", record.concept_id, record.lang)):
        query = next(iter(record.candidates), "")
        if not query or taken[record.source] >= MAX_TITLES or key(query) in asked:
            continue
        if not held.owns(query) and not held.touches(record):
            taken[record.source] += 1
            asked.add(key(query))
            yield make_row(query, [record.text], None, (pool.lang, pool.lang), (record.source, None))


def _translation_pairs(lang: str, translations: Sequence[Translation], held: HeldOut, source: str) -> Iterator[Row]:
    """Paragraphs or strings of one language with their English originals, in one of two directions, each text once."""
    seen: set[str] = set()
    for one in sorted(translations, key=lambda one: digest("paragraph", one.concept_id, lang, one.text)):
        texts = {key(one.text), key(one.english)}
        clean = not (held.touches_concept(one.concept_id) or texts & held.queries or texts & held.texts)
        if not clean or seen & texts:
            continue
        seen |= texts
        if digest("direction", one.concept_id, lang, one.text) % 2 == 0:
            yield make_row(one.text, [one.english], None, (lang, "en"), (source, None))
        else:
            yield make_row(one.english, [one.text], None, ("en", lang), (source, None))
        if len(seen) >= 2 * MAX_PARAGRAPHS:
            return


def paragraph_rows(pools: Sequence[Pool], held: HeldOut) -> list[Row]:
    """Paragraphs as questions; many originals of less than 40 characters mean the same."""
    pairs = (_translation_pairs(pool.lang, pool.paragraphs, held, LIBREOFFICE.name) for pool in pools)
    return _with_most_alike((row for rows in pairs for row in rows if len(row["pos"][0]) >= 40), most=1_000)


def message_rows(pools: Sequence[Pool], held: HeldOut) -> list[Row]:
    """Strings of a user interface as questions."""
    pairs = (_translation_pairs(pool.lang, pool.messages, held, STRINGS) for pool in pools)
    return _with_most_alike(chain.from_iterable(pairs), most=3_000)


def _with_most_alike(rows: Iterable[Row], most: int) -> list[Row]:
    """A limited number of rows per language, with negatives; an original that too few others resemble gets none."""
    pairs = [row for row in rows if row["doc_lang"] == "en"]
    originals = sorted({row["pos"][0] for row in pairs})
    index = BM25(originals)

    @cache
    def negatives(original: str) -> list[str]:
        found = (originals[at] for at, _ in index.search(original, 4 * TRANSLATION_NEGATIVES))
        return [text for text in found if _alike(text, original) < MOST_ALIKE][:TRANSLATION_NEGATIVES]

    taken = Counter[str]()
    found: list[Row] = []
    for row in pairs:
        if taken[row["lang"]] < most and len(wrong := negatives(row["pos"][0])) == TRANSLATION_NEGATIVES:
            taken[row["lang"]] += 1
            found.append(row | {"neg": wrong})
    return in_order(found, "query", "lang", "pos")


def _alike(one: str, other: str) -> float:
    """Tokens that both have as a share of those that either has."""
    first, second = set(tokenize(one)), set(tokenize(other))
    return len(first & second) / max(len(first | second), 1)
