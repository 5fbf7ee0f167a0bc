"""Collections in BEIR layout: found, read and thinned."""

from __future__ import annotations

import pytest

from m3_vdb.errors import ConfigError, DocumentError
from tests.train._retrieval import DOCUMENTS, QRELS, QUERIES, write_collection, write_jsonl
from train.retrieval.collection import find_collections, read_collection
from train.retrieval.options import EvaluateOptions


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_collection(tmp_path_factory.mktemp("beir") / "one", DOCUMENTS, QUERIES | {"other": "x"}, QRELS)


def test_a_collection_has_its_judged_queries_and_titles_before_texts(tmp_path):
    folder = write_collection(tmp_path / "c", {}, {"q": "query", "unjudged": "x"}, {("q", "1"): 1})
    rows = [{"_id": "1", "title": "Title", "text": "text"}, {"_id": "2", "title": "", "text": "more"}]
    write_jsonl(folder / "corpus.jsonl", rows)
    found = read_collection(folder, name="c", options=EvaluateOptions())
    assert [found.corpus[row].content for row in range(2)] == ["Title\ntext", "more"]
    assert found.queries == {"q": "query"}
    assert found.qrels == {"q": {"1": 1}}


def test_thinning_keeps_what_is_judged_and_is_nested(folder):
    def read(**options):
        found = read_collection(folder, name="one", options=EvaluateOptions(**options))
        return set(found.corpus.ids), set(found.queries), found

    everything, queries, _ = read()
    judged = {passage for _, passage in QRELS}
    assert (len(everything), queries) == (30, set(QUERIES))
    assert read(max_documents=1)[0] == judged
    twelve, fifteen = read(max_documents=12)[0], read(max_documents=15)[0]
    assert judged < twelve < fifteen < everything
    assert (len(twelve), len(fifteen)) == (12, 15)
    assert read(max_documents=12, seed=1)[0] != twelve == read(max_documents=12)[0]
    _, few, found = read(max_queries=2, max_documents=5)
    assert few < read(max_queries=4)[1] < set(QUERIES)
    assert set(found.qrels) == few
    assert {passage for grades in found.qrels.values() for passage in grades} <= set(found.corpus.ids)
    assert len(found.corpus) == 5


def test_collections_are_found_by_folder_by_parent_and_by_pattern(tmp_path, folder):
    for name in ("a/de", "a/fr", "b/de"):
        write_collection(tmp_path / name, DOCUMENTS, QUERIES, QRELS)
    (tmp_path / "a" / "notes.txt").touch()
    assert find_collections([folder]) == {"one": folder}
    assert list(find_collections([tmp_path / "a"])) == ["de", "fr"]
    assert list(find_collections([f"{tmp_path}/a/d*"])) == ["de"]
    both = find_collections([f"{tmp_path}/*", tmp_path / "a" / "fr"])
    assert list(both) == [f"{tmp_path}/a/de", "fr", f"{tmp_path}/b/de"]
    with pytest.raises(ConfigError, match=r"no collection in .*nothing.*corpus\.jsonl"):
        find_collections([tmp_path / "nothing"])


def test_what_is_wrong_with_a_collection_is_named(tmp_path):
    options = EvaluateOptions()

    def broken(**changes):
        write_collection(
            tmp_path, **({"documents": {"d": "x"}, "queries": {"q": "x"}, "qrels": {("q", "d"): 1}} | changes)
        )
        return read_collection(tmp_path, name="c", options=options)

    assert len(broken().corpus) == 1
    with pytest.raises(ConfigError, match="judged query 'r' is not in"):
        broken(qrels={("r", "d"): 1})
    with pytest.raises(ConfigError, match=r"has no dev\.tsv .*it holds test\.tsv"):
        read_collection(tmp_path, name="c", options=EvaluateOptions(split="dev"))
    broken()
    write_jsonl(tmp_path / "corpus.jsonl", [{"_id": "d", "text": "x"}, {"_id": "d", "text": "y"}])
    with pytest.raises(ConfigError, match="an '_id' on every line, each once"):
        read_collection(tmp_path, name="c", options=options)
    write_jsonl(tmp_path / "queries.jsonl", [{"_id": "q"}])
    with pytest.raises(DocumentError, match=r"queries\.jsonl, line 1: expected"):
        read_collection(tmp_path, name="c", options=options)
