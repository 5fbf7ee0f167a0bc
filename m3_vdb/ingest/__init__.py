"""From files into a collection: readers make rows, the pipeline encodes and stores them."""

from m3_vdb.ingest.asynchronous import async_ingest
from m3_vdb.ingest.backfill import backfill
from m3_vdb.ingest.collections import SourceCollection, SourceFields
from m3_vdb.ingest.corpus import FORMATS, Corpus
from m3_vdb.ingest.pipeline import ingest
from m3_vdb.ingest.ray_engine import RayEngine
from m3_vdb.ingest.readers import read_jsonl
from m3_vdb.ingest.report import EncoderTime, IngestReport, Progress
from m3_vdb.ingest.retry import Retry
from m3_vdb.ingest.rows import Fields, Rejected, Row

__all__ = [
    "FORMATS",
    "Corpus",
    "EncoderTime",
    "Fields",
    "IngestReport",
    "Progress",
    "RayEngine",
    "Rejected",
    "Retry",
    "Row",
    "SourceCollection",
    "SourceFields",
    "async_ingest",
    "backfill",
    "ingest",
    "read_jsonl",
]
