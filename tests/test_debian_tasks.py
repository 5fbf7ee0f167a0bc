"""The cross-lingual and the long-document task of the Debian benchmark on small made-up collections."""

import json
from pathlib import Path

import pytest

from benchmarks.debian import cross_lingual, long_documents, texts
from benchmarks.debian.beir import Document, Query, write_collection
from benchmarks.debian.pages import Kind, Page, number_blocks
from benchmarks.debian.pool import hold_out, make_pool, make_shelf
from benchmarks.debian.records import HELD_OUT, Record, estimate_tokens, key, side_of
from benchmarks.debian.texts import LongText, Section


def _lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _judged(folder: Path, side: str) -> list[tuple[str, str]]:
    lines = (folder / "qrels" / f"{side}.tsv").read_text(encoding="utf-8").splitlines()[1:]
    return [(query, document) for query, document, _ in (line.split("\t") for line in lines)]


def _concepts(side: str, count: int) -> list[str]:
    return [name for name in (f"s/{i}" for i in range(10_000)) if side_of(name) == side][:count]


def test_a_foreign_query_is_answered_by_the_english_documents_of_all_concepts_it_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cross_lingual, "MIN_QUERIES", 2)
    monkeypatch.setattr(cross_lingual, "MAX_DOCUMENTS", 6)
    one, two, lonely = _concepts("test", 3)
    other, (dev, shared) = _concepts("train", 8), _concepts("dev", 2)
    english = [Record(name, "s", "en", f"Title {name}", (), f"Text of {name}") for name in (one, two, dev, *other)]
    german = [
        Record(one, "s", "de", "Gemeinsam", (), "eins"),
        Record(other[0], "s", "de", "gemeinsam", (), "nochmal"),
        Record(two, "s", "de", "Anders", (), "zwei"),
        Record(lonely, "s", "de", "Allein", (), "ohne Englisch"),
        Record(dev, "s", "de", "Entwicklung", (), "drei"),
        Record(shared, "s", "de", "GEMEINSAM", (), "vier"),
    ]
    counts = cross_lingual.write([make_pool("de", german), make_pool("en", english)], tmp_path)
    folder = tmp_path / "cross_lingual"
    assert sorted(_judged(folder, "test")) == sorted(
        [(f"q-de-{one}", one), (f"q-de-{one}", other[0]), (f"q-de-{two}", two)]
    )
    assert _judged(folder, "dev") == [(f"q-de-{dev}", dev)]
    corpus = {str(row["_id"]) for row in _lines(folder / "corpus.jsonl")}
    assert {one, two, dev, other[0]} < corpus
    assert len(corpus) == 6, "filled up with others"
    assert {row["metadata"]["lang"] for row in _lines(folder / "queries.jsonl")} == {"de"}  # type: ignore[index]
    assert counts["de"] == {"test_queries": 2, "dev_queries": 1}


def test_without_english_there_is_no_cross_lingual_task(tmp_path: Path) -> None:
    assert cross_lingual.write([make_pool("de", [])], tmp_path) == {}


def _book(number: int, lang: str = "de") -> LongText:
    sections = []
    for n in range(number * 8, number * 8 + 8):
        heading = f"Heading number {n}" if n % 8 else "A heading in every book"
        sections.append(Section(f"book/{n}", heading, heading, f"Text of {n}\n{heading}\nsee: {heading}, later"))
    return LongText(f"book/{number}", "books", lang, tuple(sections))


def test_the_headings_of_held_out_sections_are_deleted_and_the_others_stay(tmp_path: Path) -> None:
    shelf = make_shelf("de", [_book(number) for number in range(30)])
    counts = long_documents.write([shelf], tmp_path)
    folder = tmp_path / "long_documents"
    corpus = {str(row["_id"]): str(row["text"]).splitlines() for row in _lines(folder / "corpus.jsonl")}
    queries = {str(row["_id"]): row for row in _lines(folder / "queries.jsonl")}
    judged = _judged(folder, "test")
    assert len(judged) == counts["de"]["test_queries"] > 20
    for query, document in judged:
        concept = query.removeprefix("q-de-")
        assert side_of(concept) == "test"
        assert document == f"de/book/{int(concept.removeprefix('book/')) // 8}"
        assert queries[query]["text"] not in corpus[document]
        assert f"see: {queries[query]['text']}, later" in corpus[document], "only whole lines are taken out"
    for section in (section for text in shelf.texts for section in text.sections):
        shown = section.heading in corpus[f"de/book/{int(section.concept_id.removeprefix('book/')) // 8}"]
        assert shown == (key(section.heading) not in shelf.hidden)
    assert all(query["text"] != "A heading in every book" for query in queries.values()), "too many answers"


