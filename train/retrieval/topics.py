"""Topics: rows about like passages share a data set, so that a batch is full of hard negatives at no cost.

Topic-aware sampling (Hofstätter et al. 2021, arXiv 2104.06967, section 4.1) clusters the queries once, before training.
Here a row goes where its first positive goes: all questions about a passage, in whatever language, stay together.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from m3_vdb.encoding.embedding_function import M3EmbeddingFunction
from m3_vdb.errors import ConfigError
from m3_vdb.evaluation.protocol import Part
from m3_vdb.types import FloatArray
from train.data.rows import dataset_of
from train.retrieval.config import Report, TopicsConfig
from train.retrieval.data import read_rows, write_rows
from train.retrieval.index import encode, import_faiss
from train.session import embedding_function, load

TOPIC: Final = "topic"
DENSE: Final[tuple[Part, ...]] = ("dense",)
ITERATIONS: Final = 40
SMALLEST: Final = 0.5
"""Share of the wanted passages below which a topic is dissolved."""


def topics(config: TopicsConfig, *, report: Report) -> list[dict[str, Any]]:
    """Write the rows, each with all its fields and the number of its topic, in the order of the files.

    Args:
        config: model, files and options.
        report: called with lines about progress.

    Raises:
        ConfigError: ``out`` exists, or a file cannot be read.
        DocumentError: a row is malformed; file and line are in the message.
        BundleError: the checkpoint is incomplete.
    """
    if config.out.exists():
        raise ConfigError(f"{config.out} exists: give a new file, or remove it")
    rows = read_rows(config.data)
    model, tokenizer = load(config.model, device=config.device)
    embed = embedding_function(model, tokenizer, dtype=config.dtype, batch_tokens=config.batch_tokens)
    written = with_topics(embed, rows, config, report=report)
    write_rows(written, config.out)
    report(f"{config.out}: {len(written):,} rows, {len(set(map(dataset_of, written))):,} data sets")
    return written


def with_topics(
    embed: M3EmbeddingFunction, rows: Sequence[Mapping[str, Any]], config: TopicsConfig, *, report: Report
) -> list[dict[str, Any]]:
    """The rows in their order with the field "topic"; a data set that is too small for two topics has none."""
    members: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    written = [{key: value for key, value in fields.items() if key != TOPIC} for fields in rows]
    for i, fields in enumerate(written):
        members[dataset_of(fields)][fields["pos"][0]].append(i)
    for name, of_passage in sorted(members.items()):
        passages = sorted(of_passage)  # the order of rows changes nothing
        count = len(passages) // config.passages
        report(f"{name}: {len(passages):,} passages" + (f", about {count:,} topics" if count > 1 else ", too few"))
        if count < 2:
            continue
        dense = encode(embed, passages, max_length=config.passage_max_length, parts=DENSE).dense
        assert dense is not None
        for passage, topic in zip(passages, cluster(dense, count, seed=config.seed).tolist(), strict=True):
            for i in of_passage[passage]:
                written[i][TOPIC] = topic
    return written


def cluster(vectors: FloatArray, count: int, *, seed: int) -> NDArray[np.int64]:
    """Topic of each vector by spherical k-means; vectors of a topic that turns out small go to the next nearest.

    Args:
        vectors: float32 [n, dim], unit length.
        count: topics to begin with, at most n.
        seed: of the first centroids.

    Returns:
        int64 [n], numbers from 0 to below ``count``, some of which nothing may have.

    Raises:
        MissingExtraError: faiss is not installed.
    """
    faiss = import_faiss("train topics")
    means = faiss.Kmeans(
        vectors.shape[1], count, niter=ITERATIONS, spherical=True, seed=seed, min_points_per_centroid=1
    )
    means.train(vectors)
    nearest = means.index.search(vectors, 1)[1][:, 0]
    sizes = np.bincount(nearest, minlength=count)
    large = np.flatnonzero(sizes >= min(SMALLEST * len(vectors) / count, sizes.max()))
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(means.centroids[large])
    found: NDArray[np.int64] = large[index.search(vectors, 1)[1][:, 0]]
    return found
