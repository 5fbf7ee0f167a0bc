"""``/metrics`` in Prometheus' format: requests, latency, texts, tokens, passes, and what waits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from m3_vdb.encoding.coalesce import Coalescer

_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Metrics:
    """Counts requests; asked for its numbers, it asks the coalescer, too.

    Args:
        coalescer: encodes the texts.
    """

    def __init__(self, coalescer: Coalescer) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "m3vdb_requests", "Requests by route and status.", ["route", "method", "status"], registry=self._registry
        )
        self._seconds = Histogram(
            "m3vdb_request_seconds", "Time to answer.", ["route"], buckets=_SECONDS, registry=self._registry
        )
        self.running: Gauge = Gauge(
            "m3vdb_running_requests", "Requests that are answered now.", registry=self._registry
        )
        self._registry.register(_Encoding(coalescer))
        ProcessCollector(registry=self._registry)

    def count(self, *, route: str, method: str, status: int, seconds: float) -> None:
        """Count one request.

        Args:
            route: the path of its endpoint, without ids.
            method: of HTTP.
            status: of the answer; 499 if the caller left.
            seconds: from the first byte to the last.
        """
        self._requests.labels(route, method, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def text(self) -> bytes:
        """All numbers."""
        return generate_latest(self._registry)


class _Encoding(Collector):
    def __init__(self, coalescer: Coalescer) -> None:
        self._coalescer = coalescer

    def collect(self) -> Iterator[Metric]:
        now = self._coalescer.stats
        yield CounterMetricFamily("m3vdb_passes", "Forward passes.", value=now.passes)
        yield CounterMetricFamily("m3vdb_texts", "Texts that were encoded.", value=now.texts)
        yield CounterMetricFamily("m3vdb_tokens", "Tokens that were encoded.", value=now.tokens)
        yield CounterMetricFamily("m3vdb_encode_seconds", "Time spent in encoding.", value=now.seconds)
        yield GaugeMetricFamily("m3vdb_waiting_texts", "Texts that wait to be encoded.", value=now.waiting_texts)
        yield GaugeMetricFamily("m3vdb_waiting_tokens", "Their tokens.", value=now.waiting_tokens)
