"""BM25 of the evaluation, under the name that this package has always used."""

from m3_vdb.evaluation.bm25 import BM25, tokenize

__all__ = ["BM25", "tokenize"]
