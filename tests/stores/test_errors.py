"""From the clients' errors to ours: which class, which status, which pause, and in whose words."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from email.utils import format_datetime

import grpc
import httpx
import pytest
from pydantic import BaseModel, ValidationError
from pymilvus import exceptions as milvus_exceptions
from pymilvus.exceptions import MilvusException
from qdrant_client.common import client_exceptions
from qdrant_client.common.client_exceptions import ResourceExhaustedResponse
from qdrant_client.http import exceptions as http_exceptions
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

from m3_vdb.errors import StoreConnectionError, StoreRequestError
from m3_vdb.stores.milvus.client import mapped_errors as milvus_errors
from m3_vdb.stores.qdrant.client import mapped_errors as qdrant_errors
from m3_vdb.stores.refusals import seconds_to_wait

CODES = grpc.StatusCode


class Call(grpc.RpcError, grpc.Call):
    """An error of gRPC with a code."""

    def __init__(self, code):
        self._code = code

    def code(self):
        return self._code


for _name in grpc.Call.__abstractmethods__ - {"code"}:
    setattr(Call, _name, lambda self, *_: None)
Call.__abstractmethods__ = frozenset()


def validation_error():
    class Number(BaseModel):
        x: int

    try:
        Number.model_validate({"x": "no"})
    except ValidationError as error:
        return error


def milvus(code, message="in its own words"):
    return MilvusException(code=code, message=message)


def answer(status, content=b""):
    return UnexpectedResponse(status, "", content, httpx.Headers())


NO_ANSWER = {  # (which client, error, words of the message)
    "refused": (qdrant_errors, ResponseHandlingException(httpx.ConnectError("refused")), "refused"),
    "timeout": (qdrant_errors, ResponseHandlingException(httpx.ReadTimeout("timed out")), "timed out"),
    "hung up": (
        qdrant_errors,
        ResponseHandlingException(httpx.ReadError("[Errno 104] Connection reset by peer")),
        r"is the server running there, and if it speaks TLS, does the URL begin with qdrant\+https://\?$",
    ),
    "certificate": (
        qdrant_errors,
        ResponseHandlingException(httpx.ConnectError("[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed")),
        "certificate is not trusted here: name the file of the authority that signed it in SSL_CERT_FILE",
    ),
    "grpc unavailable": (qdrant_errors, Call(CODES.UNAVAILABLE), "UNAVAILABLE"),
    "grpc deadline": (qdrant_errors, Call(CODES.DEADLINE_EXCEEDED), "DEADLINE"),
    "milvus connect": (milvus_errors, milvus(2, "Fail connecting"), "Fail connecting"),
    "milvus retried": (milvus_errors, milvus(CODES.UNAVAILABLE, "retried"), "retried"),
    "milvus grpc": (milvus_errors, Call(CODES.UNAVAILABLE), "UNAVAILABLE"),
    "milvus deadline": (milvus_errors, Call(CODES.DEADLINE_EXCEEDED), "DEADLINE"),
    "milvus future": (milvus_errors, grpc.FutureTimeoutError(), "in time"),
}
REFUSALS = {  # (which client, error, words of the message, status, pause)
    "validation": (qdrant_errors, ResponseHandlingException(validation_error()), "not Qdrant's", None, None),
    "key": (qdrant_errors, answer(401, b"Must provide an API key"), "API key.*QDRANT_API_KEY", 401, None),
    "gateway": (qdrant_errors, answer(502, b"<html>"), "502", 502, None),
    "exhausted": (qdrant_errors, ResourceExhaustedResponse("too many", 3), "too many", 429, 3),
    "grpc argument": (qdrant_errors, Call(CODES.INVALID_ARGUMENT), "refused", 400, None),
    "milvus rate": (milvus_errors, milvus(8), "in its own words", 429, None),
    "milvus queue": (milvus_errors, milvus(4), "in its own words", 429, None),
    "milvus resources": (milvus_errors, milvus(12), "in its own words", 503, None),
    "milvus collection": (milvus_errors, milvus(100), "in its own words", 404, None),
    "milvus parameter": (milvus_errors, milvus(1100), "in its own words", 400, None),
    "milvus quota": (milvus_errors, milvus(9), "in its own words", None, None),
    "pymilvus itself": (milvus_errors, milvus(1), "in its own words", None, None),
    "milvus unknown": (milvus_errors, milvus(CODES.UNKNOWN), "in its own words", 500, None),
    "milvus busy": (milvus_errors, milvus(CODES.RESOURCE_EXHAUSTED), "in its own words", 429, None),
    "milvus large": (milvus_errors, milvus(CODES.RESOURCE_EXHAUSTED, "larger than max"), "than max", 413, None),
    "milvus internal": (milvus_errors, Call(CODES.INTERNAL), "refused", 500, None),
    "milvus key": (milvus_errors, Call(CODES.UNAUTHENTICATED), "MILVUS_TOKEN", 401, None),
}  # fmt: skip


@pytest.mark.parametrize(("mapped", "raised", "words"), NO_ANSWER.values(), ids=NO_ANSWER)
def test_no_answer_is_a_connection_error(mapped, raised, words):
    with pytest.raises(StoreConnectionError, match=words) as caught, mapped("collection 'c'"):
        raise raised
    assert str(caught.value).startswith("collection 'c': no answer")
    assert caught.value.__cause__ is raised


@pytest.mark.parametrize(("mapped", "raised", "words", "status", "wait"), REFUSALS.values(), ids=REFUSALS)
def test_a_refusal_keeps_its_words_its_status_and_its_pause(mapped, raised, words, status, wait):
    with pytest.raises(StoreRequestError, match=words) as caught, mapped("collection 'c'"):
        raise raised
    assert str(caught.value).startswith("collection 'c': ")
    assert (caught.value.status, caught.value.retry_after) == (status, wait)
    assert caught.value.__cause__ is raised


def classes_of(*modules):
    """Error classes that modules hold, by name."""
    return {
        name: value
        for module in modules
        for name, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, Exception)
    }


def test_the_maps_know_every_error_of_the_clients():
    """A new class fails here and not at a user's."""
    assert classes_of(client_exceptions, http_exceptions).keys() == {
        "ApiException", "UnexpectedResponse", "ResponseHandlingException", "QdrantException",
        "ResourceExhaustedResponse",
    }  # fmt: skip
    for name, error in classes_of(milvus_exceptions).items():
        assert issubclass(error, MilvusException)
        expected = StoreConnectionError if "Connect" in name or "Unavailable" in name else StoreRequestError
        with pytest.raises(expected, match="in its own words"), milvus_errors("c"):
            raise error(message="in its own words")


@pytest.mark.skipif(
    not hasattr(MilvusException, "retriable"), reason="pymilvus 2 does not hand on what the server says"
)
def test_what_the_milvus_server_says_of_its_error_counts():
    for known, status in (({"retriable": True}, 503), ({"is_input_error": True}, 400)):
        with pytest.raises(StoreRequestError) as caught, milvus_errors("c"):
            raise MilvusException(code=2000, message="segcore", **known)
        assert caught.value.status == status


@pytest.mark.parametrize("mapped", [qdrant_errors, milvus_errors])
@pytest.mark.parametrize("bug", [RuntimeError("a bug"), KeyError("a bug")], ids=repr)
def test_other_errors_pass(mapped, bug):
    with pytest.raises(type(bug), match="a bug"), mapped("c"):
        raise bug


def test_a_date_to_come_is_waited_for():
    soon = datetime.now(timezone.utc) + timedelta(seconds=90)
    assert 80 < seconds_to_wait(format_datetime(soon)) <= 90
    assert 80 < seconds_to_wait(format_datetime(soon.replace(tzinfo=None))) <= 90
