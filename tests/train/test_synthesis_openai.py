"""Questions from an endpoint: a stub on localhost speaks /chat/completions, so nothing here needs a model or a key."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from m3_vdb.errors import ConfigError, MissingExtraError
from train.synthesis.asking import Answer, KeptAnswers, RequestFailedError, clean
from train.synthesis.config import SynthesizeConfig
from train.synthesis.stage import Outcome, fault, settle, synthesize

pytestmark = pytest.mark.integration
KEY = "sk-stub-0123456789"
LANGUAGES = {
    "en": "The keeper of lighthouse {} wrote letters every evening, and nobody on the mainland ever answered them.",
    "zh": "第{}号灯塔的看守人每天晚上都写信，可是大陆上从来没有人给他回信，他把所有的信都放进了一个木箱里。",
    "th": "ผู้ดูแลประภาคารหมายเลข {} เขียนจดหมายทุกเย็น แต่ไม่มีใครบนแผ่นดินใหญ่ตอบกลับเขาเลย",
    "ar": "كان حارس المنارة رقم {} يكتب الرسائل كل مساء ولم يجبه أحد من سكان البر في أي يوم من الأيام.",
}


@dataclass
class Reply:
    """What the stub sends. ``content`` is the model's message; ``body`` replaces the whole response."""

    content: str | None = None
    status: int = 200
    message: dict[str, Any] = field(default_factory=dict)
    finish_reason: str = "stop"
    body: str | None = None
    content_type: str = "application/json"

    def encode(self) -> bytes:
        if self.body is not None:
            return self.body.encode()
        if self.status != 200:
            return json.dumps({"error": {"message": f"stub says {self.status}", "type": "stub"}}).encode()
        message = {"role": "assistant", "content": self.content, **self.message}
        choice = {"index": 0, "finish_reason": self.finish_reason, "message": message, "logprobs": None}
        usage = {"prompt_tokens": 100, "completion_tokens": 7, "total_tokens": 107}
        fields = {"id": "1", "object": "chat.completion", "created": 1, "model": "stub", "usage": usage}
        return json.dumps(fields | {"choices": [choice]}).encode()


def question_about(passage: str) -> str:
    return f"Which lighthouse is number {hashlib.sha256(passage.encode()).hexdigest()[:12]}?"


class Stub:
    """A stub of an OpenAI-compatible endpoint: sends what ``answer(passage, attempt)`` says, remembers what it got."""

    def __init__(self) -> None:
        self.answer: Callable[[str, int], Reply] = lambda passage, attempt: Reply(question_about(passage))
        self.delay = 0.0
        self.seen: Counter[str] = Counter()
        self.bodies: list[dict[str, Any]] = []
        self.authorization: set[str | None] = set()
        self.busy = self.busiest = 0
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/v1"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _reply(self, path: str, headers: Any, body: dict[str, Any]) -> Reply:
        found = re.search(r"<passage>\n(.*)\n</passage>", body["messages"][-1]["content"], re.DOTALL)
        assert found is not None
        with self._lock:
            self.busy += 1
            self.busiest = max(self.busiest, self.busy)
            self.seen[found[1]] += 1
            attempt = self.seen[found[1]]
            self.bodies.append(body)
            self.authorization.add(headers["Authorization"])
        time.sleep(self.delay)
        with self._lock:
            self.busy -= 1
        return self.answer(found[1], attempt) if path == "/v1/chat/completions" else Reply(status=404)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        stub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                reply = stub._reply(self.path, self.headers, body)
                data = reply.encode()
                self.send_response(reply.status)
                self.send_header("Content-Type", reply.content_type)
                self.send_header("Content-Length", str(len(data)))
                self.send_header("retry-after-ms", "1")
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *arguments: object) -> None:
                pass

        return Handler


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stub]:
    monkeypatch.setenv("STUB_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "*")
    stub = Stub()
    yield stub
    stub.close()


def article(number: int, lang: str = "en") -> dict[str, object]:
    text = "\n\n".join(LANGUAGES[lang].format(f"{number}-{part}") for part in range(6))
    return {"id": f"{lang}-{number}", "title": f"Lighthouse {number}", "text": text, "lang": lang}


def settings(
    tmp_path: Path, stub: Stub, rows: list[dict[str, object]] | int = 6, **changes: object
) -> SynthesizeConfig:
    rows = [article(number) for number in range(rows)] if isinstance(rows, int) else rows
    path = tmp_path / "articles.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    values: dict[str, Any] = {
        "articles": [path],
        "out": tmp_path / "rows.jsonl",
        "model": "stub",
        "base_url": stub.url,
        "api_key_env": "STUB_KEY",
        "min_characters": 250,
        "min_passage_characters": 40,
        "max_passage_characters": 200,
        "concurrency": 3,
        "max_retries": 2,
        "timeout": 5.0,
    }
    return SynthesizeConfig(**values | changes)


