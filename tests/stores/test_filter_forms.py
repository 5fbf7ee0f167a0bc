"""Filters as people write them: what is read, what is refused, and that every store finds the same."""

from __future__ import annotations

import datetime
import json

import numpy as np
import pytest
from typer.testing import CliRunner

from m3_vdb.cli.main import app
from m3_vdb.conditions import parse_conditions
from m3_vdb.errors import ConfigError
from m3_vdb.filter_parser import parse_filter
from m3_vdb.types import Document
from tests.stores._corpus import make_embeddings, make_queries


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ({"lang": {"$eq": "de"}}, {"lang": "de"}),
        ({"lang": ("de", "en")}, {"lang": ["de", "en"]}),
        pytest.param({"lang": (code for code in ("de", "en"))}, {"lang": ["de", "en"]}, id="generator"),
        ({"year": range(2000, 2003)}, {"year": [2000, 2001, 2002]}),
        ({"year": np.int64(2004)}, {"year": 2004}),
        ({"year": np.array([1, 2])}, {"year": [1, 2]}),
        ({"ok": np.bool_(True)}, {"ok": True}),
        ({"price": {"$lt": np.float32(2.5)}}, {"price": {"$lt": 2.5}}),
        ({"n": None}, {"n": {"$exists": False}}),
        ({"n": {"$ne": None}}, {"$not": {"n": {"$exists": False}}}),
        ({"n": [5, None]}, {"$or": [{"n": [5]}, {"n": {"$exists": False}}]}),
        ({"meta": {"source": "web"}}, {"meta.source": "web"}),
        ({"meta": {"a": {"$ne": "web"}, "b": {"$gt": 3}}}, {"meta.a": {"$ne": "web"}, "meta.b": {"$gt": 3}}),
        ({"a": {"b": {"c": ["x"]}}}, {"a.b.c": ["x"]}),
        ({"day": datetime.date(2024, 1, 31)}, {"day": "2024-01-31"}),
        ({"day": {"$gte": datetime.date(2024, 1, 31)}}, {"day": {"$gte": "2024-01-31T00:00"}}),
        ({"day": {"$gte": "2024-01-31 10:00"}}, {"day": {"$gte": "2024-01-31T12:00:00+02:00"}}),
    ],
    ids=str,
)  # fmt: skip
def test_what_is_meant_is_read(given, meant):
    read, expected = parse_filter(given), parse_filter(meant)
    assert read == expected or getattr(read, "parts", None) == getattr(expected, "parts", ())


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"year": {"gte": 2000}}, r"unknown operator 'gte'.*here \$gte; a field of that name is 'year.gte'"),
        ({"year": {">=": 2000}}, r"unknown operator '>='.*here \$gte"),
        ({"lang": {"==": "de"}}, r"unknown operator '=='.*here \$eq"),
        (
            {"lang": {"$text": "d"}},
            r"\$text is not a condition on a field: words are looked for in the text",
        ),
        ({"$text": " – "}, r"'\$text': expected text with at least one word, got ' – '"),
        ({"$text": ["d"]}, r"'\$text': expected text with at least one word"),
        ({"lang": {"$regex": "d"}}, r"unknown operator '\$regex'; expected \$gt"),
        ({"lang": {"$eq": ["de"]}}, r"\$eq expected one value.*\$in takes a list"),
        ({"meta": {7: 1}}, "field 7"),
        ({"meta": {"a.b": 1}}, "'a.b' within an object cannot be filtered"),
        ({"day": {"$gte": "2024"}}, r"\$gte expected a finite number, got '2024'; a date is text such as '2024-01-31'"),
        ({"day": {"$gte": "2024-02-30"}}, "a date is text such as"),
        ({"day": {"$gte": "2024-01-31", "$lt": 5}}, "numbers or dates, not both"),
        ({"lang": b"de"}, "cannot match b'de'"),
        ({"when": np.datetime64("2024-01-31", "ns")}, "cannot match"),
        ({"ok": {"$lt": True}}, "finite number, got True"),
    ],
    ids=str,
)
def test_what_means_nothing_is_refused_with_the_right_form(bad, message):
    with pytest.raises(ConfigError, match=message):
        parse_filter(bad)


