"""The search page in Chromium: what it shows is what the server answers, by mouse and by keyboard, also on a phone."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict

import httpx
import pytest
from playwright.sync_api import Browser, Locator, Page, Route, expect, sync_playwright

from m3_vdb import HybridIndex, LongDocuments, open_store
from m3_vdb.errors import StoreConnectionError
from m3_vdb.serve.page import FILES
from m3_vdb.serve.service import Service
from tests.integrations._server import Running, fake_embed, serving

pytestmark = pytest.mark.integration
expect.set_options(timeout=60_000)  # machines of CI may be busy

ATTACK = "<img src=x onerror=hacked=1>"
DOCUMENTS = [
    {"id": "1", "title": "Search", "text": "the vector search finds vectors", "lang": "en", "year": 2001},
    {"id": "2", "title": "Suche", "text": "👍🏽 the search, und die Suche", "lang": "de", "year": 2010},
    {"id": "3", "text": "la recherche the", "lang": "fr", "year": 2020, "tags": ["a", "b"], "a=b": "c"},
    {"id": ATTACK, "title": ATTACK, "text": f"the {ATTACK} search", "lang": ATTACK},
    {"id": "5", "title": "W" * 200, "text": "search the " + "long" * 100, "lang": "en", "link": "https://" + "a" * 300},
    {"id": "6", "title": "بحث", "text": "البحث the search", "lang": "ar"},
]
QUESTION = "the vector search"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        paths = map(
            shutil.which, ("chromium", "chromium-browser", "google-chrome", playwright.chromium.executable_path)
        )
        path = next(filter(None, paths), None)
        if path is None:
            pytest.skip("no Chromium: apt-get install chromium, or playwright install chromium")
        sandbox = [] if os.geteuid() else ["--no-sandbox"]
        browser = playwright.chromium.launch(executable_path=path, args=sandbox)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    embed = fake_embed()
    store = open_store("memory://", embed)
    HybridIndex(embed, store).add(DOCUMENTS)
    with serving(Service(embed, store)) as running:
        yield running


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page that fails the test if it throws, breaks its own policy, or asks another server."""
    context = browser.new_context(
        viewport={"width": 1280, "height": 900}, color_scheme="light", reduced_motion="reduce"
    )
    context.set_default_timeout(60_000)
    page = context.new_page()
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda message: faults.append(message.text) if "Policy" in message.text else None)
    page.on("request", lambda request: faults.append(request.url) if "//127.0.0.1:" not in request.url else None)
    yield page
    assert faults == []
    context.close()


def ask(page: Page, server: Running, question: str = QUESTION) -> list[dict]:
    """Ask on the page, and the server for the same hits."""
    page.goto(server.url)
    page.get_by_label("Question").fill(question)
    hits = found(server, query=question)
    expect(page.locator("#hits li")).to_have_count(len(hits))
    return hits


def found(server: Running, **body) -> list[dict]:
    answer = server.http.post("/search", json={"limit": 50, "explain": True, **body})
    assert answer.status_code == 200, answer.text
    return answer.json()["hits"]


def titles(hits: list[dict]) -> list[str]:
    return [hit["title"] or hit["id"] for hit in hits]


def shown(page: Page) -> Locator:
    return page.locator("#hits h2")


def value(page: Page, text: str) -> Locator:
    """The button of a filter."""
    return page.locator("#filters button").filter(has=page.get_by_text(text, exact=True))


def by_weights(hits: list[dict], **weights: float) -> list[dict]:
    return sorted(hits, key=lambda hit: -sum(weights[name] * part for name, part in hit["parts"].items()))


def test_a_question_is_answered_with_bars_that_add_up(page, server):
    hits = ask(page, server)
    expect(shown(page)).to_have_text(titles(hits))
    longest = hits[0]["score"]
    for card, hit in zip(page.locator("#hits li").all(), hits, strict=True):
        assert float(card.locator(".score").inner_text()) == pytest.approx(hit["score"], abs=6e-4)
        shares = [float(line.split()[-1]) for line in card.locator(".shares span").all_inner_texts()]
        assert sum(shares) == pytest.approx(hit["score"], abs=2e-3)
        bar = card.locator(".bar").bounding_box()["width"]
        segments = sum(segment.bounding_box()["width"] for segment in card.locator(".bar i").all())
        assert segments / bar == pytest.approx(hit["score"] / longest, abs=0.01)
    expect(page.locator("#status")).to_contain_text(f"{len(hits)} hits")


