"""Strings of many programs and games with their translations, in a hundred languages (gettext catalogues).

Short texts about many things: menus, messages, the prose of games, names of countries. A row is a translation that
asks for its English original. Half of a language's rows, as far as there are as many, come from games and learning
programs, since most other training rows are about software. Nothing is committed: each text has its program's licence.
"""

import re
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from .fetch import fetch_packages, read_package
from .help_pages import as_shown, has_placeholder
from .pages import Files
from .pool import HeldOut
from .records import digest, key, language_tag
from .training import Row, in_order, make_row

STORIES = (
    *("freeciv-data", "gnome-chess", "gnome-sudoku", "iso-codes", "kgeography-data", "kturtle", "minetest-data"),
    *("parley-data", "step", "wesnoth-1.16-data", "wesnoth-1.16-dw", "wesnoth-1.16-httt"),
)
"""Games, learning programs, countries."""
PROGRAMS = (
    *("apt", "aptitude-common", "audacity-data", "bash", "bleachbit", "brasero-common", "caja-common"),
    *("cheese-common", "cinnamon-l10n", "coreutils", "darktable", "debconf-i18n", "dia-common", "digikam-data"),
    *("dpkg", "epiphany-browser-data", "evolution-common", "fcitx-data", "filezilla-common", "gcc-12-locales"),
    *("geeqie-common", "gimp-data", "gnome-boxes", "gnome-calendar", "gnome-control-center-data"),
    *("gnome-disk-utility", "gnome-maps", "gnome-shell-common", "gnome-software-common", "gnome-tweaks"),
    *("gnome-weather", "gnucash-common", "gnumeric-common", "hexchat-common", "inkscape", "krita-l10n"),
    *("libc-l10n", "libgimp2.0", "libglib2.0-data", "libgtk-3-common", "nautilus-data", "pidgin-data"),
    *("rhythmbox-data", "shotwell-common", "simple-scan", "synaptic", "tar", "thunar-data", "totem-common"),
    *("tryton-client", "vlc-l10n", "xfce4-settings"),
)
PATTERN = re.compile(r"/(?:locale|translations)/(?P<lang>[A-Za-z_]+)/(?:LC_MESSAGES/)?[^/]+\.mo$")
"""A second script of a language (``sr@latin``) is left out."""
MIN_CHARS, MIN_WORDS, MAX_CHARS = 20, 3, 500
MAX_ROWS, MIN_ROWS = 700, 250
"""Of one language; one with fewer is left out."""
SOURCE = "catalogues"


@dataclass(frozen=True, slots=True)
class String:
    """A string of a program or a game (``is_story``) in one language, and its English original."""

    lang: str
    is_story: bool
    text: str
    english: str


def rows(cache: Path, held: HeldOut) -> list[Row]:
    """Rows of all languages; the packages are fetched unless they are in the cache."""
    packages = [(name in STORIES, deb) for name in (*STORIES, *PROGRAMS) for deb in fetch_packages(cache, [name])]
    return choose(chain.from_iterable(strings(read_package(deb, PATTERN), story) for story, deb in packages), held)


def strings(files: Files, is_story: bool) -> Iterator[String]:
    """Every translated string that is long enough, has no placeholder, and differs from the original."""
    for match, content in files:
        for original, translation in _messages(content):
            text, english = as_shown(translation), as_shown(original)
            fits = MIN_CHARS <= len(english) <= MAX_CHARS and len(english.split()) >= MIN_WORDS
            if text and fits and key(text) != key(english) and not has_placeholder(text + english):
                yield String(language_tag(match["lang"]), is_story, text, english)


def _messages(content: bytes) -> Iterator[tuple[str, str]]:
    """Original and translation of every message in UTF-8, of a plural the first form.

    The format is that of the GNU gettext manual, section 10.3. Babel takes more than three times as long, and stops at
    a malformed date.
    """
    order = "<" if content[:4] == b"\xde\x12\x04\x95" else ">"
    count, *tables = struct.unpack(f"{order}3I", content[8:20])
    for number in range(count):
        places = (struct.unpack_from(f"{order}2I", content, table + 8 * number) for table in tables)
        original, translation = (content[start : start + length].split(b"\0")[0] for length, start in places)
        try:
            yield original.split(b"\x04")[-1].decode(), translation.decode()  # what is before \x04 is a context
        except UnicodeDecodeError:
            continue


def choose(found: Iterable[String], held: HeldOut) -> list[Row]:
    """At most ``MAX_ROWS`` rows of each language, half of them from stories as far as there are as many."""
    by_lang: dict[str, dict[str, String]] = {}
    known = held.queries | held.texts
    for one in found:
        if one.lang != "en" and not {key(one.text), key(one.english)} & known:
            by_lang.setdefault(one.lang, {}).setdefault(one.english, one)
    chosen: list[Row] = []
    for lang, originals in sorted(by_lang.items()):
        if len(originals) < MIN_ROWS:
            continue
        ordered = sorted(originals.values(), key=lambda one: digest("catalogue", lang, one.english))
        stories = [one for one in ordered if one.is_story][: MAX_ROWS // 2]
        programs = [one for one in ordered if not one.is_story][: MAX_ROWS - len(stories)]
        chosen += (make_row(one.text, [one.english], None, (lang, "en"), (SOURCE, None)) for one in stories + programs)
    return in_order(chosen, "query", "lang", "pos")
