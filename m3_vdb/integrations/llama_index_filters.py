"""LlamaIndex's metadata filters as filters of m3-vdb."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from llama_index.core.vector_stores.types import FilterCondition, FilterOperator, MetadataFilter, MetadataFilters

from m3_vdb.errors import ConfigError
from m3_vdb.types import Filter

_OPERATORS: Final[dict[FilterOperator, Callable[[str, Any], Filter]]] = {
    FilterOperator.EQ: lambda key, value: {key: {"$eq": value}},
    FilterOperator.NE: lambda key, value: {key: {"$ne": value}},
    FilterOperator.GT: lambda key, value: {key: {"$gt": value}},
    FilterOperator.GTE: lambda key, value: {key: {"$gte": value}},
    FilterOperator.LT: lambda key, value: {key: {"$lt": value}},
    FilterOperator.LTE: lambda key, value: {key: {"$lte": value}},
    FilterOperator.IN: lambda key, values: {key: {"$in": values}},
    FilterOperator.NIN: lambda key, values: {key: {"$nin": values}},
    FilterOperator.ANY: lambda key, values: {key: {"$in": values}},
    FilterOperator.ALL: lambda key, values: {"$and": [{key: {"$eq": value}} for value in values]},
    FilterOperator.CONTAINS: lambda key, value: {key: {"$eq": value}},  # a list matches if one of its elements does
    FilterOperator.IS_EMPTY: lambda key, _: {key: {"$exists": False}},
}


def to_filter(filters: MetadataFilters | MetadataFilter | None) -> Filter | None:
    """The filter with the same meaning (``m3_vdb.filters``); None if there is no condition.

    Raises:
        ConfigError: an operator that the stores do not have: a search inside a text.
    """
    if filters is None:
        return None
    if isinstance(filters, MetadataFilter):
        if filters.operator not in _OPERATORS:
            known = ", ".join(operator.value for operator in _OPERATORS)
            raise ConfigError(f"filter {filters.key!r}: operator {filters.operator.value}: expected one of {known}")
        return _OPERATORS[filters.operator](filters.key, filters.value)
    parts = [part for part in map(to_filter, filters.filters) if part is not None]
    if not parts:
        return None
    if filters.condition is FilterCondition.NOT:
        return {"$not": {"$or": parts}}
    return {"$or" if filters.condition is FilterCondition.OR else "$and": parts}
