"""The request of every mode, and what a protocol refuses."""

from __future__ import annotations

import pytest

from m3_vdb.errors import ConfigError
from m3_vdb.evaluation.protocol import MODES, PARTS, PROTOCOLS, WEIGHTED, Protocol, Request
from m3_vdb.weights import Weights

PAPER = {
    "dense": Request(Weights(1, 0, 0), "dense", 100, 100),
    "sparse": Request(Weights(0, 1, 0), "sparse", 100, 100),
    "multi_vector": Request(Weights(0, 0, 1), "dense", 200, 200),
    "dense_sparse": Request(Weights(1, 0.3, 0), "union", 1000, 100),
    "all": Request(Weights(1, 0.3, 1), "dense", 200, 100),
}


@pytest.mark.parametrize("mode", MODES)
def test_requests_of_the_paper(mode):
    assert PROTOCOLS["paper"].request(mode) == PAPER[mode]
    assert PROTOCOLS["paper"].weights_of(mode) == PAPER[mode].weights


@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=PROTOCOLS)
def test_no_request_lengthens_its_lists(protocol):
    """A store takes at least ``limit`` candidates of every list, so a limit beyond them would change what is scored."""
    requests = [protocol.request(mode) for mode in MODES]
    requests += [one for mode in WEIGHTED for part in PARTS for one in protocol.component_requests(mode, part).values()]
    assert all(request.limit <= request.candidates for request in requests)


def test_weights_can_be_replaced_mode_by_mode():
    other = Weights(1, 2, 0)
    changed = PROTOCOLS["paper"].with_weights("dense_sparse", other)
    assert changed.request("dense_sparse").weights == other
    assert changed.request("all") == PAPER["all"]
    assert PROTOCOLS["paper"].with_weights("all", other).request("all").weights == other


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dense_sparse_weights": Weights(1, 1, 1)}, "the third weight must be 0"),
        ({"rerank": 99}, "R@100 is not measured"),
        ({"candidates": 99}, "R@100 is not measured"),
        ({"rerank_source": "bm25"}, "expected one of dense, sparse, union"),
        ({"query_max_length": 2}, "query_max_length=2: at least 3"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        Protocol(**settings)


def test_the_description_says_what_was_done_and_not_what_was_allowed():
    words = PROTOCOLS["union"].describe(128)
    assert words["maximum length"] == "queries 128, passages 128 tokens"
    assert words["all"] == "1·dense + 0.3·sparse + 1·multi_vector over dense ∪ sparse top 200, exact scores"
    assert Protocol(query_max_length=64).describe(8192)["maximum length"] == "queries 64, passages 8192 tokens"
