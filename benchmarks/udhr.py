"""``python -m benchmarks.udhr CHECKPOINT``: does training lose languages that the base had?

Thirty English articles of the Universal Declaration of Human Rights are searched with the same articles in some 400
languages (``python -m benchmarks.debian`` builds the collection). Accuracy@1 of each language for the base as it is and
for a bundle, dense alone and all three scores with the paper's weights, exact. With thirty queries per language a
difference of one or two means nothing. The last line is one JSON object.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any, Final, TypeAlias

import typer

from benchmarks.base_model import NAME, Choice, MeanPooled, search
from benchmarks.common import markdown_table, text_table
from m3_vdb import M3EmbeddingFunction
from m3_vdb.errors import ConfigError
from m3_vdb.evaluation import PROTOCOLS, Collection, Mode, open_collections
from m3_vdb.evaluation.metrics import Run, import_ir_measures, per_query
from m3_vdb.scoring import hybrid_score, score

BASE: Final = "base"
MODES: Final[tuple[Mode, ...]] = ("dense", "all")
SYSTEMS: Final = (BASE, *MODES)
KNOWN: Final = 0.5
"""A language is one that the base had from this accuracy on; chance is 1/30."""
LOST: Final = 0.1
"""A loss that is more than this is one."""
Figures: TypeAlias = Mapping[str, Mapping[str, float]]
"""Language → system → accuracy@1."""
ACCURACY: Final = "Success@1"
BLOCK: Final = 512
"""Queries that are encoded together."""


def bundle_runs(embed: M3EmbeddingFunction, collection: Collection) -> dict[str, dict[str, dict[str, float]]]:
    """Mode → query → document → exact score, of every pair."""
    documents = list(collection.documents)
    passages = list(embed.encode_documents([document.content for document in documents]))
    runs: dict[str, dict[str, dict[str, float]]] = {mode: {} for mode in MODES}
    names = iter(collection.queries)
    while block := list(islice(names, BLOCK)):
        for name, query in zip(
            block, embed.encode_queries([collection.queries[name].text for name in block]), strict=True
        ):
            parts = {document.id: score(query, one) for document, one in zip(documents, passages, strict=True)}
            for mode in MODES:
                weights = PROTOCOLS["paper"].weights_of(mode)
                runs[mode][name] = {document: hybrid_score(of_pair, weights) for document, of_pair in parts.items()}
    return runs


def accuracy(run: Run, collection: Collection) -> dict[str, float]:
    """Language → share of its queries whose first document is the right one."""
    hits = per_query(run, collection.qrels, [ACCURACY])[ACCURACY]
    return {lang: fmean(hits[name] for name in names) for lang, names in collection.by_language().items()}


def change(figures: Mapping[str, float], mode: Mode) -> float:
    """After − before; rounded, since 0.8 − 0.7 is more than 0.1 in binary."""
    return round(figures[mode] - figures[BASE], 6)


def summarise(figures: Figures) -> dict[str, Any]:
    """Means over all languages and over those that the base had, and which of these were lost."""
    known = {lang: of for lang, of in figures.items() if of[BASE] >= KNOWN}

    def means(some: Figures) -> dict[str, float]:
        return {system: round(fmean(of[system] for of in some.values()), 4) for system in SYSTEMS} if some else {}

    return {
        "languages": len(figures),
        "mean": means(figures),
        "known": len(known),
        "mean_of_known": means(known),
        "lost": {mode: sorted(lang for lang, of in known.items() if change(of, mode) < -LOST) for mode in MODES},
        "gained": {mode: sum(change(of, mode) > LOST for of in figures.values()) for mode in MODES},
    }


def rows(figures: Figures) -> list[list[str]]:
    """One line per language, the greatest loss of "all" first."""
    order = sorted(figures, key=lambda lang: (change(figures[lang], "all"), lang))
    lines = [
        [
            lang,
            *(f"{figures[lang][system]:.2f}" for system in SYSTEMS),
            *(f"{change(figures[lang], mode):+.2f}" for mode in MODES),
        ]
        for lang in order
    ]
    return [["language", *SYSTEMS, *(f"{mode} − {BASE}" for mode in MODES)], *lines]


def markdown(figures: Figures) -> str:
    """The summary, and the languages that were lost in either mode."""
    found = summarise(figures)
    lost = {lang for langs in found["lost"].values() for lang in langs}
    head = ["", "languages", *SYSTEMS, *(f"lost more than {LOST:g}, {mode}" for mode in MODES)]
    lines = [head]
    for label, count, mean in (
        ("all languages", "languages", "mean"),
        (f"base at {KNOWN:g} or more", "known", "mean_of_known"),
    ):
        means = [f"{found[mean][system]:.3f}" if found[mean] else "" for system in SYSTEMS]
        counts = [str(len(found["lost"][mode])) if count == "known" else "" for mode in MODES]
        lines.append([label, str(found[count]), *means, *counts])
    tables = [markdown_table(lines)]
    if lost:
        tables.append(markdown_table(rows({lang: figures[lang] for lang in lost})))
    return "\n\n".join(tables) + "\n"


def main(
    checkpoint: Annotated[Path, typer.Argument(help="The base: what python -m train import-base wrote.")],
    model: Annotated[str | None, typer.Option(help="Bundle. Default: the one that ships.")] = None,
    collection: Annotated[Path, typer.Option(help="The collection.")] = Path("data/debian/udhr"),
    languages: Annotated[str | None, typer.Option(help="Only these: sw,th. Default: all.")] = None,
    max_length: Annotated[int, typer.Option(help="Tokens kept of an article, for both.")] = 128,
    runtime: Annotated[str, typer.Option(help="Of the bundle: auto, onnxruntime or openvino.")] = "auto",
    dtype: Annotated[Choice, typer.Option(help="Of the base. auto: bfloat16 where the processor has it.")] = "auto",
    file: Annotated[Path | None, typer.Option("--markdown", help="Write the summary as Markdown tables.")] = None,
) -> None:
    """Search with the base, with the bundle, compare."""
    import_ir_measures()
    found = open_collections(collection, lang=languages.split(",") if languages else None)
    if len(found) > 1:
        raise ConfigError(f"--collection {collection}: {len(found)} collections, expected the one of the articles")
    embed = M3EmbeddingFunction(model, runtime=runtime, max_length=max_length, on_truncate="ignore")
    encoder = MeanPooled.load(checkpoint, dtype=dtype)
    before = search(encoder, found[0], max_length=max_length).runs[NAME]
    runs: dict[str, Run] = {BASE: before, **bundle_runs(embed, found[0])}
    by_system = {system: accuracy(run, found[0]) for system, run in runs.items()}
    figures = {lang: {system: by_system[system][lang] for system in SYSTEMS} for lang in by_system[BASE]}
    summary = summarise(figures)
    print(text_table(rows(figures)))
    for key, value in summary.items():
        print(f"{key}: {value}")
    if file is not None:
        file.write_text(markdown(figures), encoding="utf-8")
    about = {"checkpoint": str(checkpoint), "dtype": encoder.dtype, "bundle": embed.bundle.name}
    about |= {"fingerprint": embed.identity.fingerprint, "runtime": embed.session.description}
    print(json.dumps({**about, "max_length": max_length, **summary, "by_language": figures}, ensure_ascii=False))


if __name__ == "__main__":
    typer.run(main)
