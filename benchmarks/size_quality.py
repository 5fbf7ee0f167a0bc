"""``python -m benchmarks.size_quality COLLECTION…``: bytes of the multi-vectors, and the quality that they buy.

Three things make a multi-vector smaller: a narrower row, fewer rows (``encoding.token_pooling``), a smaller number
(``storage``). Every combination of those given is stored in an embedded Qdrant and asked like an application asks it.
Documents are encoded once. The last line is one JSON object.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice, product
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Annotated, Final, TypeAlias, get_args

import numpy as np
import typer

from m3_vdb import M3EmbeddingFunction, M3Embeddings
from m3_vdb.encoding.token_pooling import row_counts, rows_to_keep, with_rows
from m3_vdb.errors import ConfigError
from m3_vdb.evaluation import PROTOCOLS, Collection, Mode, open_collections
from m3_vdb.evaluation.collection import subsample
from m3_vdb.evaluation.metrics import group_means
from m3_vdb.evaluation.search import search
from m3_vdb.stores import open_store
from m3_vdb.stores.options import CollectionOptions, Storage
from m3_vdb.stores.vectors import pack
from m3_vdb.types import FloatArray

MODES: Final[tuple[Mode, ...]] = ("multi_vector", "all")
MEASURE: Final = "nDCG@10"
BYTES: Final[dict[Storage, int]] = {"float32": 4, "half": 2, "quarter": 1}
Turn: TypeAlias = Callable[[M3Embeddings], M3Embeddings]
BLOCK: Final = 256
"""Documents that are encoded together."""


@dataclass(frozen=True, slots=True)
class Form:
    """One form of a multi-vector."""

    width: int
    factor: float
    storage: Storage
    cut: bool

    def of(self, embeddings: M3Embeddings) -> M3Embeddings:
        """Narrow rows, and of a document's one in ``factor``: neighbours averaged, or the first of all."""
        embeddings = narrowed(embeddings, self.width)
        if self.factor == 1:
            return embeddings
        return with_rows(embeddings, rows_to_keep(row_counts(embeddings), factor=self.factor), pool=not self.cut)


def narrowed(embeddings: M3Embeddings, width: int) -> M3Embeddings:
    """The first ``width`` columns of multi-vector rows, normalised again."""
    assert embeddings.multi_vector is not None
    rows = embeddings.multi_vector[:, :width]
    return replace(embeddings, multi_vector=rows / np.linalg.norm(rows, axis=1, keepdims=True))


def rotation(embed: M3EmbeddingFunction, rows: Path | None, *, sample: int = 400) -> Turn:
    """What puts the directions of most variance first: those of training passages, or none.

    A head that ``python -m train project`` made has them in that order already.
    """
    if rows is None:
        return lambda embeddings: embeddings
    import torch

    from train.edit import principal_directions

    with rows.open(encoding="utf-8") as lines:
        texts = [json.loads(line)["pos"][0] for line in islice(lines, sample)]
    found = embed.encode_documents(texts, dense=False, sparse=False).multi_vector
    assert found is not None
    basis: FloatArray = principal_directions(torch.from_numpy(found), found.shape[1]).numpy()

    def turned(embeddings: M3Embeddings) -> M3Embeddings:
        assert embeddings.multi_vector is not None
        return replace(embeddings, multi_vector=embeddings.multi_vector @ basis.T)

    return turned


class Encoded:
    """The documents and queries of a collection, encoded."""

    def __init__(self, collection: Collection, embed: M3EmbeddingFunction, rotated: Turn) -> None:
        self.collection = collection
        self._identity = embed.identity
        self._documents = list(collection.documents)
        texts = [document.content for document in self._documents]
        blocks = [embed.encode_documents(texts[at : at + BLOCK]) for at in range(0, len(texts), BLOCK)]
        self._passages = rotated(pack([one for block in blocks for one in block]))
        self._queries = rotated(embed.encode_queries([query.text for query in collection.queries.values()]))

    def measure(self, form: Form) -> dict[str, float]:
        """Rows and bytes of a document's multi-vector, and nDCG@10 by mode, mean over languages."""
        passages = form.of(self._passages)
        asked = list(zip(self.collection.queries, narrowed(self._queries, form.width), strict=True))
        identity = replace(self._identity, multi_vector_dim=form.width)
        options = CollectionOptions(storage=form.storage)
        rows = float(row_counts(passages).mean())
        found = {"rows": rows, "bytes": rows * form.width * BYTES[form.storage]}
        with (
            TemporaryDirectory(prefix="m3-vdb-") as folder,
            open_store(f"{folder}/x.qdrant", identity=identity, options=options, exact=True) as store,
        ):
            for at in range(0, len(self._documents), BLOCK):
                store.upsert(self._documents[at : at + BLOCK], pack(list(passages)[at : at + BLOCK]))
            for mode in MODES:
                run = search(store, asked, PROTOCOLS["paper"].request(mode))
                means = group_means(run, self.collection, self.collection.qrels, [MEASURE])[MEASURE]
                found[mode] = fmean(means)
        return found


