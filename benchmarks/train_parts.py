"""``python -m benchmarks.train_parts``: the parts of training that go wrong elsewhere, counted and timed.

RetroMAE collation (time, measured mask ratios), padding of a realistic mix of lengths, and what the lexical and the
multi-vector loss allocate at 8 passages of 8192 tokens. The last line is one JSON object.
"""

from __future__ import annotations

import json
import statistics
import time
from typing import Final

import numpy as np
import torch
from rich.console import Console

from benchmarks._flag_step import peak_mib, reset_peak
from m3_vdb.encoding.packing import pack
from train.config import Batching
from train.contrastive.representations import Representations
from train.contrastive.scores import lexical_scores, multi_vector_scores
from train.data.batches import RowSizes, plan_epoch
from train.retromae.config import RetroMAESettings
from train.retromae.masking import IGNORED, mask_batch

VOCABULARY: Final = 250_002
LENGTHS: Final = (128, 2048, 8192)
ROUNDS: Final = 9
Figures = dict[str, float]


def collation() -> dict[str, Figures]:
    """Milliseconds to mask one text of each length, and the share of its tokens that encoder and decoder lose."""
    generator = torch.Generator().manual_seed(0)
    starts = torch.rand(VOCABULARY, generator=generator) < 0.5
    settings = RetroMAESettings()
    found = {}
    for length in LENGTHS:
        ids = torch.randint(4, VOCABULARY - 1, (1, length), generator=generator)
        ids[:, 0], ids[:, -1] = 0, 2
        seconds, encoder, decoder = [], [], []
        for _ in range(ROUNDS):
            begun = time.perf_counter()
            batch = mask_batch(ids, starts, settings, mask_id=VOCABULARY - 1, generator=generator)
            seconds.append(time.perf_counter() - begun)
            encoder.append(float((batch.labels != IGNORED).sum()) / (length - 2))
            decoder.append(float(batch.hidden.float().sum(-1).mean()) / (length - 2))
        found[str(length)] = {
            "ms": round(1000 * statistics.median(seconds), 2),
            "encoder_ratio": round(statistics.mean(encoder), 4),
            "decoder_ratio": round(statistics.mean(decoder), 4),
        }
    return found


def padding(*, rows: int = 4000, group: int = 4) -> Figures:
    """Share of padded tokens in the forward passes of an epoch, lengths log-uniform from 10 to 8192 tokens."""
    random = np.random.default_rng(0)
    passages = np.exp(random.uniform(np.log(10), np.log(8192), (rows, group))).astype(np.int64)
    queries = random.integers(5, 33, rows)
    sizes = RowSizes(passages.max(1), queries + passages.max(1) * group, np.zeros(rows, dtype=np.int64))
    shares = {}
    for tokens, micro in ((65_536, 16_384), (16_384, 8_192)):
        real = padded = 0
        for batch in plan_epoch(sizes, Batching(tokens=tokens), least=2, seed=0, epoch=0):
            for lengths in (queries[batch], passages[batch].ravel()):
                real += int(lengths.sum())
                groups = pack(lengths.astype(np.int32), batch_tokens=micro)
                padded += sum(len(part) * int(lengths[part].max()) for part in groups)
        shares[f"tokens_{tokens}"] = round(1 - real / padded, 4)
    return shares


def losses(*, passages: int = 8, length: int = 8192, query_length: int = 64, dim: int = 128) -> Figures:
    """MiB that resident memory grows by at most, forward and backward, gradients of the inputs included."""
    generator = torch.Generator().manual_seed(0)

    def texts(count: int, tokens: int) -> Representations:
        ids = torch.randint(4, VOCABULARY, (count * tokens,), generator=generator)
        weights = torch.rand(len(ids), generator=generator).requires_grad_()
        rows = torch.nn.functional.normalize(torch.randn(len(ids), dim, generator=generator), dim=-1).requires_grad_()
        counts = torch.full((count,), tokens)
        return Representations(torch.zeros(count, 1), ids, weights, counts, rows, counts)

    q, p = texts(passages, query_length), texts(passages, length)
    grown = {}
    for name, score in (("sparse", lexical_scores), ("multi_vector", multi_vector_scores)):
        before = reset_peak()
        score(q, p).sum().backward()
        grown[f"{name}_mib"] = round(peak_mib() - before, 1)
    return grown


def main() -> None:
    """Measure and print."""
    figures = {"losses": losses(), "collation": collation(), "padding": padding()}
    Console(stderr=True).print(figures)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
