"""Random requests by the OpenAPI document: every answer is one that the document promises."""

from __future__ import annotations

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import CheckFunction
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from m3_vdb import HybridIndex, open_store
from m3_vdb.serve.service import Service
from tests.integrations._server import Running, fake_embed, serving

pytestmark = pytest.mark.integration
CHECKS: list[CheckFunction] = [
    schemathesis.checks.not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]


@pytest.fixture(scope="module")
def server():
    embed = fake_embed()
    store = open_store("memory://", embed)
    HybridIndex(embed, store).add([{"id": "1", "text": "the vector search", "lang": "en"}])
    with serving(Service(embed, store, allow_writing=True)) as running:
        yield running


def test_answers_keep_the_promises_of_the_document(server: Running):
    operations = [one.ok() for one in schemathesis.openapi.from_url(f"{server.url}/openapi.json").get_all_operations()]
    assert len(operations) == 16
    with requests.Session() as session:
        for operation in operations:
            valid, invalid = (operation.as_strategy(mode) for mode in GenerationMode)

            @given(valid | invalid)
            @settings(max_examples=60, suppress_health_check=list(HealthCheck))
            def ask(case) -> None:
                answer = case.call(session=session, timeout=20)
                case.validate_response(answer, checks=CHECKS)
                assert "Traceback" not in answer.text

            ask()
