"""Every error that m3-vdb raises on purpose.

A message says what was given, what was expected and what to do next. Errors of the libraries underneath are mapped
to these in one place each (session, stores); anything else that escapes is a bug.

    M3Error
    ├── ItemError                       one item of many is to blame; ``index`` names it
    │   ├── InputError (ValueError)     a text or document is unusable
    │   │   ├── TextError               not a string, or not encodable as UTF-8
    │   │   ├── TruncationError         longer than the maximum, and ``on_truncate="error"``
    │   │   └── DocumentError           a document that a store cannot hold, or an id that is none
    │   └── ModelOutputError            the model returned NaN or infinity for a text
    ├── ConfigError (ValueError)        an argument or option out of range
    ├── MissingExtraError (ImportError) an optional package is needed; the message is the install command
    ├── BundleError                     a model on disk is missing, incomplete or damaged
    ├── EngineError                     a cluster, or a worker of it, failed
    └── StoreError
        ├── StoreUrlError (ValueError)  the store URL cannot be understood
        ├── StoreConnectionError        the database did not answer
        ├── StoreRequestError           the database refused a request
        ├── CollectionNotFoundError     there is no such collection, and none may be made
        └── CollectionMismatchError     the collection belongs to another model

All of them survive pickling, whatever the arguments of their constructors: one that could not be read in the process
that waits for it would leave a pool hanging.
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
    """An error as it was raised; its own constructor, which makes the message, is not called again."""
    error = kind.__new__(kind)
    super(M3Error, error).__init__(*args)  # of ValueError, ImportError, …
    error.__dict__.update(attributes)
    return error


class ItemError(M3Error):
    """One item of many is to blame.

    Attributes:
        index: position of the item among those that were given, from 0.
    """

    def __init__(self, message: str, *, index: int) -> None:
        super().__init__(message)
        self.index = index

    def at(self: Item, index: int) -> Item:
        """The same error about the item at another position, for those who hand items on in batches."""
        message = re.sub(rf"\b(item|document) {self.index}\b", rf"\g<1> {index}", str(self), count=1)
        return type(self)(message, index=index)


class InputError(ItemError, ValueError):
    """One input item is unusable."""


class TextError(InputError):
    """An item is not a string, or holds code points that no tokenizer can read (lone surrogates)."""


class TruncationError(InputError):
    """A text has more tokens than allowed and ``on_truncate="error"`` was asked for."""


class DocumentError(InputError):
    """A document cannot be stored: bad id, bad payload, or vectors that do not fit the collection."""


class ConfigError(M3Error, ValueError):
    """An argument is out of range; the message lists what is allowed."""


class MissingExtraError(M3Error, ImportError):
    """An optional package is not installed.

    Args:
        feature: what was asked for, in the user's words.
        extra: the extra of m3-vdb that brings the package.
    """

    def __init__(self, feature: str, *, extra: str) -> None:
        super().__init__(f"{feature} needs packages that are not installed: pip install 'm3-vdb[{extra}]'")
        self.extra = extra


class BundleError(M3Error):
    """A model bundle is missing, incomplete, damaged or of an unknown format."""


class ModelOutputError(ItemError):
    """The model returned a value that is not finite for a text."""


class EngineError(M3Error):
    """A cluster that encodes failed as a whole, or a worker of it in a way that no document is to blame for."""


class StoreError(M3Error):
    """Base of everything that goes wrong at a vector store."""


class StoreUrlError(StoreError, ValueError):
    """The store URL names no store that m3-vdb knows."""


class StoreConnectionError(StoreError):
    """The database did not answer, or not in time.

    Attributes:
        retry_after: seconds after which to ask again, if it is known.
    """

    def __init__(self, message: str = "", *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class StoreRequestError(StoreError):
    """The database answered with a refusal; its own words are in the message.

    Attributes:
        status: the HTTP status of the refusal, if it has one; 429 and 5xx may pass when asked again.
        retry_after: seconds after which to ask again, if the database said so.
    """

    def __init__(self, message: str = "", *, status: int | None = None, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after


class CollectionNotFoundError(StoreError):
    """The collection does not exist and the call may not create it."""


class CollectionMismatchError(StoreError):
    """The collection was written with another model, or with other dimensions."""