def test_filters_are_the_values_of_hits_and_conditions_that_are_typed(page, server):
    hits = ask(page, server)
    value(page, "de").click()
    expect(shown(page)).to_have_text(["Suche"])
    value(page, "fr").click()  # further values of a field are alternatives
    expect(shown(page)).to_have_text(titles([hit for hit in hits if hit["payload"]["lang"] in ("de", "fr")]))
    page.get_by_label("Filters").fill("year>=2015")
    page.keyboard.press("Enter")
    expect(shown(page)).to_have_text(["3"])
    page.get_by_label("Filters").fill("year>=2030")  # refused: the field has a bound already
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("has a bound")
    expect(page.get_by_role("button", name="Remove the filters")).to_be_visible()
    for name in ("year>=2030", "year>=2015", "de", "fr"):
        value(page, name).click()
    expect(shown(page)).to_have_text(titles(hits))
    value(page, "c").click()  # of the field "a=b"
    expect(shown(page)).to_have_text(["3"])
    value(page, "en").click()
    expect(page.locator("#message")).to_contain_text("No document was found")
    page.get_by_role("button", name="Remove the filters").click()
    expect(shown(page)).to_have_text(titles(hits))


def test_a_slider_ranks_at_once_and_asks_when_it_rests(page, server):
    hits = ask(page, server, "vectors und la recherche")
    page.route("**/search", lambda route: None)
    by_sparse = by_weights(hits, dense=0, sparse=1, multi_vector=0.05)
    assert titles(by_sparse) != titles(hits)
    for name, weight in {"dense": "0", "sparse": "1", "multi-vector": "0.05"}.items():
        page.get_by_label(name).fill(weight)
    expect(shown(page)).to_have_text(titles(by_sparse))  # the server has not answered
    expect(page.get_by_label("Preset of weights")).to_have_value("custom")
    with page.expect_request("**/search") as asked:
        page.get_by_label("sparse").fill("0.1")
    assert asked.value.post_data_json["weights"] == {"dense": 0, "sparse": 0.1, "multi_vector": 0.05}
    page.unroute("**/search")
    page.get_by_label("Preset of weights").select_option("default")
    expect(shown(page)).to_have_text(titles(hits))
    page.get_by_label("sparse").fill("1.5")  # above all presets, as exact words may need
    expect(page.get_by_label("sparse")).to_have_value("1.5")


def test_parts_are_whatever_the_server_has(page, server):
    """A fourth part, negative, gets a slider and a bar, which takes its length back."""

    def with_a_fourth(route: Route) -> None:
        body = route.request.post_data_json
        if body:
            assert body["weights"].pop("recency") == 0.5
        answer = route.fetch(post_data=body).json()
        for weights in answer.get("weights", {}).values():
            weights["recency"] = 0.5
        for hit in answer.get("hits", []):
            hit["parts"]["recency"] = -0.2
        route.fulfill(json=answer)

    page.route("**/info", with_a_fourth)
    page.route("**/search", with_a_fourth)
    hits = ask(page, server)
    expect(page.get_by_label("recency")).to_have_value("0.5")
    expect(page.locator("#hits .score").first).to_have_text(f"{hits[0]['score'] - 0.1:.3f}")
    expect(page.locator("#hits .shares").first).to_contain_text("recency -0.100")
    expect(page.locator("#hits .bar").first.locator(".negative")).to_have_count(1)


def test_boosts_add_to_the_score(page, server):
    hits = ask(page, server)
    boosted = found(server, query=QUESTION, boosts=["year:0.001", "official:0.5"])
    assert titles(boosted) != titles(hits)
    page.get_by_label("Boosts").fill("year:0.001, official:0.5,")
    page.keyboard.press("Enter")
    expect(shown(page)).to_have_text(titles(boosted))
    first = page.locator("#hits li").first
    assert float(first.locator(".score").inner_text()) == pytest.approx(boosted[0]["score"], abs=6e-4)
    expect(first.locator(".shares")).to_contain_text(f"boost {boosted[0]['parts']['boost']:.3f}")
    page.reload()  # they are in the address
    expect(shown(page)).to_have_text(titles(boosted))
    page.get_by_label("Boosts").fill("year")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("FIELD:WEIGHT")


