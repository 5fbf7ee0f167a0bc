"""``python -m benchmarks.encode``: tokens/s of every runtime on the same texts, interleaved, and what it counts.

Runtimes take turns inside every round, so that a machine whose speed drifts is fair to all; medians are printed, and
ratios of one run are what to quote. Forwards and padded tokens do not depend on the machine. Peak memory is that of a
fresh process that loads the model and encodes the mixed texts once. The last line is one JSON object.

``--callers 1,4,16`` measures a server's load: so many threads encode short queries, one per call, with the embedding
function itself and with a ``Coalescer`` before it.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from benchmarks.common import CORPUS, MACHINE
from m3_vdb import M3EmbeddingFunction
from m3_vdb.encoding.coalesce import Coalescer
from m3_vdb.errors import MissingExtraError


def workloads(corpus: Path, *, texts: int) -> dict[str, list[str]]:
    """Named lists of texts: mixed documents, short queries, one query, texts beyond the maximum length."""
    rows = [json.loads(line) for line in corpus.read_text(encoding="utf-8").splitlines()]
    picked = [rows[i] for i in np.random.default_rng(0).permutation(len(rows))[:texts]]
    return {
        "mixed": [row["text"] for row in picked],
        "short": [row["title"] or row["text"][:40] for row in picked],
        "one query": [picked[0]["title"] or picked[0]["text"][:40]],
        "long": [" ".join(row["text"] for row in picked[i : i + 8]) for i in range(0, min(32, texts), 8)],
    }


def measure(functions: dict[str, M3EmbeddingFunction], texts: list[str], *, rounds: int) -> dict[str, dict[str, float]]:
    """Median tokens/s of each function, in turns; and the counts, which are the same for all."""
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    counts = {}
    for turn in range(rounds + 1):
        for name, function in functions.items():
            begun = time.perf_counter()
            stats = function.encode_documents(texts).stats
            if turn:  # the first round warms up
                seconds[name].append(time.perf_counter() - begun)
            counts[name] = stats
    return {
        name: {
            "tokens_per_s": round(counts[name].real_tokens / statistics.median(seconds[name]), 1),
            "ms": round(1000 * statistics.median(seconds[name]), 2),
            "forwards": counts[name].forwards,
            "padding_ratio": round(counts[name].padding_ratio, 4),
        }
        for name in functions
    }


def measure_callers(
    functions: dict[str, M3EmbeddingFunction], queries: list[str], callers: list[int], *, rounds: int
) -> dict[str, dict[str, dict[str, float]]]:
    """Queries per second and latency (ms) of each function, alone and coalesced, in turns, by number of callers."""
    ways: dict[str, Callable[[list[str]], object]] = {}
    fronts = {name: Coalescer(function) for name, function in functions.items()}
    for name, function in functions.items():
        ways |= {name: function.encode_queries, f"{name}, coalesced": fronts[name].encode_queries}
    result: dict[str, dict[str, dict[str, float]]] = {}
    for count in callers:
        speeds: dict[str, list[float]] = {name: [] for name in ways}
        latencies: dict[str, list[float]] = {name: [] for name in ways}
        for turn in range(rounds + 1):
            for name, encode in ways.items():

                def timed(query: str, encode: Callable[[list[str]], object] = encode) -> float:
                    begun = time.perf_counter()
                    encode([query])
                    return time.perf_counter() - begun

                with ThreadPoolExecutor(count) as pool:
                    begun = time.perf_counter()
                    times = list(pool.map(timed, queries))
                    if turn:  # the first round warms up
                        speeds[name].append(len(queries) / (time.perf_counter() - begun))
                        latencies[name] += times
        result[str(count)] = {
            name: {
                "queries_per_s": round(statistics.median(speeds[name]), 1),
                "p50_ms": round(1000 * float(np.quantile(latencies[name], 0.5)), 2),
                "p95_ms": round(1000 * float(np.quantile(latencies[name], 0.95)), 2),
            }
            for name in ways
        }
    for front in fronts.values():
        front.close()
    return result


def peak_memory(runtime: str, model: str | None, corpus: Path, texts: int) -> float:
    """MiB at the peak of a fresh process that loads the model and encodes the mixed texts."""
    code = (
        "import resource, sys; from pathlib import Path; from benchmarks.encode import workloads;"
        "from m3_vdb import M3EmbeddingFunction;"
        "embed = M3EmbeddingFunction(sys.argv[2] or None, runtime=sys.argv[1], on_truncate='ignore');"
        "embed.encode_documents(workloads(Path(sys.argv[3]), texts=int(sys.argv[4]))['mixed']);"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    command = [sys.executable, "-c", code, runtime, model or "", str(corpus), str(texts)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return float(output.split()[-1]) / 1024


def main(
    model: Annotated[str | None, typer.Option(help="Bundle. Default: the one that ships.")] = None,
    runtimes: Annotated[str, typer.Option(help="Comma-separated.")] = "onnxruntime,openvino",
    rounds: Annotated[int, typer.Option(help="Counted rounds after a warm-up.")] = 5,
    texts: Annotated[int, typer.Option(help="Documents of the mixed workload.")] = 128,
    corpus: Annotated[Path, typer.Option(help="JSONL with text and title.")] = CORPUS,
    callers: Annotated[str, typer.Option(help="Threads that encode queries, such as 1,4,16; nothing else then.")] = "",
) -> None:
    """Compare the runtimes on this machine."""
    functions: dict[str, M3EmbeddingFunction] = {}
    memory: dict[str, float] = {}
    for runtime in runtimes.split(","):  # all memory is measured before a model is opened here: a child inherits a peak
        if not callers and (runtime == "onnxruntime" or find_spec(runtime) is not None):
            memory[runtime] = round(peak_memory(runtime, model, corpus, texts), 1)
    for runtime in runtimes.split(","):
        try:
            functions[runtime] = M3EmbeddingFunction(model, runtime=runtime, on_truncate="ignore")
        except MissingExtraError as error:
            typer.echo(f"left out: {error}")
    result: dict[str, object] = {"machine": MACHINE, "rounds": rounds}
    result["runtimes"] = {name: function.session.description for name, function in functions.items()}
    if callers:
        queries = workloads(corpus, texts=texts)["short"]
        result["callers"] = measure_callers(functions, queries, [int(n) for n in callers.split(",")], rounds=rounds)
        typer.echo(json.dumps(result))
        return
    typer.echo(
        f"{'workload':10} {'runtime':12} {'tokens/s':>10} {'ms':>9} {'forwards':>9} {'padded/real':>12} {'ratio':>6}"
    )
    for workload, items in workloads(corpus, texts=texts).items():
        figures = measure(functions, items, rounds=rounds)
        first = next(iter(figures.values()))["tokens_per_s"]
        for name, row in figures.items():
            typer.echo(
                f"{workload:10} {name:12} {row['tokens_per_s']:10,.0f} {row['ms']:9.1f} {row['forwards']:9.0f} "
                f"{row['padding_ratio']:12.3f} {row['tokens_per_s'] / first:6.2f}"
            )
        result[workload] = figures
    for name, value in memory.items():
        typer.echo(f"peak memory {name}: {value:,.0f} MiB")
    typer.echo(json.dumps(result | {"peak_memory_mib": memory}))


if __name__ == "__main__":
    typer.run(main)
