"""Questions and answers from the handbooks of KDE's programs: text of another kind than any that is trained on.

The programs are games, mail, sound, money and the like; a handbook's last chapter answers what their users ask, in up
to twelve languages. The n-th entry of a handbook is the same question in every language. No training row comes from
these handbooks, so the collections show what a model has kept of its base, or learnt beyond its own kind of text.

Written are ``faq/<lang>/`` (questions and answers of one language) and ``faq/to_en/`` (questions of all other
languages, English answers). Half of the entries, by hash, are for tests, half for choosing.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from lxml import etree  # type: ignore[import-untyped]

from .fetch import fetch_packages, read_package
from .pages import Files
from .records import HELD_OUT, Side, digest, flow, is_query, language_tag
from .tasks import Counts, Document, Query, write_collection

PACKAGES = (
    *("bovo", "cantor", "dolphin", "k4dirstat", "kajongg", "kalarm", "kapman", "katomic", "kblackbox", "kblocks"),
    *("kbounce", "kcachegrind", "kcalc", "kfourinline", "kgoldrunner", "kio-audiocd", "kiriki", "kjumpingcube"),
    *("klickety", "klines", "kmahjongg", "kmail", "kmines", "kmousetool", "kmouth", "kmymoney-common"),
    *("knavalbattle", "kollision", "kolf", "konqueror", "konquest", "konsolekalendar", "konversation-data"),
    *("korganizer", "kpat", "krdc", "kreversi", "krusader", "kshisen", "ksirk", "kspaceduel", "ksquares"),
    *("ksudoku", "ktechlab", "kubrick", "kwave", "labplot-data", "lskat-data", "partitionmanager"),
    "skrooge-common",
)
LANGUAGES = ("ca", "de", "en", "es", "et", "fr", "it", "nl", "pt-br", "ru", "sv", "uk")
"""Those with a hundred entries or more; Portuguese is left out beside Brazilian."""
PATTERN = re.compile(r"HTML/(?P<lang>[A-Za-z_@]+)/(?P<path>.+)\.docbook$")
MOST_ANSWERS = 5
"""A question with more answers ("How do I report a bug?") asks for none of them."""

_NOT_TEXT = ("screenshot", "informalexample", "programlisting", "screen")
Entries = Mapping[str, tuple[str, str]]
"""Concept to question and answer, in one language."""


def entries(files: Files) -> dict[str, dict[str, tuple[str, str]]]:
    """Language to the entries of its handbooks; in a language other than English those that are translated."""
    found: dict[str, dict[str, tuple[str, str]]] = {}
    for match, content in files:
        of_lang = found.setdefault(language_tag(match["lang"]), {})
        for number, entry in enumerate(_entries(content)):
            if all(entry):
                of_lang.setdefault(f"{match['path']}/{number}", entry)
    english = found.get("en", {})
    for lang in found.keys() - {"en"}:
        known = ((name, pair, english[name]) for name, pair in found[lang].items() if name in english)
        found[lang] = {name: pair for name, pair, original in known if not {*pair} & {*original}}
    return found


def _entries(content: bytes) -> Iterator[tuple[str, str]]:
    parser = etree.XMLParser(
        resolve_entities=False, load_dtd=False, no_network=True, recover=True, remove_comments=True
    )
    root = etree.fromstring(content, parser=parser)
    for entry in () if root is None else root.iter("qandaentry"):
        question, answer = entry.find("question"), entry.find("answer")
        texts = ["" if part is None else flow(_text(part)) for part in (question, answer)]
        yield texts[0], texts[1]


def _text(node: etree._Element) -> str:
    """The text of an element; an entity (``&kmail;``) is its name."""
    if node.tag in _NOT_TEXT:
        inner = ""
    elif node.tag is etree.Entity:
        inner = node.name
    else:
        inner = (node.text or "") + " ".join(map(_text, node))
    return f"{inner}{node.tail or ''}"


def write(cache: Path, out: Path) -> dict[str, Counts]:
    """Fetch the packages and write the collections; returns their counts."""
    debs = fetch_packages(cache, PACKAGES)
    by_lang = entries([file for deb in debs for file in read_package(deb, PATTERN)])
    counts = {lang: _write(out / lang, lang, by_lang[lang], {lang: by_lang[lang]}) for lang in LANGUAGES}
    others = {lang: by_lang[lang] for lang in LANGUAGES if lang != "en"}
    return counts | {"to_en": _write(out / "to_en", "en", by_lang["en"], others)}


def _write(out: Path, lang: str, answers: Entries, asked: Mapping[str, Entries]) -> Counts:
    """A collection of the answers of one language, and of the questions of some."""
    documents: dict[str, str] = {}  # text → identifier: games share answers
    for concept, (_, answer) in answers.items():
        documents.setdefault(answer, concept)
    queries: dict[Side, list[Query]] = {side: [] for side in HELD_OUT}
    for other, found in asked.items():
        concepts: dict[str, list[str]] = {}
        for concept in found.keys() & answers.keys():
            concepts.setdefault(found[concept][0], []).append(concept)
        for question, same in sorted(concepts.items()):
            relevant = tuple(sorted({documents[answers[concept][1]] for concept in same}))
            if is_query(question) and len(relevant) <= MOST_ANSWERS:
                query = Query(f"q-{other}-{min(same)}", other, question, relevant)
                queries[HELD_OUT[digest("faq", min(same)) % 2]].append(query)
    return write_collection(out, [Document(name, lang, text) for text, name in documents.items()], queries)