def test_an_opened_hit_shows_which_tokens_met(page, server):
    hits = ask(page, server)
    number = titles(hits).index("Suche")
    page.locator("#hits summary").nth(number).click()
    card = page.locator("#hits li").nth(number)
    explanation = server.http.post("/explain", json={"query": QUESTION, "id": "2"}).json()
    expect(card.locator(".tables")).to_be_visible()
    for heading, part in zip(card.locator("h3").all_inner_texts(), ("multi_vector", "sparse"), strict=True):
        assert heading.split()[0] == part.replace("_", "-")
        assert float(heading.split()[1]) == pytest.approx(explanation["parts"][part], abs=6e-4)
    met, shared = card.locator("section").all()
    rows = [row.split("\n") for row in met.locator(".matches > div").all_inner_texts()]
    for row, match in zip(rows, explanation["alignment"], strict=True):
        query, document = (match[side]["text"] or "end of text" for side in ("query", "document"))
        assert [row[0], row[2]] == [query, document]
        assert float(row[-1]) == pytest.approx(match["similarity"], abs=6e-4)
    assert [row.split("\n")[0] for row in shared.locator(".matches > div").all_inner_texts()] == [
        match["query"][0]["text"] for match in explanation["lexical"]
    ]
    # The marks stand where the tokens are, after characters that JavaScript counts twice.
    assert (
        card.locator(".explanation > p").first.inner_text()
        == explanation["document"]
        == "Suche\n" + hits[number]["text"]
    )
    marks = set(card.locator("mark").all_inner_texts())
    assert marks == {match["document"]["text"] for match in explanation["alignment"]} - {""} | {
        token["text"] for match in explanation["lexical"] for token in match["document"]
    }
    row = met.locator(".matches > div").first
    row.hover()
    expect(card.locator("mark.lit").first).to_have_text(explanation["alignment"][0]["document"]["text"])


def test_everything_works_with_the_keyboard(page, server):
    hits = ask(page, server)
    question, summaries = page.get_by_label("Question"), page.locator("#hits summary")
    expect(question).to_be_focused()
    for _ in range(2):
        page.keyboard.press("ArrowDown")
    expect(summaries.nth(1)).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#hits .tables")).to_have_count(1)
    page.keyboard.press("Escape")
    expect(page.locator("#hits details[open]")).to_have_count(0)
    expect(summaries.nth(1)).to_be_focused()
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowUp")
    expect(question).to_be_focused()
    page.get_by_label("sparse").focus()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_label("sparse")).to_have_value("0.35")
    page.keyboard.press("/")
    expect(question).to_be_focused()
    page.keyboard.type("x / y")  # replaces the question, which was selected
    expect(question).to_have_value("x / y")
    page.keyboard.press("Escape")
    expect(question).to_have_value("")
    expect(page.locator("#hits li")).to_have_count(0)
    assert hits


def test_what_has_the_focus_is_not_hidden_by_the_question(page, server):
    page.set_viewport_size({"width": 360, "height": 400})
    ask(page, server)
    question = page.get_by_label("Question").bounding_box()
    for key in ("ArrowDown", "ArrowUp"):
        for _ in DOCUMENTS[key == "ArrowUp" :]:
            page.keyboard.press(key)
            box = page.locator("#hits summary:focus").bounding_box()
            assert box["y"] > question["height"], "the question stays at the top"


def test_texts_are_never_html(page, server):
    hits = ask(page, server)
    card = page.locator("#hits li").nth(titles(hits).index(ATTACK))
    card.locator("summary").click()
    expect(card.locator(".tables")).to_be_visible()
    expect(card.locator(".explanation > p").first).to_have_text(f"{ATTACK}\nthe {ATTACK} search")
    value(page, ATTACK).click()
    expect(page.locator("#hits li")).to_have_count(1)
    page.get_by_label("Question").fill(ATTACK)
    expect(page.locator("#hits li")).to_have_count(1)
    assert page.locator("main img, main script, #settings img, #settings script").count() == 0
    assert page.evaluate("typeof hacked") == "undefined"


