"""Good documents are stored whatever stands beside them; the report counts everything."""

from pathlib import Path

import numpy as np
import pytest

from m3_vdb import Document, M3EmbeddingFunction
from m3_vdb.ingest import Progress, Rejected, ingest
from m3_vdb.stores import MemoryStore


@pytest.fixture(scope="module")
def embed(tiny_bundle: Path) -> M3EmbeddingFunction:
    return M3EmbeddingFunction(tiny_bundle, runtime="onnxruntime", device="cpu")


def test_what_is_stored_is_what_the_embedding_function_gives(embed: M3EmbeddingFunction) -> None:
    documents = [Document("a", "dense vector"), Document("b", "поиск слово", title="Suche"), Document("c", "")]
    with MemoryStore(embed.identity) as store:
        report = ingest(documents, embed, store)
        assert (report.documents, report.rejected, store.count()) == (3, [], 3)
        expected = embed.encode_documents([document.content for document in documents])
        assert report.tokens == expected.token_counts.sum()
        hit = store.query(expected[1], limit=1, explain=True)[0]
    assert hit.document == documents[1]
    assert hit.parts is not None
    assert hit.parts.dense == pytest.approx(1, abs=1e-5)
    assert hit.parts.multi_vector == pytest.approx(1, abs=1e-5)


def test_bad_items_are_set_aside_and_every_good_one_is_stored(embed: M3EmbeddingFunction) -> None:
    items = [
        Document("a", "dense"),
        Rejected("file, line 2", "not JSON"),
        Document("b", "lone \ud800 surrogate"),
        Document("c", "sparse"),
        Document("d", "payload", payload={"bad": object()}),
        Document("e", "search"),
    ]
    with MemoryStore(embed.identity) as store:
        report = ingest(items, embed, store)
        stored = {document.id for document in store.get(["a", "b", "c", "d", "e"])}
    assert stored == {"a", "c", "e"}
    assert [rejected.where for rejected in report.rejected] == ["file, line 2", "b", "d"]
    assert "surrogate" in report.rejected[1].reason


def test_a_text_that_makes_the_model_return_nan_costs_itself_only(embed: M3EmbeddingFunction) -> None:
    poison = embed.tokenizer.encode(["model"], max_length=8).ids[1]

    class PoisonedSession:
        description = "poisoned"

        def run(self, outputs, input_ids, attention_mask):
            raw = dict(embed.session.run(outputs, input_ids, attention_mask))
            raw["dense_vecs"][(input_ids == poison).any(axis=1)] = np.nan
            return raw

    poisoned = M3EmbeddingFunction(embed.bundle.path, session=PoisonedSession())
    with MemoryStore(embed.identity) as store:
        report = ingest([Document("a", "token"), Document("b", "model"), Document("c", "text")], poisoned, store)
        assert store.count() == report.documents == 2
    assert [rejected.where for rejected in report.rejected] == ["b"]


def test_progress_is_told_after_every_batch_and_truncation_is_counted(embed: M3EmbeddingFunction) -> None:
    documents = [Document(str(i), "vector " * (100 if i == 3 else 2)) for i in range(5)]
    seen: list[Progress] = []
    with MemoryStore(embed.identity) as store:
        report = ingest(documents, embed, store, batch_documents=2, progress=seen.append)
    assert [state.documents for state in seen] == [2, 4, 5]
    assert report.truncated == 1
