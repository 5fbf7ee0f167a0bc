"""The map from pymilvus' errors to ours, and that it knows them all."""

from __future__ import annotations

import grpc
import pytest
from pymilvus import exceptions
from pymilvus.exceptions import MilvusException

from m3_vdb.errors import StoreConnectionError, StoreRequestError
from m3_vdb.stores.milvus.client import mapped_errors

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


@pytest.mark.parametrize(
    ("raised", "status"),
    [
        (MilvusException(code=8, message="rate limit exceeded"), 429),
        (MilvusException(code=4, message="too many concurrent requests, queue is full"), 429),
        (MilvusException(code=12, message="service resource insufficient"), 503),
        (MilvusException(code=100, message="collection not found"), 404),
        (MilvusException(code=1100, message="invalid parameter"), 400),
        (MilvusException(code=9, message="quota exceeded"), None),
        (MilvusException(code=1, message="what pymilvus says itself"), None),
        (MilvusException(code=grpc.StatusCode.RESOURCE_EXHAUSTED, message="busy"), 429),
        (MilvusException(code=grpc.StatusCode.RESOURCE_EXHAUSTED, message="received message larger than max"), 413),
        (_Call(grpc.StatusCode.INTERNAL), 500),
        (_Call(grpc.StatusCode.UNAUTHENTICATED), 401),
    ],
    ids=str,
)
def test_a_refusal_carries_its_status(raised, status):
    with pytest.raises(StoreRequestError) as caught, mapped_errors("Milvus collection 'c'"):
        raise raised
    assert (caught.value.status, caught.value.retry_after) == (status, None)


@pytest.mark.skipif(
    not hasattr(MilvusException, "retriable"), reason="pymilvus 2 does not hand on what the server says"
)
def test_what_the_server_says_of_its_error_counts():
    for known, status in (({"retriable": True}, 503), ({"is_input_error": True}, 400)):
        with pytest.raises(StoreRequestError) as caught, mapped_errors("Milvus collection 'c'"):
            raise MilvusException(code=2000, message="segcore", **known)
        assert caught.value.status == status


def test_what_is_no_error_of_the_client_passes():
    with pytest.raises(KeyError), mapped_errors("Milvus collection 'c'"):
        raise KeyError("a bug")
