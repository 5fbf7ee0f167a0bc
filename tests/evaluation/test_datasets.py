"""Collections are found, recognised, named and read, in every layout."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from m3_vdb.errors import ConfigError, DocumentError
from m3_vdb.evaluation.collection import Collection, Query, subsample
from m3_vdb.evaluation.datasets import open_collections
from m3_vdb.evaluation.files import language_of, read_qrels
from m3_vdb.evaluation.layouts import LAYOUTS
from m3_vdb.types import Document
from tests.evaluation import _layouts as mini


def only(place: object, **options: object) -> Collection:
    (found,) = open_collections(place, **options)
    return found


def ids(collection: Collection) -> list[str]:
    return [document.id for document in collection.documents]


@pytest.mark.parametrize("end", ["", ".gz"])
def test_beir(tmp_path, end):
    found = only(mini.beir(tmp_path / "one", end=end))
    assert found.name == "one"
    assert found.lang == ""
    assert found.queries == {"q1": Query("query q1"), "q2": Query("query q2")}
    assert found.qrels == {"q1": {"d1": 1}, "q2": {"d2": 2, "d3": 0}}
    assert found.answers == {}
    assert len(found.documents) == 6
    assert list(found.documents) == list(found.documents) == [Document(i, t) for i, t in mini.DOCUMENTS.items()]


def test_byte_order_mark_crlf_and_numbers_as_ids_are_read(tmp_path):
    corpus = (
        '\ufeff{"_id": 1, "title": "T", "text": "é\u2028x", "more": []}\r\n\r\n{"_id": 2, "title": null, "text": ""}'
    )
    mini.write(tmp_path / "corpus.jsonl.gz", corpus)
    mini.write(tmp_path / "queries.jsonl", '\ufeff\r\n{"_id": 7, "text": "query"}\r\n')
    mini.write(tmp_path / "qrels" / "test.tsv", "\ufeffquery-id\tcorpus-id\tscore\r\n\r\n7\t1\t1\r\n7\t2\t0")
    found = only(tmp_path)
    assert list(found.documents) == [Document("1", "é\u2028x", "T"), Document("2", "")]
    assert found.queries == {"7": Query("query")}
    assert found.qrels == {"7": {"1": 1, "2": 0}}


def test_a_document_without_text_is_one(tmp_path):
    found = only(mini.beir(tmp_path, corpus=[{"_id": "d1", "text": ""}, {"_id": "d2", "text": " ", "title": ""}]))
    assert [document.content.strip() for document in found.documents] == ["", ""]
    assert ids(subsample(found, max_documents=1)) == ["d1", "d2"]


def test_a_query_says_its_language_or_its_folder_does(tmp_path):
    queries = [
        {"_id": "q1", "text": "a", "lang": "fr"},
        {"_id": "q2", "text": "b", "metadata": {"lang": "it"}},
        {"_id": "q3", "text": "c", "metadata": {}},
    ]
    qrels = "q1\td1\t1\nq2\td1\t1\nq3\td1\t1\n"
    found = only(mini.beir(tmp_path / "pt-br", queries=queries, qrels=qrels))
    assert [query.lang for query in found.queries.values()] == ["fr", "it", "pt-br"]
    assert found.lang == "pt-br"
    found = only(mini.beir(tmp_path / "other", queries=queries, qrels=qrels))
    assert [query.lang for query in found.queries.values()] == ["fr", "it", ""]
    assert found.lang == ""
    italian = only(tmp_path / "other", lang="it")
    assert (list(italian.queries), list(italian.qrels)) == (["q2"], ["q2"])
    assert [one.name for one in open_collections(tmp_path, lang=["pt-br", "it"])] == ["other", "pt-br"]
    with pytest.raises(ConfigError, match=r"no queries in 'xx' in .*other"):
        open_collections(tmp_path / "other", lang=["it", "xx"])


@pytest.mark.parametrize(
    ("name", "tag"),
    [
        ("de", 1),
        ("zh_CN", 1),
        ("zh-cn", 1),
        ("sr-Latn", 1),
        ("nq", 0),
        ("DE", 0),
        ("test", 0),
        ("de-small", 0),
        ("e", 0),
    ],
)
def test_what_is_a_language_tag(name, tag):
    assert language_of(Path("data") / name) == name * tag


@pytest.mark.parametrize(("topics", "corpus"), [("miracl", "miracl-corpus"), ("", ""), ("", "miracl-corpus")])
def test_miracl(tmp_path, topics, corpus):
    topics, corpus = tmp_path / topics, tmp_path / corpus
    for lang in ("sw", "de"):
        mini.miracl(topics, corpus, lang)
    german, swahili = open_collections(topics)
    assert (german.name, german.lang, swahili.name, swahili.lang) == ("miracl-de", "de", "miracl-sw", "sw")
    assert swahili.queries == {"0#0": Query("query sw 0", "sw"), "1#0": Query("query sw 1", "sw")}
    assert swahili.qrels == {"0#0": {"7#0": 1, "7#1": 0}, "1#0": {"8#0": 1}}
    assert list(swahili.documents)[1:] == [Document("7#1", "sw 1", "Title"), Document("8#0", "sw", "Other")]
    assert [one.name for one in open_collections(tmp_path)] == ["miracl-de", "miracl-sw"]
    assert [one.name for one in open_collections(f"{topics}/miracl-v1.0-s*")] == ["miracl-sw"]
    with pytest.raises(ConfigError, match=r"topics has no topics\.miracl-v1\.0-de-testA\.tsv.*de-dev\.tsv"):
        open_collections(topics, split="testA")
    shutil.rmtree(corpus / "miracl-corpus-v1.0-de")
    with pytest.raises(ConfigError, match=r"miracl-v1\.0-de has no corpus: expected miracl-corpus-v1\.0-de/docs"):
        open_collections(topics)
    assert only(topics, lang="sw").queries == swahili.queries


def test_mldr(tmp_path):
    for lang in ("zh", "it"):
        mini.mldr(tmp_path, lang)
    italian, chinese = open_collections(tmp_path)
    assert (italian.name, italian.lang, chinese.name) == ("mldr-it", "it", "mldr-zh")
    assert italian.queries == {"q-it-1": Query("eins", "it"), "q-it-2": Query("zwei", "it")}
    assert italian.qrels == {"q-it-1": {"doc-it-a": 1}, "q-it-2": {"doc-it-b": 1, "doc-it-c": 0}}
    assert next(iter(italian.documents)) == Document("doc-it-a", "long a")
    assert only(tmp_path, lang="zh").name == only(tmp_path / "mldr-v1.0-zh").name == "mldr-zh"
    with pytest.raises(ConfigError, match=r"has no dev\.jsonl or dev\.jsonl\.gz \(it holds corpus\.jsonl\.gz, test"):
        open_collections(tmp_path, split="dev")


@pytest.mark.parametrize("corpus", ["corpus.jsonl.gz", "corpus.jsonl", "nq/corpus.jsonl"])
def test_mkqa_is_one_collection_of_all_languages(tmp_path, corpus):
    found = only(mini.mkqa(tmp_path, corpus=corpus))
    assert (found.name, found.lang, found.qrels) == ("mkqa", "en", {})
    assert found.by_language() == {"de": ["-11-de", "15-de", "17-de"], "en": ["-11-en", "15-en", "17-en"]}
    assert found.queries["-11-de"] == Query("de -11", "de", "-11")
    assert found.answers["-11-de"] == found.answers["-11-en"] == ("D. Edmunds", "Dave Edmunds")
    assert found.answers["15-de"] == ("1970", "70")
    assert found.answers["17-de"] == ("in Rome",)
    texts = [document.content for document in found.documents]
    assert texts[:2] == ["i hear you knocking\na hit for dave edmunds - in 1970.", "rome\nit's in rome."]
    assert ids(subsample(found, max_documents=1)) == ["doc0", "doc1"]
    assert len(ids(subsample(found, max_documents=3))) == 3
    assert list(only(tmp_path, lang=["de"]).queries) == ["-11-de", "15-de", "17-de"]


@pytest.mark.parametrize("end", ["", ".gz"])
def test_trec(tmp_path, end):
    found = only(mini.trec(tmp_path / "en", end=end))
    assert found.queries == {"301": Query("International\nOrganized Crime & more", "en"), "302": Query("Polio", "en")}
    assert found.qrels == {"301": {"FT-1": 1}, "302": {"FT-2": 2, "FT-1": -1}}
    assert list(found.documents) == [
        Document("FT-1", "Fish & chips, 1 < 2.\nSecond.\nThird.", "A Headline"),
        Document("FT-2", "no text element"),
    ]


def test_trec_with_tables_jsonl_and_several_splits(tmp_path):
    for split in ("dev", "test"):
        mini.write(tmp_path / f"topics.{split}.tsv", f"1\tquery {split}\n2\tunjudged\n")
        mini.write(tmp_path / f"qrels.{split}.tsv", "1\t0\ta\t1\n")
    mini.write_rows(tmp_path / "corpus" / "part" / "b.jsonl", [{"id": "b", "text": "y"}])
    mini.write_rows(tmp_path / "corpus" / "a.jsonl.gz", [{"id": "a", "text": "x"}])
    assert only(tmp_path).queries == {"1": Query("query test")}
    assert only(tmp_path, split="dev").queries == {"1": Query("query dev")}
    assert sorted(ids(only(tmp_path))) == ["a", "b"]
    with pytest.raises(
        ConfigError, match=r"one topics\* of the split 'train', there are topics\.dev\.tsv, topics\.test"
    ):
        open_collections(tmp_path, split="train")
    (tmp_path / "topics.test.tsv").unlink()
    with pytest.raises(ConfigError, match=r"one topics\* of the split 'test', there are topics\.dev\.tsv"):
        open_collections(tmp_path)


def test_flagembedding(tmp_path):
    found = only(mini.flagembedding(tmp_path / "fr"))
    assert (found.name, found.lang) == ("fr", "fr")
    assert found.queries == {"q": Query("query", "fr")}
    assert found.qrels == {"q": {"a": 1, "b": 0}}
    assert list(found.documents) == [Document("a", "x", "T"), Document("b", "y")]
    with pytest.raises(ConfigError, match=r"has no dev_queries\.jsonl"):
        open_collections(tmp_path, split="dev")


def test_collections_are_found_by_folder_by_parent_and_by_pattern(tmp_path):
    for name in ("a/de", "a/fr", "b/de"):
        mini.beir(tmp_path / name)
    mini.flagembedding(tmp_path / "a" / "it")
    (tmp_path / "a" / "notes.txt").touch()
    (tmp_path / "a" / "empty").mkdir()
    assert [one.name for one in open_collections(tmp_path / "a")] == ["de", "fr", "it"]
    assert [one.name for one in open_collections(tmp_path / "a", layout="beir")] == ["de", "fr"]
    assert [one.name for one in open_collections(f"{tmp_path}/a/d*")] == ["de"]
    both = [one.name for one in open_collections(f"{tmp_path}/*")]
    assert both == [f"{tmp_path}/a/de", "fr", "it", f"{tmp_path}/b/de"]
    several = open_collections([tmp_path / "b", tmp_path / "a" / "de", tmp_path / "b" / "de"])
    assert [one.name for one in several] == [f"{tmp_path}/b/de", f"{tmp_path}/a/de"]
    for place in ("one", "two"):
        mini.mldr(tmp_path / "long" / place, "th")
    assert [one.name for one in open_collections(tmp_path / "long")] == [
        f"{tmp_path}/long/{place}/mldr-th" for place in ("one", "two")
    ]


def test_where_there_is_nothing_every_layout_says_what_it_expects(tmp_path):
    with pytest.raises(ConfigError, match=r"no collection in .*nothing") as caught:
        open_collections(tmp_path / "nothing")
    assert all(layout.expected in str(caught.value) for layout in LAYOUTS.values())
    with pytest.raises(ConfigError, match="trec: topics") as caught:
        open_collections(mini.beir(tmp_path / "beir"), layout="trec")
    assert "mldr" not in str(caught.value)
    with pytest.raises(ConfigError, match="layout='bier': expected auto, beir, miracl, mldr, mkqa, trec"):
        open_collections(tmp_path, layout="bier")


def test_two_layouts_in_one_folder_must_be_told_apart(tmp_path):
    mini.mkqa(mini.beir(tmp_path), corpus="corpus.jsonl")
    with pytest.raises(ConfigError, match=r"several layouts \(beir, mkqa\)"):
        open_collections(tmp_path)
    assert only(tmp_path, layout="mkqa").name == "mkqa"


def test_documents_are_read_when_they_are_needed_and_anew_each_time(tmp_path):
    found = only(mini.beir(tmp_path))
    mini.write_rows(tmp_path / "corpus.jsonl", [{"_id": "new", "text": "x"}])
    assert ids(found) == ["new"]
    mini.write(tmp_path / "corpus.jsonl", "{")
    documents = iter(found.documents)
    with pytest.raises(DocumentError, match=r"corpus\.jsonl, line 1"):
        next(documents)


def test_a_repeated_id_is_found_however_it_is_read(tmp_path):
    rows = [{"_id": "d1", "text": "x"}, {"_id": "d2", "text": "x"}, {"_id": "d1", "text": "y"}]
    found = only(mini.beir(tmp_path, corpus=rows))
    for read in (len, ids_of := lambda documents: [document.id for document in documents]):
        with pytest.raises(DocumentError, match=r"corpus\.jsonl, line 3: the id 'd1' is not unique") as caught:
            read(found.documents)
        assert caught.value.index == 2
    first = iter(found.documents)
    assert ids_of([next(first), next(first)]) == ["d1", "d2"]


grades = st.dictionaries(
    st.text("abc#1é", min_size=1, max_size=4),
    st.dictionaries(st.text("xyz#2", min_size=1, max_size=4), st.integers(-2, 3), min_size=1, max_size=4),
    min_size=1,
    max_size=5,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(grades, st.booleans(), st.booleans(), st.sampled_from(["\n", "\r\n", "\n\n"]), st.randoms(use_true_random=False))
def test_judgements_come_back_as_they_were_written(tmp_path, qrels, trec, header, end, shuffler):
    zero = ["0"] if trec else []
    lines = [[query, *zero, name, str(grade)] for query, of in qrels.items() for name, grade in of.items()]
    shuffler.shuffle(lines)
    names = [["query-id", *(["iter"] if trec else []), "corpus-id", "score"]] * header
    mini.write(tmp_path / "qrels.tsv", end.join("\t".join(line) for line in names + lines))
    assert read_qrels(tmp_path / "qrels.tsv", trec=trec) == qrels


def test_reading_needs_neither_torch_nor_a_runtime():
    code = "import sys, m3_vdb.evaluation.datasets; print({'torch', 'train', 'onnxruntime'} & sys.modules.keys())"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout == "set()\n"
