"""From files, or a collection of a database, into a collection: readers make rows, the pipeline stores them."""

from m3_vdb.ingest.collections import SourceCollection, SourceFields
from m3_vdb.ingest.comparing import MeasuredModel, ModelComparison
from m3_vdb.ingest.corpus import FORMATS, Corpus
from m3_vdb.ingest.migrating import MigrationReport, async_migrate, cancel_migration, drop_old, migrate
from m3_vdb.ingest.pipeline import async_ingest, ingest
from m3_vdb.ingest.plan import SyncPlan
from m3_vdb.ingest.ray_engine import RayEngine
from m3_vdb.ingest.readers import read_jsonl
from m3_vdb.ingest.report import EncoderTime, IngestReport, Progress
from m3_vdb.ingest.rows import Fields, Rejected, Row
from m3_vdb.ingest.syncing import SyncReport, async_sync, sync
from m3_vdb.retry import Retry

__all__ = [
    "FORMATS",
    "Corpus",
    "EncoderTime",
    "Fields",
    "IngestReport",
    "MeasuredModel",
    "MigrationReport",
    "ModelComparison",
    "Progress",
    "RayEngine",
    "Rejected",
    "Retry",
    "Row",
    "SourceCollection",
    "SourceFields",
    "SyncPlan",
    "SyncReport",
    "async_ingest",
    "async_migrate",
    "async_sync",
    "cancel_migration",
    "drop_old",
    "ingest",
    "migrate",
    "read_jsonl",
    "sync",
]