def test_what_shares_a_heading_with_a_held_out_section_is_held_out() -> None:
    shelf = make_shelf("de", [_book(number) for number in range(30)])
    held = hold_out([], [shelf])
    assert held.owns("a heading in EVERY book")
    assert all(held.touches_concept(f"book/{n}") for n in range(0, 240, 8))
    assert {f"book/{n}" for n in range(240) if side_of(f"book/{n}") in HELD_OUT} <= held.concepts


KIND = Kind("help", "lo", 0.6)


def _pages(count: int, text: str) -> dict[str, Page]:
    pages = [Page(f"m{n // 6}/{n:02}", f"The title of {n}", (), number_blocks([text] * 10)) for n in range(count)]
    return {page.path: page for page in pages}


def test_volumes_are_consecutive_pages_of_one_module() -> None:
    pages = _pages(12, "Ein Satz mit einigen Worten darin. " * 20)
    volumes = list(texts.by_volume(list(pages.values())))
    assert [page.path for _, volume in volumes for page in volume] == list(pages)
    assert len({name for name, _ in volumes}) == len(volumes) > 2
    for name, volume in volumes:
        assert {page.part for page in volume} == {name.split("/")[0]}
        size = sum(estimate_tokens(text) for page in volume for text in page.blocks.values())
        assert size <= texts.VOLUME_TOKENS or len(volume) == 1


def test_a_long_text_is_long_and_mostly_translated() -> None:
    english = _pages(6, "A sentence with some words in it. " * 20)
    german = _pages(6, "Ein Satz mit einigen Worten darin. " * 20)
    mixed = {**german, **{f"m0/{n:02}": english[f"m0/{n:02}"] for n in range(4)}}

    def shelved(pages: dict[str, Page], kind: Kind = KIND) -> list[LongText]:
        return list(texts.long_texts(pages, english, "de", kind, texts.by_chapter))

    assert shelved(dict(list(german.items())[:1])) == [], "too short"
    assert shelved(mixed) == [], "too English"
    alone = {f"n{path}": Page(f"n{path}", page.title, (), page.blocks) for path, page in english.items()}
    assert texts.english_share(alone.values(), {}) == 0.0, "too few function words to be sure"
    prose = Page("p", "t", (), number_blocks(["The name of the file that is to be read.", "Der Name der Datei, ja."]))
    assert 0.5 < texts.english_share([prose], {}) < 0.7
    (text,) = shelved({**german, "m0/00": Page("m0/00", "Ein deutscher Titel", (), german["m0/00"].blocks)})
    assert (text.identifier, text.source, text.lang) == ("lo/m0", "help", "de")
    assert [section.query for section in text.sections[:2]] == ["Ein deutscher Titel", ""], "the rest are English"
    assert text.sections[1].heading == "The title of 1"
    assert {section.heading for section in shelved(german, Kind("help", "lo", 0.6, title_apart=True))[0].sections} == {
        ""
    }


def test_a_collection_that_has_been_written_can_be_read_back(tmp_path: Path) -> None:
    counts = write_collection(
        tmp_path, [Document("d", "ja", "本文")], {"test": [Query("q", "ja", "問い", ("d",))], "dev": []}
    )
    assert counts == {"documents": 1, "test_queries": 1, "test_judgements": 1}
    assert _lines(tmp_path / "corpus.jsonl") == [{"_id": "d", "title": "", "text": "本文", "metadata": {"lang": "ja"}}]
    assert _judged(tmp_path, "test") == [("q", "d")]
    assert not (tmp_path / "qrels" / "dev.tsv").exists()
    assert not list(tmp_path.rglob("*.partial"))
