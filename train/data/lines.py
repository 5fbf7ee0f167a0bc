"""JSONL, line by line, with errors that name file and line: for rows, passages and texts alike.

Reading is the library's own; here is what only training rows have.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from m3_vdb.evaluation.files import check_strings, strings
from m3_vdb.jsonl import parse_object, read_lines, read_objects

__all__ = ["check_strings", "dataset_of", "parse_object", "read_lines", "read_objects", "strings"]


def dataset_of(fields: Mapping[str, Any]) -> str:
    """Name of a row's data set, from ``source``, ``lang`` and, if it has one, ``topic``: "/" if it has none of them."""
    name = f"{fields.get('source') or ''}/{fields.get('lang') or ''}"
    return name if fields.get("topic") is None else f"{name}/{fields['topic']}"
