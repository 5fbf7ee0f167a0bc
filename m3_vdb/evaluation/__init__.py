"""Retrieval quality of a model and a store, measured as it is served; see ``evaluate``.

Readers for the field's collections (``open_collections``), the five modes by the paper's protocol, BM25 for comparison,
intervals, tuned weights, and a report. Needs the extra ``eval``.
"""

from m3_vdb.evaluation.collection import Collection, Query, subsample
from m3_vdb.evaluation.datasets import open_collections
from m3_vdb.evaluation.evaluate import evaluate
from m3_vdb.evaluation.protocol import MODES, PROTOCOLS, Mode, Protocol
from m3_vdb.evaluation.results import Evaluation

__all__ = [
    "MODES",
    "PROTOCOLS",
    "Collection",
    "Evaluation",
    "Mode",
    "Protocol",
    "Query",
    "evaluate",
    "open_collections",
    "subsample",
]
