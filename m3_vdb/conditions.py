"""Conditions as people type them, ``--filter lang=de``: text → a filter (``m3_vdb.filters``)."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, Final

from m3_vdb.errors import ConfigError
from m3_vdb.filter_parser import LIST_OPERATORS, SIGNS, TEXT
from m3_vdb.types import Filter

_CONDITION: Final = re.compile(r"(?P<field>[^=<>!]+)(?P<sign>==|!=|[<>]=?|=)(?P<value>.*)", re.DOTALL)
"""A field with one of these characters in its name needs the JSON form."""
_WORDS: Final[dict[str, bool | None]] = {"true": True, "false": False, "null": None, "none": None}


def parse_conditions(texts: Sequence[str], *, name: str = "--filter") -> Filter | None:
    """Read conditions that must all hold as one filter.

    Args:
        texts: FIELD=VALUE (any of them if a field is repeated), FIELD!=VALUE, FIELD>NUMBER, >=, <, <= (or a date), or a
            filter as JSON, or $text=WORDS. Spaces around field and value are ignored, and ``==`` means ``=``. JSON
            numbers, lists, objects, true, false and null (also True, None) are read as such; any other value is text,
            as is a value in quotes ("2004").
        name: where the conditions were given, for messages.

    Returns:
        The filter, None without conditions.

    Raises:
        ConfigError: a condition has none of these forms.
    """
    conditions: dict[str, dict[str, Any]] = {}
    filters: list[Filter] = []
    for text in texts:
        if text.lstrip().startswith("{"):
            filters.append(_json(f"{name} {text!r}", text))
            continue
        parts = _CONDITION.fullmatch(text.strip())
        if parts is None or not parts["field"].strip():
            raise ConfigError(f"{name} {text!r}: expected FIELD=VALUE, FIELD!=VALUE, FIELD>=NUMBER or a JSON object")
        if parts["field"].strip() == TEXT and parts["sign"] == "=":
            filters.append({TEXT: parts["value"].strip()})
            continue
        field, sign, value = (
            parts["field"].strip(),
            parts["sign"],
            parse_value(f"{name} {text!r}", parts["value"].strip()),
        )
        operator = LIST_OPERATORS.get(SIGNS[sign], SIGNS[sign])
        if isinstance(value, dict) and operator == "$in":
            filters.append({field: value})
            continue
        on_field = conditions.setdefault(field, {})
        if operator in LIST_OPERATORS.values():
            on_field.setdefault(operator, []).extend(value if isinstance(value, list) else [value])
        elif operator in on_field:
            raise ConfigError(f"{name} {text!r}: {field} has a bound {sign} already")
        else:
            on_field[operator] = value
    filters += [conditions] if conditions else []
    return filters[0] if len(filters) == 1 else {"$and": filters} if filters else None


def parse_value(condition: str, text: str) -> Any:  # noqa: ANN401 - a JSON value
    """A value as people type it: JSON, true, null, or text.

    Args:
        condition: where it was given, for messages.
        text: the value.

    Raises:
        ConfigError: it begins like JSON and is not.
    """
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    if len(text) > 1 and text[0] == text[-1] == "'":
        return text[1:-1]
    if text[:1] in ("[", "{", '"'):
        hint = '; a list is written ["de", "en"], and text that begins like JSON in quotes'
        return _json(condition, text, hint=hint)
    if text[:1] in ("=", "<", ">", "!"):
        raise ConfigError(
            f"{condition}: expected one of {' '.join(SIGNS)} and a value; put a value that begins with {text[0]} in "
            f"double quotes"
        )
    try:
        return json.loads(text, parse_constant=str)
    except ValueError:
        return text


def _json(condition: str, text: str, *, hint: str = "") -> Any:  # noqa: ANN401 - a JSON value
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{condition}: not JSON: {error}{hint}") from None