def kept_answers(config: SynthesizeConfig) -> dict[str, Answer]:
    return KeptAnswers(config.out).by_key


def rows_of(config: SynthesizeConfig) -> list[dict[str, Any]]:
    return [json.loads(line) for line in config.out.read_text(encoding="utf-8").splitlines()]


# --- what is asked, what comes back


def test_every_passage_is_asked_about_once_and_its_row_has_the_answer(tmp_path, stub):
    stub.delay = 0.02
    config = settings(
        tmp_path, stub, [article(i, lang) for i in range(2) for lang in LANGUAGES], questions_per_article=2
    )
    report = synthesize(config)
    rows = rows_of(config)
    assert [row["id"] for row in rows] == [f"{lang}-{i}" for i in range(2) for lang in LANGUAGES for _ in range(2)]
    assert stub.seen == Counter(row["passage"] for row in rows)
    assert len(stub.seen) == 16
    for row in rows:
        assert row["query"] == question_about(row["passage"])
        assert row["passage"] in row["pos"][0].partition("\n")[2]
        assert row["neg"] == []
    assert (report.rows, report.requests, report.reused, report.rejected) == (16, 16, 0, {})
    assert (report.prompt_tokens, report.completion_tokens) == (1600, 112)
    assert 1 < stub.busiest <= 3, "several at a time, and no more than asked for"


def test_rows_stand_in_the_order_of_the_articles_whatever_comes_first(tmp_path, stub):
    def answer(passage: str, attempt: int) -> Reply:
        time.sleep(0.1 if re.search(r"lighthouse 0-", passage) else 0)
        return Reply(question_about(passage))

    stub.answer = answer
    config = settings(tmp_path, stub)
    synthesize(config)
    assert [row["id"] for row in rows_of(config)] == [f"en-{i}" for i in range(6)]
    kept = [answer.question for answer in kept_answers(config).values()]
    assert kept[0] != rows_of(config)[0]["query"], "the answers did come in another order"


def test_the_request_carries_model_limits_and_prompt(tmp_path, stub):
    synthesize(settings(tmp_path, stub, 1, max_tokens=99, temperature=0.5))
    (body,) = stub.bodies
    assert (body["model"], body["max_tokens"], body["temperature"]) == ("stub", 99, 0.5)
    system, user = body["messages"]
    assert (system["role"], user["role"]) == ("system", "user")
    assert "Lighthouse 0" in user["content"]
    synthesize(settings(tmp_path, stub, 1))
    assert "temperature" not in stub.bodies[-1], "the model's own default"


def test_a_passing_failure_is_tried_again(tmp_path, stub):
    failures = [Reply(status=status) for status in (500, 429, 503)]
    stub.answer = lambda passage, attempt: (
        failures[int(passage.split("lighthouse ")[1][0]) % 3] if attempt == 1 else Reply(question_about(passage))
    )
    report = synthesize(settings(tmp_path, stub))
    assert (report.rows, report.rejected) == (6, {})
    assert set(stub.seen.values()) == {2}


