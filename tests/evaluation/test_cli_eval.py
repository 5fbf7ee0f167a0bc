"""``m3-vdb eval`` and ``m3-vdb report`` as a user meets them: a table, files, one-line errors, and what --help says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from m3_vdb.cli import eval as cli_eval
from m3_vdb.cli import main as cli
from m3_vdb.evaluation import Collection, Evaluation
from tests.evaluation._toy import collection, toy_embed


@pytest.fixture(autouse=True)
def toy_model(monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    """The toy in place of the model; what was asked of it."""
    asked: list[dict] = []

    def embed(model, *, max_length, **options):
        asked.append({"model": model, "max_length": max_length, **options})
        return toy_embed(max_length=max_length or 512)

    monkeypatch.setattr(cli_eval, "M3EmbeddingFunction", embed)
    return asked


def m3_vdb(*arguments: object, columns: int = 200) -> Result:
    return CliRunner().invoke(cli.app, [str(one) for one in arguments], env={"COLUMNS": str(columns)})


def main(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    """(exit code, last line of stderr) of the whole command."""
    monkeypatch.setattr("sys.argv", ["m3-vdb", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    return int(stopped.value.code or 0), capsys.readouterr().err.strip().splitlines()[-1]


def write(folder: Path, *parts: Collection, splits: tuple[str, ...] = ("test",)) -> Path:
    """In BEIR layout: one collection with the queries and judgements of each split."""
    (folder / "qrels").mkdir(parents=True)
    texts = [{"_id": one.id, "text": one.text} for one in parts[0].documents]
    queries = [
        {"_id": name, "text": one.text, "lang": one.lang} for part in parts for name, one in part.queries.items()
    ]
    for name, rows in (("corpus", texts), ("queries", queries)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    for split, part in zip(splits, parts, strict=True):
        lines = [f"{q}\t{d}\t{grade}\n" for q, grades in part.qrels.items() for d, grade in grades.items()]
        (folder / "qrels" / f"{split}.tsv").write_text(
            "query-id\tcorpus-id\tscore\n" + "".join(lines), encoding="utf-8"
        )
    return folder


@pytest.fixture
def help_pages(tmp_path: Path) -> Path:
    return write(tmp_path / "data" / "help", collection(n=6))


def test_a_table_and_files(help_pages: Path, tmp_path: Path):
    out = tmp_path / "out"
    done = m3_vdb("eval", help_pages, "--store", tmp_path / "e.qdrant", "--bm25", "--out", out)
    assert done.exit_code == 0, done.output
    found = Evaluation.load(out / "results.json")
    for words in ("help: nDCG@10", "help de", "help en", "mean", "dense", "multi", "bm25"):
        assert words in done.stdout
    row = next(line for line in done.stdout.splitlines() if "mean" in line)
    assert [f"{found.mean[system]['nDCG@10'].value:.3f}" for system in found.systems] == row.replace("│", " ").split()[
        1:
    ]
    assert done.stderr.splitlines()[-1] == f"{out / 'report.html'}, {out / 'report.md'}, {out / 'results.json'}"
    assert "<html" in (out / "report.html").read_text()
    assert sorted(path.name for path in (out / "help").glob("*.trec")) == [
        "all.dense.dense.trec",
        "all.multi_vector.dense.trec",
        "all.sparse.dense.trec",
        "all.trec",
        "bm25.trec",
        "dense.trec",
        "dense_sparse.trec",
        "multi_vector.trec",
        "sparse.trec",
    ]
    assert (tmp_path / "e.qdrant" / "m3.json").is_file()


def test_the_table_fits_a_terminal(help_pages: Path, tmp_path: Path):
    done = m3_vdb("eval", help_pages, "--store", "memory://", "--bm25", "--out", tmp_path / "out", columns=80)
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "…" not in done.stdout, "a heading that does not fit is cut with an ellipsis"


def test_the_record_says_what_was_typed(help_pages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    line = ["eval", str(help_pages), "--store", "memory://", "--modes", "dense", "--out", str(tmp_path / "out x")]
    monkeypatch.setattr("sys.argv", ["/somewhere/bin/m3-vdb", *line])
    assert m3_vdb(*line).exit_code == 0
    found = Evaluation.load(tmp_path / "out x" / "results.json")
    assert found.command == f"m3-vdb eval {help_pages} --store memory:// --modes dense --out '{tmp_path / 'out x'}'"
    assert (found.task, found.store) == ("help", "memory://")


def test_options_reach_the_evaluation(help_pages: Path, tmp_path: Path, toy_model: list[dict]):
    done = m3_vdb(
        *(
            "eval",
            help_pages,
            "--store",
            "memory://",
            "--out",
            tmp_path,
            "--task",
            "Help [de]",
            "--modes",
            "all, sparse",
        ),
        *("--protocol", "union-long", "--weights", "1,2,3", "--dense-sparse-weights", "long_dense_sparse"),
        *("--lang", "de", "--max-queries", "2", "--max-documents", "4", "--max-length", "32", "--mcls-every", "256"),
        *("--model", "a/model", "--runtime", "onnxruntime", "--layout", "beir", "--split", "test"),
    )
    assert done.exit_code == 0, done.output
    found = Evaluation.load(tmp_path / "results.json")
    assert found.task == "Help [de]"
    assert "Help [de]: nDCG@10" in done.stdout, "brackets are no markup"
    assert found.systems == ("all", "sparse")
    assert found.protocol["protocol"] == "union-long"
    assert found.protocol["all"].startswith("1·dense + 2·sparse + 3·multi_vector over dense ∪ sparse")
    assert found.protocol["dense_sparse"].startswith("0.2·dense + 0.8·sparse + 0·multi_vector")
    assert found.protocol["maximum length"] == "queries 32, passages 32 tokens"
    assert [(group.lang, group.queries, group.documents) for group in found.groups] == [("de", 2, 4)]
    assert toy_model == [
        {"model": "a/model", "runtime": "onnxruntime", "max_length": 32, "mcls_every": 256, "on_truncate": "ignore"}
    ]


def test_documents_are_split_pooled_or_cut_as_an_ingest_does_it(help_pages: Path, tmp_path: Path):
    def evaluated(name: str, *options: object) -> Evaluation:
        out = tmp_path / name
        done = m3_vdb("eval", help_pages, "--store", "memory://", "--modes", "multi_vector", *options, "--out", out)
        assert done.exit_code == 0, done.output
        return Evaluation.load(out / "results.json")

    whole = evaluated("whole")
    assert "long documents" not in whole.protocol
    n = whole.groups[0].documents
    split = evaluated("split", "--max-length", 24, "--long-documents", "split", "--overlap", 4)
    assert split.protocol["long documents"] == "split, overlap 4"
    assert split.costs["help"].documents > n == split.groups[0].documents
    assert split.costs["help"].truncated == 0
    for options, words in (
        (("--long-documents", "pool", "--max-rows", 8), "pool, max rows 8"),
        (("--pool-factor", 2.5), "error, pool factor 2.5"),
    ):
        found = evaluated(words, *options)
        assert (found.protocol["long documents"], found.costs["help"].documents) == (words, n)
        assert found.mean != whole.mean


def test_weights_are_tuned_on_another_split(tmp_path: Path):
    parts = collection(n=6, queries=slice(4)), collection(n=6, queries=slice(4, None))
    folder = write(tmp_path / "help", *parts, splits=("test", "train"))
    done = m3_vdb(
        *("eval", folder, "--store", "memory://", "--modes", "all", "--tune-weights", "--dev-split", "train"),
        *("--out", tmp_path / "out"),
    )
    assert done.exit_code == 0, done.output
    (tuning,) = Evaluation.load(tmp_path / "out" / "results.json").tunings
    assert (tuning.mode, tuning.dev_queries) == ("all", 4)
    assert tuning.dev_after >= tuning.dev_before


def test_several_places_and_patterns(tmp_path: Path):
    for lang in ("de", "en"):
        write(tmp_path / "many" / lang, collection(n=4, langs=[lang]))
    store = tmp_path / "stores" / "{collection}.qdrant"
    arguments = ("--store", store, "--modes", "dense")
    one = m3_vdb("eval", tmp_path / "many" / "*", *arguments, "--out", tmp_path / "out")
    assert one.exit_code == 0, one.output
    found = Evaluation.load(tmp_path / "out" / "results.json")
    assert (found.task, [group.collection for group in found.groups]) == ("many", ["de", "en"])
    assert sorted(path.name for path in (tmp_path / "stores").iterdir()) == ["de.qdrant", "en.qdrant"]
    both = m3_vdb("eval", tmp_path / "many" / "de", tmp_path / "many" / "en", *arguments, "--out", tmp_path / "both")
    assert both.exit_code == 0, both.output
    assert Evaluation.load(tmp_path / "both" / "results.json").task == "de, en"


def test_documents_that_were_lost_are_told(help_pages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from m3_vdb.errors import DocumentError
    from m3_vdb.stores import MemoryStore

    upsert = MemoryStore.upsert

    def picky(self, documents, embeddings):
        for index, one in enumerate(documents):
            if one.id.startswith("lo/de/scalc/01/0309"):
                raise DocumentError("refused", index=index)
        upsert(self, documents, embeddings)

    monkeypatch.setattr(MemoryStore, "upsert", picky)
    done = m3_vdb("eval", help_pages, "--store", "memory://", "--modes", "dense", "--out", tmp_path / "out")
    assert done.exit_code == 0
    assert "1 document could not be stored and cannot be found" in done.stderr


ERRORS = {
    "mode": (
        ("--modes", "dense,colbert"),
        "--modes dense,colbert: 'colbert' is not one of dense, sparse",
    ),
    "no mode": (("--modes", ","), "expected one or more of dense, sparse"),
    "protocol": (("--protocol", "msmarco"), "--protocol msmarco: expected one of paper, paper-long, union, union-long"),
    "layout": (("--layout", "xml"), "layout='xml': expected auto, beir"),
    "split": (("--split", "train"), "train.tsv"),
    "language": (("--lang", "sv"), "no queries in 'sv'"),
    "weights": (("--weights", "1,2"), "expected three numbers"),
    "third weight": (("--dense-sparse-weights", "1,1,1"), "the third weight must be 0"),
    "approximate": (("--approximate",), "memory:// has no approximate search"),
    "store": (("--store", "mongodb://x"), "unrecognised store URL 'mongodb://x'"),
    "tuning": (("--tune-weights",), "dev.tsv"),
    "plan": (("--long-documents", "cut"), "long documents: plan 'cut'; expected one of error, truncate, pool, split"),
    "queries": (("--max-queries", "0"), "max_queries=0: at least 1"),
}


@pytest.mark.parametrize("wrong", ERRORS)
def test_errors_are_one_line(wrong: str, help_pages: Path, tmp_path: Path, monkeypatch, capsys):
    arguments, message = ERRORS[wrong]
    store = () if wrong == "store" else ("--store", "memory://")
    code, line = main(monkeypatch, capsys, "eval", help_pages, *store, *arguments, "--out", tmp_path / "out")
    assert code == 1
    assert line.startswith("error: ")
    assert message in line


def test_a_missing_folder_is_named(tmp_path: Path, monkeypatch, capsys):
    code, line = main(monkeypatch, capsys, "eval", tmp_path / "nowhere", "--store", "memory://")
    assert (code, line.startswith(f"error: no collection in {tmp_path / 'nowhere'}: expected")) == (1, True)


def test_two_places_of_one_name_are_told_apart_by_their_paths(tmp_path: Path):
    places = [write(tmp_path / parent / "help", collection(n=2)) for parent in "ab"]
    done = m3_vdb("eval", *places, "--store", "memory://", "--modes", "dense", "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert list(Evaluation.load(tmp_path / "out" / "results.json").costs) == [place.as_posix() for place in places]


def test_a_report_of_several_evaluations(help_pages: Path, tmp_path: Path):
    for name in ("one", "two"):
        m3_vdb("eval", help_pages, "--store", "memory://", "--modes", "dense", "--task", name, "--out", tmp_path / name)
    done = m3_vdb("report", tmp_path / "one", tmp_path / "two" / "results.json", "--out", tmp_path / "both")
    assert done.exit_code == 0, done.output
    text = (tmp_path / "both" / "report.md").read_text(encoding="utf-8")
    assert "one" in text
    assert "two" in text


def test_a_report_needs_results(tmp_path: Path, monkeypatch, capsys):
    code, line = main(monkeypatch, capsys, "report", tmp_path, "--out", tmp_path / "r")
    assert (code, line.startswith(f"error: {tmp_path / 'results.json'} cannot be read")) == (1, True)
    assert not (tmp_path / "r").exists()


def test_help_fits_a_terminal_and_names_what_can_be_chosen():
    shown = m3_vdb("eval", "--help", columns=80)
    assert shown.exit_code == 0
    lines = shown.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    # A name that does not fit is cut with an ellipsis.
    assert "…" not in shown.stdout
    words = " ".join(shown.stdout.replace("│", " ").split())
    for choice in ("paper, paper-long, union, union-long", "auto, beir, miracl, mldr, mkqa, trec, flagembedding"):
        assert choice in words
    for panel in ("What is measured", "Collections", "Model"):
        assert f"─ {panel} ─" in shown.stdout
