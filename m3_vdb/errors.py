"""The errors that m3-vdb raises.

A message says what was given, what was expected, and what to do. Errors of runtimes and databases are translated into
these; any other exception that reaches you is a bug.

    M3Error
    ├── ItemError                       one item of many caused it; ``index`` says which
    │   ├── InputError (ValueError)     a text or document is unusable
    │   │   ├── TextError               not a string, or not encodable as UTF-8
    │   │   ├── TruncationError         longer than the maximum, and ``on_truncate="error"``
    │   │   └── DocumentError           a document that cannot be stored, or an invalid id
    │   └── ModelOutputError            the model returned NaN or infinity for a text
    ├── ConfigError (ValueError)        an argument or option out of range
    ├── MissingExtraError (ImportError) an optional package is needed; the message is the install command
    ├── BundleError                     a model on disk is missing, incomplete or damaged
    ├── EngineError                     a cluster or one of its workers failed
    ├── BusyError                       too many requests wait to be encoded
    └── StoreError
        ├── StoreUrlError (ValueError)  unrecognised store URL
        ├── StoreConnectionError        the database did not answer
        ├── StoreRequestError           the database refused a request
        ├── CollectionNotFoundError     the collection does not exist, and ``create=False``
        └── CollectionMismatchError     the collection belongs to another model

All of them can be pickled, so they pass from a pool of processes to the caller.
"""

from __future__ import annotations

import re
from typing import Any, TypeVar

Item = TypeVar("Item", bound="ItemError")


class M3Error(Exception):
    """Base of every error raised by m3-vdb."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickled, (type(self), self.args, self.__dict__)


def _unpickled(kind: type[M3Error], args: tuple[object, ...], attributes: dict[str, object]) -> M3Error:
    """An error as it was raised, without calling its constructor, which would build the message again."""
    error = kind.__new__(kind)
    super(M3Error, error).__init__(*args)  # of ValueError, ImportError, …
    error.__dict__.update(attributes)
    return error


class ItemError(M3Error):
    """One item of many caused the error.

    Attributes:
        index: position of the item in the input, from 0.
    """

    def __init__(self, message: str, *, index: int) -> None:
        super().__init__(message)
        self.index = index

    def at(self: Item, index: int) -> Item:
        """The same error with another position, for callers that pass items on in batches.

        Args:
            index: the item's position in the whole input, from 0.
        """
        message = re.sub(rf"\b(item|document) {self.index}\b", rf"\g<1> {index}", str(self), count=1)
        return type(self)(message, index=index)


class InputError(ItemError, ValueError):
    """One input item is unusable."""


class TextError(InputError):
    """An item is not a string, or contains lone surrogates, which no tokenizer can read."""


class TruncationError(InputError):
    """A text has more tokens than allowed, and ``on_truncate="error"`` is set."""


class DocumentError(InputError):
    """A document cannot be stored: invalid id, invalid payload, or vectors that do not fit the collection."""


class ConfigError(M3Error, ValueError):
    """An argument is out of range; the message lists what is allowed."""


class MissingExtraError(M3Error, ImportError):
    """An optional package is not installed.

    Args:
        feature: what needs the package, such as "runtime='openvino'".
        extra: the extra of m3-vdb that installs it.
    """

    def __init__(self, feature: str, *, extra: str) -> None:
        super().__init__(f"{feature} needs packages that are not installed: pip install 'm3-vdb[{extra}]'")
        self.extra = extra


class BundleError(M3Error):
    """A model bundle is missing, incomplete, damaged, or has an unknown format."""


class ModelOutputError(ItemError):
    """The model returned NaN or infinity for a text."""


class EngineError(M3Error):
    """A cluster that encodes failed, or one of its workers did, and no document caused it."""


class BusyError(M3Error):
    """Too many requests wait to be encoded; a retry may succeed.

    Attributes:
        retry_after: seconds to wait before a retry; None if not known.
    """

    def __init__(self, message: str = "", *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class StoreError(M3Error):
    """Base of all errors of vector stores."""


class StoreUrlError(StoreError, ValueError):
    """Unrecognised store URL."""


class StoreConnectionError(StoreError):
    """The database did not answer in time.

    Attributes:
        retry_after: seconds to wait before a retry; None if not known.
    """

    def __init__(self, message: str = "", *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class StoreRequestError(StoreError):
    """The database refused a request; its message is part of ours.

    Attributes:
        status: HTTP status, None if there is none; after 429 and 5xx a retry may succeed.
        retry_after: seconds to wait before a retry; None if the database did not say.
    """

    def __init__(self, message: str = "", *, status: int | None = None, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after


class CollectionNotFoundError(StoreError):
    """The collection does not exist, and ``create=False``."""


class CollectionMismatchError(StoreError):
    """The collection was written with another model or other dimensions."""
