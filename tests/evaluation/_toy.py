"""Small collections of real texts in several languages, a model that is a formula, and stores that count or break."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from m3_vdb import M3EmbeddingFunction
from m3_vdb.encoding.hub import find_bundle
from m3_vdb.encoding.pooling import DENSE, MULTI_VECTOR, SPARSE
from m3_vdb.errors import StoreRequestError
from m3_vdb.evaluation import Collection, Evaluation, Query
from m3_vdb.stores import MemoryStore, VectorStore
from m3_vdb.types import Document
from tests.serving._fakes import embed_with

TEXTS = Path(__file__).parent.parent / "fixtures" / "multilingual.jsonl"


class ToySession:
    """A bag of words in place of a model: each token has a fixed random vector and weight, and texts average them."""

    description = "toy"

    def __init__(self, *, dense_dim: int, multi_vector_dim: int) -> None:
        rng = np.random.default_rng(7)
        self._dense = rng.normal(size=(4099, dense_dim)).astype(np.float32)
        self._rows = rng.normal(size=(4099, multi_vector_dim)).astype(np.float32)
        self._weights = rng.uniform(0.05, 0.5, size=4099).astype(np.float32)

    def run(self, outputs, input_ids, attention_mask):
        tokens, mask = input_ids % 4099, attention_mask.astype(np.float32)
        rows = self._rows[tokens] + 0.5 * self._rows[np.roll(tokens, 1, axis=1)]  # the word before counts a little
        raw = {
            DENSE: _unit((self._dense[tokens] * mask[:, :, None]).sum(axis=1)),
            SPARSE: self._weights[tokens] * mask,
            MULTI_VECTOR: _unit(rows[:, 1:]),
        }
        return {name: raw[name] for name in outputs}


@cache
def toy_embed(max_length: int = 512, mcls_every: int | None = None) -> M3EmbeddingFunction:
    """The toy model behind the tokenizer that ships; with MCLS it counts as another model."""
    bundle = find_bundle(None)
    session = ToySession(dense_dim=bundle.dense_dim, multi_vector_dim=bundle.multi_vector_dim)
    return embed_with(session, max_length=max_length, mcls_every=mcls_every, on_truncate="ignore")


@cache
def rows() -> tuple[dict[str, Any], ...]:
    return tuple(json.loads(line) for line in TEXTS.read_text(encoding="utf-8").splitlines())


def documents(n: int = 40, langs: Sequence[str] = ("de", "en"), *, length: int = 160) -> list[Document]:
    """The first n LibreOffice help pages of every language, without their titles."""
    return [
        Document(row["id"], row["text"][:length])
        for lang in langs
        for row in [row for row in rows() if row["lang"] == lang][:n]
    ]


def collection(
    name: str = "help", *, n: int = 12, langs: Sequence[str] = ("de", "en"), queries: slice = slice(None), **options
) -> Collection:
    """Titles ask for their page (grade 2) and its translations (grade 1); ``queries`` takes some of each language."""
    texts = documents(n, langs, **options)
    titles = {row["id"]: row["title"] for row in rows()}
    asked = {
        f"{lang}/{document.id}": Query(titles[document.id], lang)
        for lang in langs
        for document in [one for one in texts if one.id.split("/")[1] == lang][queries]
    }
    held = {document.id for document in texts}
    qrels = {}
    for query in asked:
        page = query.partition("/")[2]
        same = {page.replace(f"/{page.split('/')[1]}/", f"/{lang}/", 1): 1 for lang in langs}
        qrels[query] = {found: grade for found, grade in {**same, page: 2}.items() if found in held}
    return Collection(name, texts, asked, qrels)


def toy(name: str = "help", **options) -> Collection:
    """Sixteen documents in two languages, and as many queries."""
    return collection(name, **{"n": 8, **options})


def task() -> Collection:
    """Sixteen queries and one that shares no word with anything."""
    pages = toy()
    return replace(pages, queries={**pages.queries, "🙂": Query("🙂", "en")}, qrels={**pages.qrels, "🙂": {"x": 1}})


def same(found: Evaluation) -> Evaluation:
    """Without what differs from run to run."""
    costs = {
        name: replace(cost, encode_ms=None, search_ms={}, ingest_seconds=0, index_bytes=None)
        for name, cost in found.costs.items()
    }
    losses = {mode: replace(loss, search_ms=None) for mode, loss in found.approximations.items()}
    return replace(found, created="", store="", costs=costs, approximations=losses)


class Counting:
    """A store that counts what it is asked, and that fails once after some requests if it is told to."""

    def __init__(self, store: VectorStore, *, calls: Counter[str], fail_after: int | None = None) -> None:
        self._store = store
        self.calls = calls
        self._fail_after = fail_after

    def rank(self, *arguments, **options):
        if self._fail_after is not None and self.calls["rank"] >= self._fail_after:
            raise StoreRequestError("the toy store has had enough")
        self.calls["rank"] += 1
        return self._store.rank(*arguments, **options)

    def query(self, *arguments, **options):
        self.calls["query"] += 1
        return self._store.query(*arguments, **options)

    def upsert(self, documents, embeddings):
        self._store.upsert(documents, embeddings)
        self.calls["stored"] += len(documents)

    def optimize(self, **given):
        self.calls["optimize"] += 1
        self._store.optimize(**given)

    def __getattr__(self, name: str):
        return getattr(self._store, name)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._store.__exit__(*error)


class Kept:
    """Opens memory stores that outlive ``close``, one a collection, and counts what all of them are asked.

    Args:
        embed: the model of the stores.
    """

    def __init__(self, embed: M3EmbeddingFunction) -> None:
        self.calls: Counter[str] = Counter()
        self.fail_after: int | None = None
        self.opened: list[tuple[str, bool]] = []
        self._embed = embed
        self._stores: dict[str, MemoryStore] = {}

    def __call__(self, name: str, exact: bool) -> VectorStore:
        self.opened.append((name, exact))
        if name not in self._stores:
            self._stores[name] = _Unclosed(self._embed.identity)
        return Counting(self._stores[name], calls=self.calls, fail_after=self.fail_after)

    @contextmanager
    def counting(self) -> Iterator[Counter[str]]:
        """What is asked inside of the block."""
        self.calls.clear()
        yield self.calls


class _Unclosed(MemoryStore):
    def close(self) -> None:
        pass


def _unit(values: np.ndarray) -> np.ndarray:
    return values / np.maximum(np.linalg.norm(values, axis=-1, keepdims=True), 1e-9)