UNUSABLE = {
    "refusal": (Reply(message={"refusal": "I cannot help with that."}), "refused"),
    "content filter": (Reply("Who", finish_reason="content_filter"), "refused"),
    "blank": (Reply(" \n"), "blank answer"),
    "null": (Reply(None), "blank answer"),
    "declined": (Reply("NONE."), "blank answer"),
    "only thinking": (Reply("<think>Hm, what?</think>\n"), "blank answer"),
    "cut off": (Reply("Which lighthouse was", finish_reason="length"), "answer cut off at max_tokens"),
    "too short": (Reply("Who?"), "question too short"),
    "chatty": (Reply("Sure! Here it is:\n\nWho keeps the lighthouse?"), "question of several lines"),
}


def test_an_unusable_answer_costs_its_passage_and_is_not_paid_twice(tmp_path, stub):
    """Article 0 gets a good answer, every other one of the unusable ones."""
    replies = [reply for reply, _ in UNUSABLE.values()]

    def answer(passage: str, attempt: int) -> Reply:
        number = int(re.findall(r"lighthouse (\d+)-", passage)[0])
        return replies[number - 1] if number else Reply(question_about(passage))

    stub.answer = answer
    config = settings(tmp_path, stub, 1 + len(replies))
    for _ in range(2):
        report = synthesize(config)
        assert report.rejected == Counter(reason for _, reason in UNUSABLE.values())
        assert [row["id"] for row in rows_of(config)] == ["en-0"]
    assert set(stub.seen.values()) == {1}


def test_questions_that_repeat_or_fit_two_articles_are_rejected(tmp_path, stub):
    def answer(passage: str, attempt: int) -> Reply:
        if "lighthouse 1-" in passage:
            return Reply(f'"{passage.upper()}"')
        return Reply(
            "Who keeps the lighthouse?" if re.search(r"lighthouse [24]-", passage) else question_about(passage)
        )

    stub.answer = answer
    config = settings(tmp_path, stub)
    report = synthesize(config)
    assert report.rejected == {"question repeats the passage": 1, "question fits several articles": 2}
    assert [row["id"] for row in rows_of(config)] == ["en-0", "en-3", "en-5"]


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("  Who keeps it?\n", "Who keeps it?"),
        ('"Who keeps it?"', "Who keeps it?"),
        ("「谁在看守？」", "谁在看守？"),
        ('Who said "no"', 'Who said "no"'),
        ("<think>\nlong\n</think>\n\nWho keeps it?", "Who keeps it?"),
        ("Who\ud800 keeps it?", "Who keeps it?"),
        ("none", ""),
        ("Is there none?", "Is there none?"),
        ('"', '"'),
    ],
)
def test_replies_are_cleaned(reply, expected):
    assert clean(reply) == expected


# --- failures


def test_a_failed_request_is_asked_again_by_the_next_run(tmp_path, stub):
    broken = True
    stub.answer = lambda passage, attempt: (
        Reply(status=500) if broken and "lighthouse 2-" in passage else Reply(question_about(passage))
    )
    config = settings(tmp_path, stub)
    report = synthesize(config)
    assert (report.rows, report.rejected) == (5, {"request failed (HTTP 500)": 1})
    assert sorted(stub.seen.values()) == [1, 1, 1, 1, 1, 3], "one request and two retries"
    broken = False
    report = synthesize(config)
    assert (report.rows, report.rejected, report.requests, report.reused) == (6, {}, 1, 5)
    assert [row["id"] for row in rows_of(config)] == [f"en-{i}" for i in range(6)]


def test_a_strange_response_and_silence_are_failed_requests(tmp_path, stub):
    strange = [
        Reply(body="<html>Welcome</html>", content_type="text/html"),
        *(Reply(body=body) for body in ("{}", '{"choices": [{"index": 0}]}', '{"choices": [')),
        Reply(status=400),
    ]
    stub.answer = lambda passage, attempt: strange[int(re.findall(r"lighthouse (\d+)-", passage)[0])]
    report = synthesize(settings(tmp_path, stub, 5, max_retries=0))
    assert report.rejected == {"request failed (no chat completion)": 4, "request failed (HTTP 400)": 1}
    stub.delay = 0.5
    report = synthesize(settings(tmp_path, stub, 1, max_retries=0, timeout=0.1))
    assert (report.rows, report.rejected) == (0, {"request failed (timeout)": 1})


