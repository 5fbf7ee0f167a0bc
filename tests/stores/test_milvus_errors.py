"""The map from pymilvus' errors to ours, and that it knows them all."""

from __future__ import annotations

import grpc
import pytest
from pymilvus import exceptions
from pymilvus.exceptions import MilvusException

from m3_vdb.errors import StoreConnectionError, StoreRequestError
from m3_vdb.stores._milvus_errors import mapped_errors

UNREACHABLE = {
    "ConnectError",
    "ConnectionConfigException",
    "ConnectionNotExistException",
    "MilvusUnavailableException",
}
REFUSED = {
    "AmbiguousIndexName",
    "AutoIDException",
    "CannotInferSchemaException",
    "ClusteringKeyException",
    "CollectionNotExistException",
    "DataNotMatchException",
    "DataTypeNotMatchException",
    "DataTypeNotSupportException",
    "DescribeCollectionException",
    "FieldTypeException",
    "FieldsTypeException",
    "FunctionsTypeException",
    "IndexNotExistException",
    "InvalidConsistencyLevel",
    "MilvusException",
    "ParamError",
    "PartitionAlreadyExistException",
    "PartitionKeyException",
    "PrimaryKeyException",
    "SchemaMismatchRetryableException",
    "SchemaNotReadyException",
    "ServerVersionIncompatibleException",
}


class _Call(grpc.RpcError, grpc.Call):
    def __init__(self, code):
        self._code = code

    def code(self):
        return self._code


for _name in grpc.Call.__abstractmethods__ - {"code"}:
    setattr(_Call, _name, lambda self, *_: None)
_Call.__abstractmethods__ = frozenset()


def test_the_map_knows_every_error_of_the_client():
    """A new class in pymilvus fails here and not at a user's."""
    found = {
        name for name, value in vars(exceptions).items() if isinstance(value, type) and issubclass(value, Exception)
    }
    assert found <= UNREACHABLE | REFUSED
    assert all(issubclass(getattr(exceptions, name), MilvusException) for name in found)


@pytest.mark.parametrize("name", sorted(name for name in UNREACHABLE | REFUSED if hasattr(exceptions, name)))
def test_every_class_becomes_one_of_ours(name):
    raised = getattr(exceptions, name)(message="in its own words")
    expected = StoreConnectionError if name in UNREACHABLE else StoreRequestError
    with pytest.raises(expected, match="in its own words") as caught, mapped_errors("Milvus collection 'c'"):
        raise raised
    assert "Milvus collection 'c'" in str(caught.value)
    assert caught.value.__cause__ is raised


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (MilvusException(code=2, message="Fail connecting"), StoreConnectionError),
        (MilvusException(code=grpc.StatusCode.UNAVAILABLE, message="retried"), StoreConnectionError),
        (MilvusException(code=grpc.StatusCode.UNKNOWN, message="retried"), StoreRequestError),
        (MilvusException(code=1100, message="invalid parameter"), StoreRequestError),
        (_Call(grpc.StatusCode.UNAVAILABLE), StoreConnectionError),
        (_Call(grpc.StatusCode.DEADLINE_EXCEEDED), StoreConnectionError),
        (_Call(grpc.StatusCode.INVALID_ARGUMENT), StoreRequestError),
        (grpc.FutureTimeoutError(), StoreConnectionError),
    ],
    ids=str,
)
def test_codes_decide_what_the_class_does_not(raised, expected):
    with pytest.raises(expected) as caught, mapped_errors("Milvus collection 'c'"):
        raise raised
    assert type(caught.value) is expected


def test_a_rate_limit_may_be_tried_again():
    with pytest.raises(StoreRequestError) as caught, mapped_errors("Milvus collection 'c'"):
        raise MilvusException(code=8, message="rate limit exceeded")
    assert caught.value.status == 429


def test_what_is_no_error_of_the_client_passes():
    with pytest.raises(KeyError), mapped_errors("Milvus collection 'c'"):
        raise KeyError("a bug")
