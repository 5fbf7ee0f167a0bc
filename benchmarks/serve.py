"""``python -m benchmarks.serve``: throughput and latency of ``m3-vdb serve`` by number of clients, on this machine.

Clients ask without a pause, one text per request as the openai client sends it (base64), the server answers with and
without shared forward passes, in turns; and the encoder alone, in a process of its own, is given the same texts in one
call. Then a client sends 64 documents at a time without a pause, and another one asks short queries beside it. Clients
and server share the machine's cores. The last line is one JSON object.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import typer

from benchmarks.common import CORPUS, MACHINE, text_table
from benchmarks.encode import workloads
from m3_vdb import M3EmbeddingFunction
from m3_vdb.encoding.coalesce import TURN_TOKENS
from m3_vdb.serve.service import Service
from m3_vdb.types import M3Embeddings

BULK: Final = 64
"""Documents per request of the bulk load."""
_ENCODER: Final = "import sys; from benchmarks.serve import run_encoder; run_encoder(sys.argv[1] or None)"
_SERVER: Final = "import sys; from benchmarks.serve import run_server; run_server(sys.argv[1], sys.argv[2] or None)"


class Separate(Service):
    """A service whose requests do not share forward passes: one after the other."""

    async def encode(self, texts: Sequence[str], *, truncate: bool, **parts: bool) -> M3Embeddings:
        """One call of the embedding function per request."""
        loop = asyncio.get_running_loop()
        tokens = self.embed.tokenize(texts)
        return await loop.run_in_executor(_ONE, lambda: self.embed.encode_usable(tokens, passed=None, **parts)[0])


_ONE: Final = ThreadPoolExecutor(1)


def run_server(way: str, model: str | None) -> None:
    """Serve until killed; prints the port."""
    import uvicorn

    from m3_vdb.cli.serve import listen
    from m3_vdb.serve.app import make_app

    embed = M3EmbeddingFunction(model, on_truncate="ignore")
    service = (Separate if way == "separate" else Service)(embed)
    with listen("127.0.0.1", 0) as listener:
        print(listener.getsockname()[1], flush=True)
        uvicorn.Server(uvicorn.Config(make_app(service), log_level="error", ws="none")).run(sockets=[listener])


@contextmanager
def server(way: str, model: str | None) -> Iterator[int]:
    """The port of a server in a process of its own."""
    command = [sys.executable, "-c", _SERVER, way, model or ""]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=dict(os.environ))
    try:
        assert process.stdout is not None
        yield int(process.stdout.readline())
    finally:
        process.kill()
        process.wait()


def request(texts: Sequence[str]) -> bytes:
    """A request as the openai client sends it."""
    body = json.dumps({"input": list(texts), "model": "m3", "encoding_format": "base64"}).encode()
    head = f"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    return f"{head}\r\n\r\n".encode() + body


async def ask(port: int, requests: Iterator[bytes], until: float, times: list[float], *, pause: float = 0.0) -> None:
    """One client: sends a request, waits for the answer, and so on; on one connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**24)
    while time.perf_counter() < until:
        begun = time.perf_counter()
        writer.write(next(requests))
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length"))
        await reader.readexactly(int(length.partition(b":")[2]))
        if not head.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(head.decode())
        times.append(time.perf_counter() - begun)
        await asyncio.sleep(pause)
    writer.close()


def load(port: int, texts: list[str], clients: int, seconds: float) -> list[float]:
    """Latencies of all requests, one text each."""
    requests, times = cycle([request([text]) for text in texts]), list[float]()

    async def everybody() -> None:
        until = time.perf_counter() + seconds
        await asyncio.gather(*(ask(port, requests, until, times) for _ in range(clients)))

    asyncio.run(everybody())
    return times


def beside_bulk(port: int, queries: list[str], documents: list[str], seconds: float, *, bulk: bool) -> list[float]:
    """Latencies of short queries, one after the other, idle or beside a client that sends documents."""
    asked, sent = cycle([request([query]) for query in queries]), _chunks(documents)
    times: list[float] = []

    async def both() -> None:
        until = time.perf_counter() + seconds
        others = [ask(port, sent, until, [])] if bulk else []
        await asyncio.gather(ask(port, asked, until, times, pause=0.05), *others)

    asyncio.run(both())
    return times