def main(
    collections: Annotated[list[str], typer.Argument(help="Folders with queries and qrels, as m3-vdb eval takes.")],
    split: Annotated[str, typer.Option(help="Judgements. Nothing should be chosen by those of a test.")] = "dev",
    model: Annotated[str | None, typer.Option(help="Bundle. Default: the one that ships.")] = None,
    runtime: Annotated[str, typer.Option(help="auto, onnxruntime or openvino.")] = "auto",
    max_length: Annotated[int | None, typer.Option(help="Tokens kept of a document.")] = None,
    documents: Annotated[int, typer.Option(help="Documents per collection, those of the queries among them.")] = 400,
    queries: Annotated[int, typer.Option(help="Queries per language.")] = 60,
    widths: Annotated[
        str, typer.Option(help="Numbers kept per row. Default: the model's width and three narrower ones.")
    ] = "",
    factors: Annotated[str, typer.Option(help="Keep 1 in N token vectors, for each N.")] = "1,2,4",
    storages: Annotated[
        str, typer.Option(help="Bytes per number: float32 4, half 2, quarter 1.")
    ] = "float32,half,quarter",
    cut: Annotated[bool, typer.Option("--cut", help="Keep the first rows instead of averaging neighbours.")] = False,
    rows: Annotated[Path | None, typer.Option(help="Training rows, for a model that was not projected.")] = None,
) -> None:
    """Encode, shrink, store, ask, report."""
    embed = M3EmbeddingFunction(model, runtime=runtime, max_length=max_length, on_truncate="ignore")
    whole = embed.dim["multi_vector"]
    cuts = [int(one) for one in widths.split(",")] if widths else [whole, whole * 2 // 3, whole // 2, whole // 3]
    forms = forms_of(cuts, [float(one) for one in factors.split(",")], storages.split(","), cut=cut)
    rotated = rotation(embed, rows)
    encoded = [
        Encoded(subsample(one, max_documents=documents, max_queries=queries), embed, rotated)
        for place in collections
        for one in open_collections(place, split=split)
    ]
    typer.echo(
        f"{'width':>6} {'one of':>6} {'storage':>8} {'rows':>6} {'bytes':>8}" + "".join(f"{m:>14}" for m in MODES)
    )
    curve = []
    for form in forms:
        found = [one.measure(form) for one in encoded]
        line = {name: fmean(one[name] for one in found) for name in found[0]}
        about = f"{form.width:6} {form.factor:6g} {form.storage:>8} {line['rows']:6.0f} {line['bytes']:8,.0f}"
        typer.echo(about + "".join(f"{line[mode]:14.4f}" for mode in MODES))
        curve.append(
            {**asdict(form), **line, "each": {e.collection.name: f for e, f in zip(encoded, found, strict=True)}}
        )
    typer.echo(json.dumps({"measure": MEASURE, "split": split, "documents": documents, "curve": curve}))


def forms_of(widths: Sequence[int], factors: Sequence[float], storages: Sequence[str], *, cut: bool) -> list[Form]:
    """Every combination.

    Raises:
        ConfigError: there is no such storage.
    """
    known: dict[str, Storage] = {name: name for name in get_args(Storage)}
    if unknown := [name for name in storages if name not in known]:
        raise ConfigError(f"storage {unknown[0]!r}: expected some of {', '.join(known)}")
    return [Form(*one, cut) for one in product(widths, factors, [known[name] for name in storages])]


if __name__ == "__main__":
    typer.run(main)
