"""From files into a collection: readers make documents, the pipeline encodes and stores them."""

from m3_vdb.ingest.pipeline import IngestReport, Progress, ingest
from m3_vdb.ingest.readers import Rejected, read_jsonl

__all__ = ["IngestReport", "Progress", "Rejected", "ingest", "read_jsonl"]