def test_an_endpoint_that_is_down_ends_the_run_and_keeps_the_answers(tmp_path, stub):
    stub.answer = lambda passage, attempt: (
        Reply(question_about(passage)) if "lighthouse 0-" in passage else Reply(status=500)
    )
    config = settings(tmp_path, stub, 60, max_retries=0, concurrency=1)
    with pytest.raises(
        RequestFailedError, match=r"10 requests failed in a row, the last one: .*stub says 500.*run again"
    ):
        synthesize(config)
    assert not config.out.exists()
    assert sum(stub.seen.values()) < 20
    assert len(kept_answers(config)) == 1


def test_failures_here_and_there_do_not_end_the_run(tmp_path, stub):
    stub.answer = lambda passage, attempt: (
        Reply(status=500) if re.search(r"lighthouse \d*[1-8]-", passage) else Reply(question_about(passage))
    )
    report = synthesize(settings(tmp_path, stub, 30, max_retries=0))
    assert (report.rows, report.rejected) == (6, {"request failed (HTTP 500)": 24})


@pytest.mark.parametrize("status", [401, 404])
def test_a_wrong_key_or_model_ends_the_run_and_hides_the_key(tmp_path, stub, status):
    body = json.dumps({"error": {"message": f"Incorrect API key provided: {KEY}"}})
    stub.answer = lambda passage, attempt: Reply(status=status, body=body)
    config = settings(tmp_path, stub, 40)
    with pytest.raises(ConfigError, match=r"Incorrect API key provided: \*\*\*: check api_key_env, model and base_url"):
        synthesize(config)
    assert sum(stub.seen.values()) <= config.concurrency, "none is sent after the first refusal"


def test_a_missing_key_is_an_error_before_anything_is_sent(tmp_path, stub, monkeypatch):
    monkeypatch.delenv("STUB_KEY")
    with pytest.raises(ConfigError, match="environment variable STUB_KEY is not set"):
        synthesize(settings(tmp_path, stub))
    assert not stub.seen
    assert synthesize(settings(tmp_path, stub, api_key_env="")).rows == 6


