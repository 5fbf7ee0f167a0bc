"""Evaluations as they come out of real runs: many languages, one pooled collection, and as little as there can be."""

import dataclasses
import random

from m3_vdb.evaluation.results import (
    Approximation,
    Comparison,
    Cost,
    Curve,
    Evaluation,
    Figure,
    Group,
    Percentiles,
    Tuning,
)

LANGUAGES = (
    *("ca", "cs", "da", "de", "el", "en", "es", "et", "eu", "fi", "fr", "gl", "hu", "id", "it", "ja", "km", "ko"),
    *("nl", "pl", "pt", "pt-br", "ru", "sk", "sl", "sv", "tr", "uk", "vi", "zh-cn", "zh-tw"),
)
SPOKEN = ("ar", "da", "de", "en", "es", "fi", "fr", "he", "hu", "it", "ja", "km", "ko", "ms", "nl", "no", "pl")
SYSTEMS = ("dense", "sparse", "multi_vector", "dense_sparse", "all", "bm25")
LEVEL = {"dense": 0.66, "sparse": 0.60, "multi_vector": 0.68, "dense_sparse": 0.69, "all": 0.71, "bm25": 0.61}
SHIFT = {"nDCG@10": 0.0, "Recall@100": 0.14, "MRR@10": -0.03}
MEASURES = tuple(SHIFT)


def figure(value: float, queries: int) -> Figure:
    half = 0.9 / queries**0.5
    return Figure(value, max(0.0, value - half), min(1.0, value + half * 0.97))


def figures(chance: random.Random, queries: int, measures=MEASURES, systems=SYSTEMS, ease: float = 0.0):
    return {
        system: {
            measure: figure(min(0.99, LEVEL.get(system, 0.5) + SHIFT[measure] + ease + chance.gauss(0, 0.02)), queries)
            for measure in measures
        }
        for system in systems
    }


def groups(chance: random.Random, langs, collection: str = "", documents: int = 0, **options) -> tuple[Group, ...]:
    found = []
    for lang in langs:
        queries = chance.randint(180, 420)
        made = figures(chance, queries, ease=chance.gauss(0, 0.06), **options)
        found.append(Group(collection or lang, lang, documents or chance.randint(1500, 9000), queries, made))
    return tuple(found)


def averages(rows: tuple[Group, ...], systems, measures):
    def average(weights):
        return {
            system: {
                measure: figure(
                    sum(w * row.figures[system][measure].value for w, row in zip(weights, rows, strict=True))
                    / sum(weights),
                    sum(row.queries for row in rows),
                )
                for measure in measures
            }
            for system in systems
        }

    return average([1] * len(rows)), average([row.queries for row in rows])


def comparisons(pooled, baseline: str, queries: int):
    found = {}
    for system, by_measure in pooled.items():
        if system == baseline:
            continue
        found[system] = {}
        for measure, value in by_measure.items():
            delta = value.value - pooled[baseline][measure].value
            p = 0.0001 if abs(delta) > 0.012 else 0.213
            better = int(queries * (0.27 + delta))
            found[system][measure] = Comparison(delta, p, better, int(queries * 0.27), delta - 0.011, delta + 0.012)
    return found


def percentiles(p50: float, count: int = 400) -> Percentiles:
    return Percentiles(p50, p50 * 1.7, p50 * 2.6, count)


def cost(chance: random.Random, documents: int) -> Cost:
    at = {"dense": 2.1, "sparse": 3.4, "multi_vector": 18.2, "dense_sparse": 4.9, "all": 21.6, "bm25": 0.7}
    search = {system: percentiles(ms * chance.uniform(0.8, 1.3)) for system, ms in at.items()}
    tokens = documents * 93
    return Cost(
        documents=documents,
        reused=0,
        rejected=0,
        tokens=tokens,
        truncated=documents // 200,
        ingest_seconds=tokens / 5400.0,
        index_bytes=documents * 41_000,
        encode_ms=percentiles(4.8),
        search_ms=search,
    )


def evaluation(task: str, rows: tuple[Group, ...], measures=MEASURES, systems=SYSTEMS, **parts) -> Evaluation:
    mean, pooled = averages(rows, systems, measures) if rows else ({}, {})
    values = {
        "task": task,
        "created": "2026-11-25T09:41:07+00:00",
        "command": f"m3-vdb evaluate {task} --store ./runs/{task}.qdrant --tune --approximate",
        "environment": {
            "m3-vdb": "0.1.0",
            "qdrant-edge-py": "0.9.1",
            "onnxruntime": "1.23.2",
            "numpy": "2.4.6",
            "runtime": "OpenVINO 2025.4 on CPU, bf16",
            "processor": "AMD EPYC 9R14, 2 cores",
            "commit": "fe0eef5",
        },
        "model": {"name": "m3-small", "fingerprint": "9f3c2a7be1d04c55", "precision": "int8", "max_length": "512"},
        "store": f"./runs/{task}.qdrant",
        "protocol": {
            "depth": "200",
            "weights": "1, 0.3, 1",
            "dense + sparse weights": "1, 0.3",
            "bootstrap": "2,000 resamples",
            "randomization": "10,000 permutations",
        },
        "measures": measures,
        "systems": systems,
        "baseline": "bm25",
        "groups": rows,
        "mean": mean,
        "pooled": pooled,
        "comparisons": comparisons(pooled, "bm25", sum(row.queries for row in rows)) if "bm25" in pooled else {},
        "costs": {},
        "approximations": {},
        "curves": (),
        "tunings": (),
        "fusion_error": None,
    }
    return Evaluation(**(values | parts))