def test_light_dark_and_phone(page, server):
    def ground() -> int:
        colors = page.evaluate("getComputedStyle(document.documentElement).backgroundColor.match(/\\d+/g).map(Number)")
        return sum(colors[:3])

    ask(page, server)
    assert ground() > 600
    page.emulate_media(color_scheme="dark")
    assert ground() < 150
    page.locator("#theme").click()
    assert ground() > 600
    page.reload()
    assert ground() > 600
    page.set_viewport_size({"width": 360, "height": 740})
    page.reload()
    expect(page.locator("#hits li")).to_have_count(len(DOCUMENTS))
    expect(page.get_by_label("Filters")).not_to_be_visible()
    for summary in page.locator("#hits summary").all():
        summary.click()
    expect(page.locator("#hits .tables")).to_have_count(len(DOCUMENTS))
    page.locator("#settings > summary").click()
    expect(page.get_by_label("Filters")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") == 360


def test_a_search_can_be_linked(page, server):
    page.goto(f"{server.url}/#q=the+vector+search&filter=lang%3Den&sparse=0&source=dense")
    expected = found(server, query=QUESTION, filter="lang=en", weights=[1, 0, 1], source="dense")
    expect(shown(page)).to_have_text(titles(expected))
    expect(page.get_by_label("Candidates from")).to_have_value("dense")
    value(page, "en").click()
    page.wait_for_url("**/#q=the+vector+search&sparse=0&source=dense")


def test_a_key_is_asked_for_once(page):
    embed = fake_embed()
    store = open_store("memory://", embed)
    HybridIndex(embed, store).add(DOCUMENTS)
    with serving(Service(embed, store), keys=["secret"]) as server:
        page.goto(server.url)
        page.get_by_label("API key").fill("wrong")
        page.keyboard.press("Enter")
        expect(page.locator("#note")).to_have_text("The server refuses this key.")
        page.get_by_label("API key").fill("secret")
        page.keyboard.press("Enter")
        page.get_by_label("Question").fill(QUESTION)
        expect(page.locator("#hits li")).to_have_count(len(DOCUMENTS))
        page.reload()
        expect(page.locator("#hits li")).to_have_count(len(DOCUMENTS))
        page.evaluate("sessionStorage.clear()")
        page.reload()
        expect(page.get_by_label("API key")).to_be_focused()
        page.keyboard.press("Escape")
        expect(page.get_by_role("alert")).to_contain_text("needs a key")
        assert httpx.get(f"{server.url}/info").status_code == 401


def test_states_without_hits(page, server, monkeypatch):
    embed = fake_embed()
    with serving(Service(embed)) as other:
        page.goto(other.url)
        expect(page.locator("#message")).to_contain_text("no collection")
    with serving(Service(embed, open_store("memory://", embed))) as other:
        page.goto(other.url)
        expect(page.locator("#message")).to_contain_text("collection is empty")

    def fail(*args: object, **options: object) -> None:
        raise StoreConnectionError("down")

    ask(page, server)
    with monkeypatch.context() as patch:
        patch.setattr(server.service.index, "query", fail)
        page.get_by_label("Question").fill("the")
        expect(page.get_by_role("alert")).to_contain_text("does not answer")
        expect(page.locator("#hits li")).to_have_count(0)
    page.get_by_role("button", name="Try again").click()
    expect(page.locator("#hits li")).to_have_count(len(DOCUMENTS))


def test_files_are_small_and_their_policy_is_strict(server):
    answers = [server.http.get(path) for path in FILES]
    assert sum(len(answer.content) for answer in answers) <= 32 * 1024
    for answer in answers:
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert server.http.head("/").status_code == 200


def test_explain_is_what_the_library_gives():
    """Also for a passage, whose text the server cuts out of its document."""
    embed = fake_embed()
    long = {"id": "long", "title": "Long", "text": "one two three. " * 40 + "the vector search finds vectors. " * 20}
    index = HybridIndex(embed, open_store("memory://", embed), long_documents=LongDocuments(plan="split"))
    index.add([*DOCUMENTS[:4], long])
    hits = index.query(QUESTION, limit=5)
    assert [hit.passage is not None for hit in hits].count(True) == 1
    with serving(Service(embed, index.store)) as server:
        for hit in hits:
            body = {"query": QUESTION, "id": hit.document.id, "passage": hit.passage and asdict(hit.passage)}
            answer = server.http.post("/explain", json=body)
            assert answer.json() == json.loads(json.dumps(asdict(index.explain(QUESTION, hit))))
        assert server.http.post("/explain", json={"query": "a", "id": "unknown"}).status_code == 404
