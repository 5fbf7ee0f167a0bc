"""Haystack's filters → those of m3-vdb (``m3_vdb.filters``), which the database evaluates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from m3_vdb.errors import ConfigError, MissingExtraError
from m3_vdb.filter_parser import parse_filter
from m3_vdb.imports import no_usage_data
from m3_vdb.types import Filter

try:
    with no_usage_data():
        from haystack.errors import FilterError
except ModuleNotFoundError as error:
    if (error.name or "").split(".")[0] != "haystack":
        raise
    raise MissingExtraError("m3_vdb.integrations.haystack", extra="haystack") from error

_LOGIC: Final = {"AND": "$and", "OR": "$or", "NOT": "$not"}
_EQUALITY: Final = {"==": "$eq", "!=": "$ne"}
_LISTS: Final = {"in": "$in", "not in": "$nin"}
_BOUNDS: Final = {">": "$gt", ">=": "$gte", "<": "$lt", "<=": "$lte"}
_EXACT: Final = 2**53
"""Integers up to here are exact as floats."""
EVERYTHING: Final[Filter] = {"meta": {"$nin": []}}
"""Matches every document."""


def to_filter(filters: Mapping[str, Any] | None) -> Filter | None:
    """A filter of Haystack as a filter of m3-vdb.

    ``meta.year`` is the payload's field ``year``. Values are compared by the rules of ``m3_vdb.filters``: equality
    compares dates as text, and a bool does not equal a number.

    Args:
        filters: a comparison (``{"field": "meta.year", "operator": ">=", "value": 2000}``) or a logic dictionary
            (``{"operator": "AND", "conditions": […]}``).

    Returns:
        None if there is no condition.

    Raises:
        FilterError: it is not a filter of Haystack, or it names a field that is not in ``meta``.
    """
    if not filters:
        return None
    translated = _translated(filters)
    try:
        parse_filter(translated)
    except ConfigError as error:
        raise FilterError(str(error)) from error
    return translated


def _translated(condition: object) -> Filter:
    if not isinstance(condition, Mapping) or "operator" not in condition:
        raise FilterError(f"expected a filter with the key 'operator', got {condition!r}")
    operator = condition["operator"]
    if "field" in condition:
        return _comparison(condition, operator)
    if operator not in _LOGIC or not isinstance(condition.get("conditions"), list) or not condition["conditions"]:
        raise FilterError(
            f"expected 'field', 'operator' and 'value', or 'operator' ({', '.join(_LOGIC)}) and 'conditions', a list "
            f"of at least one; got {dict(condition)!r}"
        )
    parts = [_translated(part) for part in condition["conditions"]]
    return {"$not": {"$and": parts}} if operator == "NOT" else {_LOGIC[operator]: parts}


def _comparison(condition: Mapping[str, Any], operator: object) -> Filter:
    if "value" not in condition:
        raise FilterError(f"expected a comparison with the key 'value', got {dict(condition)!r}")
    field, value = condition["field"], condition["value"]
    if not isinstance(field, str) or field in ("id", "content", "meta"):
        raise FilterError(f"field {field!r}: expected a field of meta, such as 'meta.language'")
    name = field.removeprefix("meta.")
    if operator in _EQUALITY and value is None:
        return {name: {"$exists": operator == "!="}}
    if operator in _EQUALITY and type(value) is not int:
        return {name: {_EQUALITY[operator]: value}}
    if operator in _EQUALITY:
        return {name: {_LISTS["in" if operator == "==" else "not in"]: _with_floats([value])}}
    if operator in _BOUNDS:
        return {name: [] if value is None else {_BOUNDS[operator]: value}}  # nothing is greater than null
    if operator not in _LISTS:
        expected = ", ".join((*_EQUALITY, *_BOUNDS, *_LISTS))
        raise FilterError(f"operator {operator!r}: expected one of {expected}")
    if not isinstance(value, list):
        raise FilterError(f"field {field!r}: {operator!r} expects a list, got {value!r}")
    return {name: {_LISTS[operator]: _with_floats(value)}}


def _with_floats(values: list[Any]) -> list[Any]:
    """The values, and each int as a float, too: in Haystack 2 equals 2.0, in m3-vdb a float equals both."""
    return values + [float(value) for value in values if type(value) is int and abs(value) <= _EXACT]
