"""Every title and index entry of a translated document, about the English one: many questions, no negatives.

``train.jsonl`` has one question a document, in one of the two directions. Here are all that its translators wrote, for
a training that takes the negatives from the batch. A row is ``{"query", "pos", "lang", "doc_lang", "source",
"concept"}``; a question that several documents share has them all as positives.
"""

from collections.abc import Iterator, Sequence

from .pool import MAX_RELEVANT, HeldOut, Pool
from .records import Record, digest, key
from .training import MAX_POSITIVES, Row, clip

MAX_ROWS = 2_000
"""Per language and source."""


def questions(pool: Pool, english: Pool, held: HeldOut) -> Iterator[Row]:
    """Rows whose questions are in the language of ``pool``, in an order fixed by hash, no question twice."""
    texts = {record.concept_id: record.text for record in english.records if not held.touches(record)}
    asked: set[str] = set()
    taken: dict[str, int] = {}
    for record, query in sorted(_candidates(pool), key=lambda pair: digest("question", pool.lang, pair[1])):
        answers = [pool.records[position] for position in pool.relevant(query)]
        # The record whose question it is leads; others that answer it too follow.
        answers.sort(key=lambda other: other.concept_id != record.concept_id)
        clean = not held.owns(query) and not any(map(held.touches, answers))
        known = [texts[answer.concept_id] for answer in answers if answer.concept_id in texts]
        if clean and 0 < len(known) == len(answers) <= MAX_RELEVANT and key(query) not in asked:
            asked.add(key(query))
            if taken.setdefault(record.source, 0) < MAX_ROWS:
                taken[record.source] += 1
                yield {
                    "query": query,
                    "pos": [clip(text) for text in known[:MAX_POSITIVES]],
                    "lang": pool.lang,
                    "doc_lang": english.lang,
                    "source": record.source,
                    "concept": record.concept_id,
                }


def _candidates(pool: Pool) -> Iterator[tuple[Record, str]]:
    return ((record, query) for record in pool.records for query in record.candidates)


def rows(pools: Sequence[Pool], held: HeldOut) -> list[Row]:
    """All rows in an order fixed by hash; none without a pool of English."""
    english = next((pool for pool in pools if pool.lang == "en"), None)
    if english is None:
        return []
    found = [row for pool in pools if pool is not english for row in questions(pool, english, held)]
    return sorted(found, key=lambda row: digest("row", *(str(row[k]) for k in ("query", "lang", "concept"))))
