"""Fields of protobuf messages as bytes, for those whose content is an array's own memory.

A ``repeated float`` travels packed: the tag of the field, its length in bytes, then the numbers as little-endian
float32, which is what an array holds already. Both stores' clients would make a Python number of each.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

_LENGTH_DELIMITED: Final = 2
"""Protobuf's wire type of messages, strings and packed numbers: a length, then so many bytes."""


def floats(numbers: Any) -> NDArray[np.float32]:  # noqa: ANN401 - an array, or a list
    """Numbers as they are packed: contiguous, little-endian float32."""
    return np.ascontiguousarray(numbers, "<f4")


def field(message: Any, name: str, content: bytes) -> bytes:  # noqa: ANN401 - a class of messages
    """A field of a message, with its content."""
    return head(message, name, len(content)) + content


def head(message: Any, name: str, size: int) -> bytes:  # noqa: ANN401 - a class of messages
    """What stands before the content of a field, of so many bytes."""
    return _head(message.DESCRIPTOR.fields_by_name[name].number, size)


def entry(key: str, value: bytes) -> bytes:
    """An entry of a map: a message of its key (1) and its value (2)."""
    name = key.encode()
    return _head(1, len(name)) + name + _head(2, len(value)) + value


def _head(number: int, size: int) -> bytes:
    return _varint(number << 3 | _LENGTH_DELIMITED) + _varint(size)


def _varint(number: int) -> bytes:
    """Seven bits per byte, the lowest first; all bytes but the last have the highest bit."""
    digits = bytearray()
    while number > 127:
        digits.append(number & 127 | 128)
        number >>= 7
    digits.append(number)
    return bytes(digits)
