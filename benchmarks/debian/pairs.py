"""Pairs for contrastive pre-training: many, short, without hard negatives.

Titles with their texts, and paragraphs of the help in another language with their English originals, in one of the
two directions. A pair is ``{"query", "pos": [one text], "lang", "doc_lang", "source"}``; nothing held out is in one.
"""

from collections.abc import Iterator, Mapping, Sequence

from . import libreoffice
from .pool import HeldOut, Pool
from .records import digest, key
from .texts import Translation
from .training import Row, clip

MAX_TITLES = 4_000
"""Per language and source: English and Danish package descriptions must not swamp the rest."""

MAX_PARAGRAPHS = 6_000
"""Per language."""


def title_pairs(pool: Pool, held: HeldOut) -> Iterator[Row]:
    """Every record's title, or else its first keyword, with its text."""
    taken: dict[str, int] = {}
    asked: set[str] = set()
    for record in sorted(pool.records, key=lambda record: digest("pair", record.concept_id, record.lang)):
        query = next(iter(record.candidates), "")
        if not query or taken.get(record.source, 0) >= MAX_TITLES or key(query) in asked:
            continue
        if not held.owns(query) and not held.touches(record):
            taken[record.source] = taken.get(record.source, 0) + 1
            asked.add(key(query))
            yield _pair(query, record.text, pool.lang, pool.lang, record.source)


def paragraph_pairs(
    lang: str, paragraphs: Sequence[Translation], held: HeldOut, source: str = libreoffice.KIND.source
) -> Iterator[Row]:
    """Paragraphs, or other translations, of one language with their English originals, each text once."""
    seen: set[str] = set()
    for paragraph in sorted(paragraphs, key=lambda p: digest("paragraph", p.concept_id, lang, p.text)):
        texts = {key(paragraph.text), key(paragraph.english)}
        clean = not (held.touches_concept(paragraph.concept_id) or texts & held.queries or texts & held.texts)
        if not clean or seen & texts:
            continue
        seen |= texts
        to_english = digest("direction", paragraph.concept_id, lang, paragraph.text) % 2 == 0
        asked, answer = (paragraph.text, paragraph.english) if to_english else (paragraph.english, paragraph.text)
        languages = (lang, "en") if to_english else ("en", lang)
        yield _pair(asked, answer, *languages, source)
        if len(seen) >= 2 * MAX_PARAGRAPHS:
            return


def _pair(query: str, text: str, lang: str, doc_lang: str, source: str) -> Row:
    return {"query": clip(query), "pos": [clip(text)], "lang": lang, "doc_lang": doc_lang, "source": source}


def rows(pools: Sequence[Pool], paragraphs: Mapping[str, Sequence[Translation]], held: HeldOut) -> list[Row]:
    """All pairs in an order fixed by hash."""
    found = [row for pool in pools for row in title_pairs(pool, held)]
    found += [row for lang in sorted(paragraphs) for row in paragraph_pairs(lang, paragraphs[lang], held)]
    return sorted(found, key=lambda row: digest("row", *(str(row[k]) for k in ("query", "lang", "doc_lang", "pos"))))