def _chunks(documents: list[str]) -> Iterator[bytes]:
    return cycle([request(documents[i : i + BULK]) for i in range(0, len(documents), BULK)])


def run_encoder(model: str | None) -> None:
    """Read lists of texts by name from standard input, print tokens/s of each."""
    embed = M3EmbeddingFunction(model, on_truncate="ignore")

    def speed(texts: list[str]) -> float:
        begun = time.perf_counter()
        tokens = embed.encode_documents(texts, sparse=False, multi_vector=False).stats.real_tokens
        return tokens / (time.perf_counter() - begun)

    given: dict[str, list[str]] = json.load(sys.stdin)
    for texts in given.values():
        speed(texts)  # warms up
    print(json.dumps({name: float(np.median([speed(texts) for _ in range(5)])) for name, texts in given.items()}))


def own_speed(model: str | None, texts: dict[str, list[str]]) -> dict[str, float]:
    """Tokens/s of the encoder alone, by kind of text, in a fresh process."""
    command = [sys.executable, "-c", _ENCODER, model or ""]
    done = subprocess.run(command, input=json.dumps(texts), capture_output=True, text=True, check=True)
    speeds: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return speeds


def figures(times: list[float], seconds: float) -> dict[str, float]:
    """Requests per second, and latencies in ms."""
    p50, p95 = (1000 * float(np.quantile(times, q)) for q in (0.5, 0.95))
    return {"requests_per_s": round(len(times) / seconds, 1), "p50_ms": round(p50, 1), "p95_ms": round(p95, 1)}


def main(
    model: Annotated[str | None, typer.Option(help="Bundle. Default: the one that ships.")] = None,
    clients: Annotated[str, typer.Option(help="Comma-separated.")] = "1,8,32",
    seconds: Annotated[float, typer.Option(help="Per measurement.")] = 5.0,
    texts: Annotated[int, typer.Option(help="Documents, and as many queries.")] = 128,
    corpus: Annotated[Path, typer.Option(help="JSONL with text and title.")] = CORPUS,
) -> None:
    """Measure the server."""
    given = workloads(corpus, texts=texts)
    loads = {"queries": given["short"], "documents": given["mixed"]}
    embed = M3EmbeddingFunction(model, on_truncate="ignore")
    mean = {name: float(embed.token_count(some).mean()) for name, some in loads.items()}
    runtime = embed.session.description
    del embed
    result: dict[str, Any] = {"machine": MACHINE, "runtime": runtime, "tokens_per_text": mean}
    result["encoder_tokens_per_s"] = own = own_speed(model, loads)
    rows = [["texts", "clients", "passes", "requests/s", "p50 ms", "p95 ms", "of encoder", "p95 / (n / speed)"]]
    with server("shared", model) as shared, server("separate", model) as separate:
        ports = {"shared": shared, "separate": separate}
        for name, some in loads.items():
            for port in ports.values():
                load(port, some, 8, 1.0)  # warms up
            for count in map(int, clients.split(",")):
                for way, port in ports.items():
                    found = figures(load(port, some, count, seconds), seconds)
                    speed = found["requests_per_s"]
                    found["share_of_encoder"] = round(speed * mean[name] / own[name], 3)
                    found["p95_of_fair"] = round(found["p95_ms"] / 1000 * speed / count, 2)
                    result.setdefault(name, {}).setdefault(str(count), {})[way] = found
                    rows.append([name, str(count), way, *map(str, found.values())])
        idle = figures(beside_bulk(shared, loads["queries"], loads["documents"], seconds, bulk=False), seconds)
        for way, port in ports.items():
            busy = figures(beside_bulk(port, loads["queries"], loads["documents"], 2 * seconds, bulk=True), 2 * seconds)
            result.setdefault("beside_bulk", {})[way] = busy
    turn_ms = 1000 * TURN_TOKENS / own["documents"]
    result["beside_bulk"]["idle"] = idle
    result |= {"turn_ms": round(turn_ms, 1), "goal_p95_ms": round(4 * idle["p95_ms"] + turn_ms, 1)}
    print(text_table(rows))
    for way, found in result["beside_bulk"].items():
        print(f"short queries, {way}: {found}")
    print(json.dumps(result))


if __name__ == "__main__":
    typer.run(main)
