"""``python -m benchmarks.exact_words STORE=COLLECTION …``: what exact words (bm25) add to the three parts.

STORE is a folder that holds documents of COLLECTION (a BEIR folder with ``qrels/dev.tsv`` and ``qrels/test.tsv``),
whole or in passages; exact words are added to it if it has none. Queries whose judged documents are not in the store
are left out. Each query is one search of lists of 200, 200 and 50 candidates; their parts say what any weights
and fewer lists would give. The weight w4 is the best on the dev queries of all collections together. The table holds
the test queries: three parts as they are, with the candidates of bm25 and no weight for it, with the weight and without
its candidates, and with both. The last line is one JSON object.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Annotated, Final

import numpy as np
import typer
from numpy.typing import NDArray

from benchmarks.common import text_table
from m3_vdb import PRESETS, CollectionOptions, M3EmbeddingFunction, VectorStore, bm25_query, open_store
from m3_vdb.scoring import BM25_HALF
from m3_vdb.types import FloatArray, Hit
from m3_vdb.weights import Weights

CANDIDATES: Final = 200
STEPS: Final = (0.0, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0)
AT: Final = 10
ALL_LISTS: Final = Weights(1, 1, 1, 1)
"""Any weights: all candidates come back."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One query and its candidates.

    Attributes:
        owners: str [k], documents of the candidates.
        parts: float32 [k, 4], dense, sparse, multi_vector and the sum b.
        listed: bool [k], found without the list of bm25.
        gains: document → gain.
    """

    owners: NDArray[np.str_]
    parts: FloatArray
    listed: NDArray[np.bool_]
    gains: Mapping[str, float]


def _top(scores: FloatArray) -> NDArray[np.bool_]:
    """Those of the list: the best of all candidates are the best of the whole collection."""
    edge = np.sort(scores)[::-1][: CANDIDATES + 1]
    found: NDArray[np.bool_] = scores >= edge[min(len(edge), CANDIDATES) - 1]
    return found


def asked(hits: Sequence[Hit], gains: Mapping[str, float]) -> Asked:
    """The candidates of one query."""
    documents = [hit.document for hit in hits]
    owners = np.array([one.passage.document if one.passage else one.id for one in documents])
    parts = np.array([list(hit.parts.as_dict().values()) for hit in hits if hit.parts], np.float32)
    parts[:, 3] *= BM25_HALF / (1 - parts[:, 3])
    return Asked(owners, parts, _top(parts[:, 0]) | (_top(parts[:, 1]) & (parts[:, 1] > 0)), gains)


def ndcg(ranked: Sequence[str], gains: Mapping[str, float]) -> float:
    """nDCG@10 of documents, best first."""
    found = sum(gains.get(one, 0) / np.log2(rank + 2) for rank, one in enumerate(ranked[:AT]))
    ideal = sum(gain / np.log2(rank + 2) for rank, gain in enumerate(sorted(gains.values(), reverse=True)[:AT]))
    return float(found / ideal)


def ranking(query: Asked, weights: Weights, *, listed: bool, half: float = BM25_HALF) -> list[str]:
    """Documents by their best passage, best first; one that no part finds is not found."""
    parts = query.parts.copy()
    parts[:, 3] /= parts[:, 3] + half
    total = parts @ np.array([weights.dense, weights.sparse, weights.multi_vector, weights.bm25], np.float32)
    order = np.argsort(-total, kind="stable")
    order = order[(listed | query.listed[order]) & (total[order] > 0)]
    return list(dict.fromkeys(query.owners[order].tolist()))[:AT]


def mean(queries: Sequence[Asked], weights: Weights, *, listed: bool = True, half: float = BM25_HALF) -> float:
    """Mean nDCG@10; ``listed`` with the candidates of bm25."""
    return fmean(ndcg(ranking(one, weights, listed=listed, half=half), one.gains) for one in queries)


def read(
    store: VectorStore, collection: Path, split: str, embed: M3EmbeddingFunction, most: int | None = None
) -> list[Asked]:
    """The queries of a split that the store can answer; at most ``most``, evenly spaced."""
    lines = [json.loads(line) for line in (collection / "queries.jsonl").read_text(encoding="utf-8").splitlines()]
    texts = {one["_id"]: one["text"] for one in lines}
    gains = defaultdict[str, dict[str, float]](dict)
    for line in (collection / "qrels" / f"{split}.tsv").read_text(encoding="utf-8").splitlines()[1:]:
        query, document, gain = line.split("\t")
        gains[query][document] = float(gain)
    held = {one.id for one in store.get({document for of in gains.values() for document in of})}
    kept = {name: {one: gain for one, gain in of.items() if one in held} for name, of in gains.items()}
    names = [name for name, of in kept.items() if any(of.values())]
    if most is not None and most < len(names):
        names = [names[i * len(names) // most] for i in range(most)]
    encoded = embed.encode_queries([texts[name] for name in names])
    found = []
    for i, name in enumerate(names):
        question = replace(encoded[i], bm25=bm25_query(texts[name]))
        pages = (
            store.query(
                question, weights=ALL_LISTS, limit=CANDIDATES, offset=offset, candidates=CANDIDATES, explain=True
            )
            for offset in range(0, 3 * CANDIDATES, CANDIDATES)
        )
        found.append(asked([hit for page in pages for hit in page], kept[name]))
    return found


def main(
    places: Annotated[list[str], typer.Argument(help="STORE=COLLECTION, of one task.")],
    preset: Annotated[str, typer.Option(help="Weights of the three parts.")] = "default",
    queries: Annotated[int | None, typer.Option(help="At most, of each split of each store. Default: all.")] = None,
) -> None:
    """NDCG@10 of test queries with and without exact words; w4 is chosen on dev queries."""
    embed, three = M3EmbeddingFunction(), replace(PRESETS[preset], bm25=0)
    dev, test = list[Asked](), list[Asked]()
    for place in places:
        name, _, collection = place.partition("=")
        with open_store(name, options=CollectionOptions(bm25=True)) as store:
            dev += read(store, Path(collection), "dev", embed, queries)
            test += read(store, Path(collection), "test", embed, queries)
    values = {w4: mean(dev, replace(three, bm25=w4)) for w4 in STEPS}
    best = max(values, key=lambda w4: (values[w4], -w4))
    four = replace(three, bm25=best)
    found = {
        "BM25 alone": mean(test, Weights(0, 0, 0, 1)),
        "three parts": mean(test, three, listed=False),
        "and candidates of bm25": mean(test, three),
        "four parts, no candidates of bm25": mean(test, four, listed=False),
        "four parts": mean(test, four),
    }
    print(f"{preset}, w4={best:g} of {len(dev)} dev queries; {len(test)} test queries")
    print(text_table([["nDCG@10", "test"], *([name, f"{value:.4f}"] for name, value in found.items())]))
    curve = {
        f"c={half}": {
            f"{w4:g}": [round(mean(of, replace(three, bm25=w4), half=half), 4) for of in (dev, test)] for w4 in STEPS
        }
        for half in (3, 5, 10, 20, 40)
    }
    print(json.dumps({"preset": preset, "w4": best, "dev": len(dev), "test": len(test), **found, "dev, test": curve}))


if __name__ == "__main__":
    typer.run(main)
