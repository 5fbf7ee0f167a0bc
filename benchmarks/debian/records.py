"""What every source yields, how its texts are compared and measured, and the split into train, dev and test.

Texts of different languages that tell the same thing share a concept id, which is what makes judgements exact and the
split honest. All "random" choices of this package go through :func:`digest`, so that a second run, on another machine,
gives the same files.
"""

import hashlib
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

LANGUAGES: tuple[str, ...] = (
    *("ar", "ca", "cs", "da", "de", "el", "en", "eo", "es", "et", "eu", "fa", "fi", "fr", "gl", "hr", "hu", "id"),
    *("it", "ja", "km", "ko", "lv", "nb", "nl", "pl", "pt", "pt-br", "ro", "ru", "sk", "sl", "sr", "sv", "tr"),
    *("uk", "vi", "zh-cn", "zh-tw"),
)
"""What is asked for by default. A source need not have text in all of them, and a language without enough queries gets
no test collection."""

TEST_SHARE = 5
"""One concept in this many is held out for tests."""
DEV_SHARE = 4 * TEST_SHARE
"""One concept in this many is held out to choose weights by: a quarter of what the tests get."""
BOOK = "handbook"
BOOK_TEST_SHARE, BOOK_DEV_SHARE = 2, 8
"""The handbook's few hundred sections are all that some languages have; half of the rest is held out as well."""

MIN_QUERY_WEIGHT, MAX_QUERY_CHARS = 3, 160
"""Nobody types an index entry of two letters ("a4") or a heading as long as a paragraph."""
CHARS_PER_TOKEN, DENSE_CHARS_PER_TOKEN = 3.9, 1.7
"""Characters per token of XLM-R, measured on help pages: 3.9 to 4.1 in en, de, fr, ru, tr; 1.6 in zh, 1.8 in ja, 2.1
in ko."""

_REGIONAL = {"pt-br", "zh-cn", "zh-tw"}
"""Tags whose region tells a language of its own; in all others ("de-DE") it is left out."""
_SPACE = re.compile(r"\s+")
_CJK = r"[\u2e80-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff00-\uffef]"
_CJK_SEAM = re.compile(rf"(?<={_CJK})[ \t]*\n\s*(?={_CJK})")
_DENSE_SCRIPT = re.compile(
    r"[\u2e80-\u2fdf\u3005-\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uac00-\ud7af"
    r"\u1100-\u11ff\u3130-\u318f\u0e00-\u0e7f\u1780-\u17ff]"
)

Side = Literal["test", "dev", "train"]
HELD_OUT: tuple[Side, ...] = ("test", "dev")


@dataclass(frozen=True, slots=True)
class Record:
    """One short document in one language.

    Attributes:
        concept_id: the same string in every language that has this document.
        source: the name of the source, e.g. ``"ddtp"``.
        lang: language tag in lower case, e.g. ``"pt-br"``.
        title: the document's title, or ``""`` when it is untranslated; never part of ``text``.
        keywords: further strings under which a person would look for this document.
        text: the cleaned body.
    """

    concept_id: str
    source: str
    lang: str
    title: str
    keywords: tuple[str, ...]
    text: str

    @property
    def candidates(self) -> tuple[str, ...]:
        """Every string that may be this record's query, the title first."""
        return tuple(filter(is_query, dict.fromkeys((self.title, *self.keywords))))

    @property
    def query(self) -> str:
        """The one query of this record, chosen by hash, or ``""`` when there is no candidate."""
        strings = self.candidates
        return strings[digest("query", self.concept_id, self.lang) % len(strings)] if strings else ""


@dataclass(frozen=True, slots=True)
class Section:
    """A part of a long text.

    Attributes:
        concept_id: the same string in every language that has this section.
        heading: as it stands in the text; ``""`` if the query is not part of the text.
        query: the string under which a person would look for this section, or ``""``.
        text: what follows the heading.
    """

    concept_id: str
    heading: str
    query: str
    text: str

    @property
    def lines(self) -> list[str]:
        """Heading and text, without empty lines."""
        return [line for line in (self.heading, *self.text.split("\n")) if line]


@dataclass(frozen=True, slots=True)
class LongText:
    """A long document in one language; ``identifier`` is unique among those of the language."""

    identifier: str
    source: str
    lang: str
    sections: tuple[Section, ...]


@dataclass(frozen=True, slots=True)
class Translation:
    """A paragraph or a string in one language, and the English one that it translates."""

    concept_id: str
    text: str
    english: str


@dataclass(frozen=True, slots=True)
class Edition:
    """What one source has in one language; ``messages`` are strings of a user interface."""

    lang: str
    records: Sequence[Record] = ()
    long_texts: Sequence[LongText] = ()
    paragraphs: Sequence[Translation] = ()
    messages: Sequence[Translation] = ()


def digest(*parts: str) -> int:
    """A 160-bit number that depends on ``parts`` alone: the seed of every choice made here."""
    return int(hashlib.sha1("\x00".join(parts).encode("utf-8")).hexdigest(), 16)


def side_of(concept_id: str) -> Side:
    """On which side of the split a concept is, in every language at once: the one place that decides it."""
    number, book = digest(concept_id), concept_id.startswith(f"{BOOK}/")
    if number % TEST_SHARE == 0 or (book and number % BOOK_TEST_SHARE == 0):
        return "test"
    if number % DEV_SHARE == 1 or (book and number % BOOK_DEV_SHARE == 1):
        return "dev"
    return "train"


def language_tag(name: str) -> str:
    """The tag used here for what a folder is called: ``pt_BR`` and ``pt-BR`` are ``pt-br``, ``de-DE`` is ``de``.

    ``C`` is English, as in every locale. A second script of a language (``sr@latin``) keeps its name, which no list
    of languages here has: it would be the same text twice.
    """
    tag = name.lower().replace("_", "-")
    if tag == "c":
        return "en"
    return tag if tag in _REGIONAL else tag.split("-")[0]


def tidy(text: str) -> str:
    """``text`` on one line, without spaces at its ends."""
    return _SPACE.sub(" ", text).strip()


def flow(text: str) -> str:
    """``text`` on one line, where a line's end between two Chinese or Japanese characters leaves no space."""
    return tidy(_CJK_SEAM.sub("", text))


def key(text: str) -> str:
    """The form under which two strings count as the same query or the same text."""
    return tidy(unicodedata.normalize("NFKC", text)).casefold()


def weight(text: str) -> int:
    """Length of ``text``, where a character of a script that BM25 cuts into bigrams counts as two.

    A Chinese sentence says in 15 characters what English says in 45 (Hangul, Thai and Khmer lie between), so that
    one threshold in characters would treat the two differently.
    """
    return len(text) + len(_DENSE_SCRIPT.findall(text))


def estimate_tokens(text: str) -> int:
    """About how many tokens XLM-R makes of ``text``."""
    dense = len(_DENSE_SCRIPT.findall(text))
    return round((len(text) - dense) / CHARS_PER_TOKEN + dense / DENSE_CHARS_PER_TOKEN)


def is_query(text: str) -> bool:
    """Whether ``text`` can serve as a query: long enough, short enough, and with a letter in it."""
    return weight(text) >= MIN_QUERY_WEIGHT and len(text) <= MAX_QUERY_CHARS and any(c.isalpha() for c in text)