@pytest.mark.parametrize(
    ("texts", "meant"),
    [
        (["lang = de"], {"lang": {"$in": ["de"]}}),
        (["  lang==de  "], {"lang": {"$in": ["de"]}}),
        (["lang == 'de'"], {"lang": {"$in": ["de"]}}),
        (['lang=["de", "en"]', "lang=fr"], {"lang": {"$in": ["de", "en", "fr"]}}),
        (['lang != ["de","en"]'], {"lang": {"$nin": ["de", "en"]}}),
        (["ok=True", "no=FALSE"], {"ok": {"$in": [True]}, "no": {"$in": [False]}}),
        (["n=null"], {"n": {"$in": [None]}}),
        (["n != None"], {"n": {"$nin": [None]}}),
        (["year >= 2000", "year<2010"], {"year": {"$gte": 2000, "$lt": 2010}}),
        (["day>=2024-01-31"], {"day": {"$gte": "2024-01-31"}}),
        (["$text = pump 7", "year=7"], {"$and": [{"$text": "pump 7"}, {"year": {"$in": [7]}}]}),
        (["meta.source = web"], {"meta.source": {"$in": ["web"]}}),
        (['meta = {"source": "web"}'], {"meta": {"source": "web"}}),
        (["lang=de,en"], {"lang": {"$in": ["de,en"]}}),
        (['code="2004"'], {"code": {"$in": ["2004"]}}),
        (["zip=007"], {"zip": {"$in": ["007"]}}),
        (["name=NaN"], {"name": {"$in": ["NaN"]}}),
        (["name=Müller & Söhne"], {"name": {"$in": ["Müller & Söhne"]}}),
        (['url=https://x.org/?a=b&c=>d'], {"url": {"$in": ["https://x.org/?a=b&c=>d"]}}),
        ([' {"lang": "de"}'], {"lang": "de"}),
        ([], None),
        (["lang!=en", "lang!=fr"], {"lang": {"$nin": ["en", "fr"]}}),
        (['{"year": {"$lt": 2000}}', "lang=de"], {"$and": [{"year": {"$lt": 2000}}, {"lang": {"$in": ["de"]}}]}),
    ],
    ids=str,
)  # fmt: skip
def test_a_condition_of_the_command_line_says_what_is_meant(texts, meant):
    assert parse_conditions(texts) == meant
    assert parse_filter(parse_conditions(texts)) == parse_filter(meant)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lang", "expected FIELD=VALUE"),
        (" = de", "expected FIELD=VALUE"),
        ("", "expected FIELD=VALUE"),
        ("year=>2000", "begins with > in double quotes"),
        ("year=<2000", "expected one of = == != > >= < <="),
        ("lang<>de", "begins with > in double quotes"),
        ("lang===de", "begins with ="),
        ('{"lang": ', "not JSON"),
        ("year>1 & year>2", "year has a bound > already"),
        ("lang=[de, en]", r'not JSON.*a list is written \["de", "en"\]'),
        ("{'lang': 'de'}", "not JSON"),
        ('{"a":' * 100_000, "not JSON"),
    ],
    ids=lambda text: text[:20],
)
def test_a_condition_that_means_nothing_is_refused(text, message):
    with pytest.raises(ConfigError, match=message):
        parse_filter(parse_conditions(text.split(" & ")))


PAYLOADS = {
    "web": {"meta": {"source": "web", "rank": 3, "deep": {"er": [1, 2]}}, "day": "2024-05-01", "n": None},
    "book": {"meta": {"source": ["book", "pdf"], "rank": 1.5}, "day": "2024-05-01T10:30"},
    "dotted": {"meta.source": "web", "day": "2023-12-31T23:59:59.5"},
    "both": {"meta.source": "x", "meta": {"source": "y"}, "day": ["1999-01-01", "2024-06-01"]},
    "zone": {"meta": "web", "day": "2024-05-01T01:00:00+02:00"},
    "list": {"meta": [{"source": "web"}], "day": "2024-5-1x"},
    "blank": {"meta": {"source": None}, "day": 20240501},
    "none": {},
}
EXPECTED = [
    ({"meta.source": "web"}, {"web", "dotted"}),
    ({"meta": {"source": "web"}}, {"web", "dotted"}),
    ({"meta.source": ["x", "pdf"]}, {"book", "both"}),
    ({"meta.source": "y"}, {"both"}),
    ({"meta.source": {"$ne": "web"}}, PAYLOADS.keys() - {"web", "dotted"}),
    ({"meta.source": {"$exists": True}}, {"web", "book", "dotted", "both"}),
    ({"meta.source": None}, PAYLOADS.keys() - {"web", "book", "dotted", "both"}),
    ({"meta": {"rank": {"$gt": 1, "$lt": 2}}}, {"book"}),
    ({"meta.rank": {"$gte": 1}}, {"web", "book"}),
    ({"meta.deep.er": 2}, {"web"}),
    ({"meta": "web"}, {"zone"}),
    ({"day": {"$gte": "2024-01-01"}}, {"web", "book", "both", "zone"}),
    ({"day": {"$gte": "2024-05-01"}}, {"web", "book", "both"}),  # 01:00+02:00 is the day before, in UTC
    ({"day": {"$gt": "2024-05-01"}}, {"book", "both"}),
    ({"day": {"$gte": "2024-01-01", "$lt": "2024-05-15"}}, {"web", "book", "zone"}),
    ({"day": {"$lt": "2024-01-01"}}, {"dotted", "both"}),
    ({"$not": {"day": {"$lt": "2030-01-01"}}}, {"list", "blank", "none"}),
    ({"day": "2024-05-01"}, {"web"}),
    ({"day": {"$gte": 20240501}}, {"blank"}),
    ({"n": None}, set(PAYLOADS)),
]


def test_nested_fields_and_dates_mean_the_same_in_every_store(store):
    store.upsert([Document(name, "t", payload=payload) for name, payload in PAYLOADS.items()], make_embeddings(8))
    for filter, expected in EXPECTED:
        assert dict(store.rank(make_queries(1)[0], filter=filter)).keys() == expected, filter


def test_the_command_line_says_why_nothing_was_found(tmp_path, tiny_bundle):
    corpus, common = tmp_path / "c.jsonl", ["--store", str(tmp_path / "c.qdrant"), "--model", str(tiny_bundle)]
    rows = [{"id": str(i), "text": "a dog", "lang": "de", "code": "2004", "meta": {"source": "web"}} for i in range(3)]
    corpus.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert CliRunner().invoke(app, ["ingest", str(corpus), *common]).exit_code == 0

    def search(condition, *options):
        return CliRunner().invoke(app, ["search", "dog", *common, *options, "--filter", condition])

    for options in ([], ["--json"]):
        done = search("LANG=de", *options)
        assert (done.exit_code, done.stdout) == (0, "")
        assert done.stderr == "no hits; no document has the field 'LANG' (fields: 'code', 'lang', 'meta', …)\n"
    assert search("lang=de,en").stderr == "no hits; the field 'lang' holds \"de\", …\n"
    assert search("code=2004").stderr == "no hits; the field 'code' holds \"2004\", …\n"
    assert "'meta.sauce'" in search("meta.sauce=web").stderr
    assert len(search("meta.source = web", "--json").stdout.splitlines()) == 3
