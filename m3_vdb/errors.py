"""Every error that m3-vdb raises on purpose.

A message says what was given, what was expected and what to do next. Errors of the libraries underneath are mapped
to these in one place each (session, stores); anything else that escapes is a bug.

    M3Error
    ├── InputError (ValueError)         one text or document is unusable; ``index`` names it
    │   ├── TextError                   not a string, or not encodable as UTF-8
    │   ├── TruncationError             longer than the maximum, and ``on_truncate="error"``
    │   └── DocumentError               a document that a store cannot hold
    ├── ConfigError (ValueError)        an argument or option out of range
    ├── MissingExtraError (ImportError) an optional package is needed; the message is the install command
    ├── BundleError                     a model on disk is missing, incomplete or damaged
    ├── ModelOutputError                the model returned NaN or infinity; ``index`` names the text
    ├── EngineError                     a cluster, or a worker of it, failed
    └── StoreError
        ├── StoreUrlError (ValueError)  the store URL cannot be understood
        ├── StoreConnectionError        the database did not answer
        ├── StoreRequestError           the database refused a request
        ├── CollectionNotFoundError     there is no such collection, and none may be made
        └── CollectionMismatchError     the collection belongs to another model
"""

from __future__ import annotations


class M3Error(Exception):
    """Base of every error raised by m3-vdb."""


class InputError(M3Error, ValueError):
    """One input item is unusable.

    Attributes:
        index: position of the item in the sequence that was given, from 0.
    """

    def __init__(self, message: str, *, index: int) -> None:
        super().__init__(message)
        self.index = index


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


class ModelOutputError(M3Error):
    """The model returned a value that is not finite.

    Attributes:
        index: position of the text in the sequence that was given, from 0.
    """

    def __init__(self, message: str, *, index: int) -> None:
        super().__init__(message)
        self.index = index


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