def test_without_the_client_library_the_message_is_the_install_command(tmp_path, stub, monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'm3-vdb\[synthesize\]'"):
        synthesize(settings(tmp_path, stub))


def test_the_key_is_sent_and_written_nowhere(tmp_path, stub, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    stub.answer = lambda passage, attempt: Reply(status=500) if attempt == 1 else Reply(question_about(passage))
    report = synthesize(settings(tmp_path, stub))
    assert stub.authorization == {f"Bearer {KEY}"}
    files = [path for path in tmp_path.iterdir() if path.is_file()]
    assert {path.name for path in files} == {"articles.jsonl", "rows.jsonl", "rows.jsonl.answers.jsonl"}
    written = [path.read_text(encoding="utf-8") for path in files]
    assert len(caplog.records) > 6, "the client library does log at this level"
    for text in (*written, caplog.text, *capfd.readouterr(), report.summary()):
        assert KEY not in text


# --- resuming


def test_a_finished_run_is_repeated_for_nothing(tmp_path, stub):
    config = settings(tmp_path, stub)
    synthesize(config)
    before = config.out.read_bytes()
    report = synthesize(config)
    assert config.out.read_bytes() == before
    assert (report.requests, report.reused, report.prompt_tokens) == (0, 6, 0)
    assert sum(stub.seen.values()) == 6


def test_more_articles_cost_only_the_new_ones(tmp_path, stub):
    config = settings(tmp_path, stub, 12, max_articles=5)
    synthesize(config)
    report = synthesize(replace(config, max_articles=9))
    assert (report.rows, report.requests, report.reused) == (9, 4, 5)
    assert synthesize(replace(config, model="other")).requests == 5
    assert synthesize(replace(config, concurrency=1, timeout=9.0, max_retries=0)).requests == 0


def test_an_exception_in_the_middle_keeps_what_was_answered(tmp_path, stub):
    config = settings(tmp_path, stub, 40)

    def interrupt(done: int, most: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        synthesize(config, report=interrupt)
    asked = sum(stub.seen.values())
    assert 1 <= asked < 40
    assert not config.out.exists()
    report = synthesize(config)
    assert (report.rows, report.reused, report.requests) == (40, asked, 40 - asked)
    assert set(stub.seen.values()) == {1}


RUN = """
import sys
from pathlib import Path
from train.synthesis.config import SynthesizeConfig
from train.synthesis.stage import synthesize
folder, url = Path(sys.argv[1]), sys.argv[2]
synthesize(SynthesizeConfig(
    articles=[folder / "articles.jsonl"], out=folder / "rows.jsonl", model="stub", base_url=url,
    api_key_env="STUB_KEY", min_characters=250, min_passage_characters=40, max_passage_characters=200, concurrency=3,
))
"""


def test_a_killed_run_goes_on_where_it_was(tmp_path, stub):
    stub.delay = 0.05
    config = settings(tmp_path, stub, 40)
    process = subprocess.Popen([sys.executable, "-c", RUN, str(tmp_path), stub.url], env=os.environ.copy())
    while len(kept_answers(config)) < 8:
        assert process.poll() is None, "finished before it could be killed"
        time.sleep(0.01)
    process.kill()
    process.wait()
    time.sleep(2 * stub.delay)  # requests under way come to an end in the stub
    kept = len(kept_answers(config))
    assert 8 <= kept < 40
    assert not config.out.exists()

    report = synthesize(config)
    assert (report.rows, report.reused, report.requests) == (40, kept, 40 - kept)
    again = [passage for passage, times in stub.seen.items() if times > 1]
    assert set(stub.seen.values()) <= {1, 2}
    assert len(again) <= 3, "only what was under way at the kill"
    assert [row["id"] for row in rows_of(config)] == [f"en-{i}" for i in range(40)]


def test_only_the_passage_of_a_torn_last_line_is_asked_again(tmp_path, stub):
    config = settings(tmp_path, stub)
    synthesize(config)
    before, path = config.out.read_bytes(), tmp_path / "rows.jsonl.answers.jsonl"
    path.write_bytes(path.read_bytes()[:-5])
    report = synthesize(config)
    assert (report.rows, report.requests, report.reused) == (6, 1, 5)
    assert config.out.read_bytes() == before
    assert len(kept_answers(config)) == 6
    assert path.read_bytes().count(b"\n") == 6


def test_a_damaged_line_in_the_middle_is_named(tmp_path):
    path = tmp_path / "rows.jsonl.answers.jsonl"
    path.write_text('{"key": "a", "question": "Who?"}\nnonsense\n', encoding="utf-8")
    with pytest.raises(ConfigError, match=r"answers\.jsonl, line 2 is not a kept answer"):
        KeptAnswers(tmp_path / "rows.jsonl")


def test_an_answer_is_on_disk_when_it_is_added(tmp_path):
    out = tmp_path / "new" / "rows.jsonl"
    answers = KeptAnswers(out)
    assert not out.parent.exists(), "made at the first answer"
    answers.add("a", Answer("Who\u2028is 谁?", "", 3, 4))
    assert KeptAnswers(out).by_key == {"a": Answer("Who\u2028is 谁?", "", 3, 4)} == answers.by_key
    answers.close()


# --- dry run


def test_a_dry_run_asks_nothing_and_tells_what_is_left_to_pay(tmp_path, stub, monkeypatch):
    config = settings(tmp_path, stub, 10, max_articles=4)
    synthesize(config)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    monkeypatch.delenv("STUB_KEY")
    monkeypatch.setitem(sys.modules, "openai", None)
    dry = replace(config, max_articles=10, dry_run=True, max_tokens=256, prompt_price=2.0, completion_price=1e4)
    report = synthesize(dry)
    assert sum(stub.seen.values()) == 4, "those of the run before"
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert (report.dry_run, report.passages, report.reused, report.rows) == (True, 10, 4, 0)
    assert (report.requests, report.completion_tokens) == (6, 6 * 256)
    prompt = stub.bodies[0]["messages"]
    assert report.prompt_tokens == pytest.approx(6 * sum(len(m["content"]) for m in prompt) / 4, rel=0.01)
    assert report.cost == pytest.approx(report.prompt_tokens * 2e-6 + 6 * 256 * 1e-2)
    assert prompt[0]["content"] in report.prompt
    assert "<passage>\nThe keeper of lighthouse" in report.prompt
    assert "dry run: 6 requests" in report.summary()
    assert report.prompt in report.summary()
    free = synthesize(replace(dry, prompt_price=0.0, completion_price=0.0))
    assert free.cost is None
    assert "cost" not in free.summary()


# --- which questions are used, and the file of rows


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("Who built the mill?", ""),
        ("水の沸点は何度？", ""),
        ("Why?", "question too short"),
        ("何?", "question too short"),
        ("...................", "question too short"),
        ("who " * 200, "question too long"),
        ("Who?\nThe miller built it.", "question of several lines"),
        ("THE MILLER built the mill; in the year of the great flood", "question repeats the passage"),
        ("Is it so that the miller built the mill in the year of the great flood?", "question repeats the passage"),
        ("the mill in the year of the great flood", "question repeats the passage"),
        ("in the year of the flood", ""),
    ],
)
def test_unfit_questions_are_named(question, expected):
    text = "The miller built the mill in the year of the great flood."
    assert fault(question, text) == expected


def test_a_question_about_two_articles_is_dropped():
    asked = [("a", "Who?"), ("b", "When?"), ("c", "who"), ("b", "WHEN"), ("c", "Where?"), ("d", None), ("e", "Who?")]
    settled = settle([Outcome(article, 0, question) for article, question in asked])
    assert [outcome.question for outcome in settled] == [None, "When?", None, None, "Where?", None, None]
    several, twice = "question fits several articles", "question asked twice"
    assert [outcome.reason for outcome in settled] == [several, "", several, twice, "", "", several]


def test_a_row_holds_the_query_the_whole_article_and_the_passage(tmp_path, stub):
    plain = {"id": "plain", "text": article(1)["text"]}
    figures = {"id": "table", "text": "12 345 6789 0.1\n" * 40}
    config = settings(tmp_path, stub, [article(0), plain, figures])
    seen: list[tuple[int, int]] = []
    report = synthesize(config, report=lambda done, most: seen.append((done, most)))
    first, second = rows_of(config)
    assert first["pos"] == [f"Lighthouse 0\n{article(0)['text']}"]
    assert first["passage"] in str(article(0)["text"])
    assert second["pos"] == [article(1)["text"]]
    assert sorted(first) == ["id", "lang", "neg", "passage", "pos", "query", "source"]
    assert first.keys() - second.keys() == {"lang"}
    assert first["source"] == "synthetic"
    assert report.rejected == {"article without a usable passage": 1}
    assert "2 rows written" in report.summary()
    assert seen == [(1, 3), (2, 3)]


def test_a_file_of_another_kind_is_not_replaced(tmp_path, stub):
    config = settings(tmp_path, stub)
    before = config.articles[0].read_bytes()
    with pytest.raises(ConfigError, match=r"articles\.jsonl exists and holds no synthetic rows"):
        synthesize(replace(config, out=config.articles[0]))
    assert config.articles[0].read_bytes() == before
    assert not stub.seen


def test_articles_that_change_during_the_run_are_noticed(tmp_path, stub):
    config = settings(tmp_path, stub)

    def change(done: int, most: int) -> None:
        if done == most:
            settings(tmp_path, stub, [article(number) for number in (0, 1, 9)])

    with pytest.raises(ConfigError, match="changed while they were read: run again"):
        synthesize(config, report=change)
    assert not config.out.exists()