def curves() -> tuple[Curve, ...]:
    def hill(top: float, width: float, height: float):
        return lambda w: height - width * (w - top) ** 2

    steps = [0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0]
    made = {"dense": (1.0, hill(0.9, 0.02, 0.712)), "sparse": (0.3, hill(0.45, 0.015, 0.711))}
    made["multi_vector"] = (1.0, hill(1.2, 0.025, 0.713))
    return tuple(Curve(name, used, tuple((w, at(w)) for w in steps)) for name, (used, at) in made.items())


def many_languages() -> Evaluation:
    """31 collections, one language each, everything measured."""
    chance = random.Random(1)
    rows = groups(chance, LANGUAGES)
    exact = {"nDCG@10": 0.7064, "Recall@100": 0.9121, "MRR@10": 0.6712}
    return evaluation(
        "debian",
        rows,
        costs={row.collection: cost(chance, row.documents) for row in rows},
        approximations={
            mode: Approximation(exact, {m: v - loss for m, v in exact.items()}, 1 - 8 * loss, percentiles(ms))
            for mode, loss, ms in (("dense", 0.0031, 1.1), ("sparse", 0.0, 1.9), ("all", 0.0009, 15.3))
        },
        curves=curves(),
        tunings=(
            Tuning("all", (1.0, 0.3, 1.0), (1.0, 0.45, 1.2), 1550, 0.7012, 0.7048, 0.7031, 0.7064),
            Tuning("dense_sparse", (1.0, 0.3, 0.0), (1.0, 0.5, 0.0), 1550, 0.6871, 0.6903, 0.6889, 0.6894),
        ),
        fusion_error=3.1e-07,
    )


def pooled_collection() -> Evaluation:
    """One collection, questions in 17 languages, no BM25 in some of them."""
    chance = random.Random(2)
    rows = groups(chance, SPOKEN, "mkqa", 12_000, measures=("Recall@100", "nDCG@10"))
    return evaluation(
        "mkqa",
        rows,
        measures=("Recall@100", "nDCG@10"),
        costs={"mkqa": cost(chance, 12_000)},
        curves=curves(),
        fusion_error=2.0e-07,
    )


def one_group() -> Evaluation:
    """One collection that does not say its language, two systems, no costs, called from Python."""
    rows = groups(random.Random(3), [""], "notes", 4_100, measures=("nDCG@10",), systems=("dense", "bm25"))
    return evaluation(
        "notes",
        rows,
        measures=("nDCG@10",),
        systems=("dense", "bm25"),
        command="",
        environment={},
        protocol={},
    )


HOSTILE = "<script>alert(1)</script> & \"q\" 'a' | `b` *c* _d_ $e$ [f](http://g) 😀 ~~h~~ \\"


def hostile() -> Evaluation:
    """Every name and every text that a user chooses holds all that HTML, Markdown, SVG or TeX could mistake."""
    rows = groups(random.Random(4), ["de", f"xx{HOSTILE}"], HOSTILE, measures=("nDCG@10",))
    return evaluation(
        HOSTILE,
        rows,
        measures=("nDCG@10",),
        command=f"m3-vdb evaluate '{HOSTILE}'",
        store=HOSTILE,
        environment={HOSTILE: HOSTILE},
        protocol={HOSTILE: HOSTILE},
        costs={HOSTILE: cost(random.Random(5), 100), "\x00\x1b[31m\ud800": cost(random.Random(6), 50)},
        curves=curves(),
    )


def with_gaps() -> Evaluation:
    """NaN where there was nothing to average, a system that one group lacks, a store that does not know its size."""
    gap = Figure(float("nan"), float("nan"), float("nan"))
    rows = list(groups(random.Random(7), LANGUAGES[:3], measures=("nDCG@10",)))
    rows[0].figures["all"]["nDCG@10"] = gap
    del rows[1].figures["bm25"]
    whole = evaluation("gaps", groups(random.Random(7), LANGUAGES[:3], measures=("nDCG@10",)), measures=("nDCG@10",))
    kept = Cost(0, 90, 0, 0, 0, 0.0, None, None, {"dense": percentiles(2.0)})
    unsure = Comparison(0.01, float("nan"), 3, 2)
    return dataclasses.replace(
        whole,
        groups=tuple(rows),
        mean=whole.mean | {"sparse": {"nDCG@10": gap}},
        comparisons={"dense": {"nDCG@10": unsure}, "all": {"nDCG@10": Comparison(float("nan"), 1.0, 0, 0)}},
        costs={"ca": kept, "cs": kept},
        approximations={"dense": Approximation({}, {}, float("nan"), None)},
        curves=(Curve("dense", 1.0, ((0.0, float("nan")),)), Curve("sparse", 0.3, ())),
        fusion_error=float("nan"),
    )


def nothing() -> Evaluation:
    """An evaluation in which nothing was measured."""
    return evaluation("nothing", (), measures=(), systems=(), mean={}, pooled={}, model={}, store="")


EXAMPLES = {
    "many": [many_languages()],
    "pooled": [pooled_collection()],
    "one": [one_group()],
    "hostile": [hostile()],
    "gaps": [with_gaps()],
    "nothing": [nothing()],
    "tasks": [one_group(), with_gaps(), nothing()],
}
