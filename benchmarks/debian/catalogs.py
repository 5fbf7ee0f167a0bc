"""The strings of LibreOffice's user interface, from the gettext catalogues of ``libreoffice-l10n-{lang}``.

They are what the parallel paragraphs of the help lack: the terms themselves, short, in every language. Long tooltips
are left out, since they are sentences of the help, of held-out pages as well.
"""

import io
import re
from collections.abc import Iterable, Iterator

from babel.messages.mofile import read_mo

from .languages import language_tag
from .records import is_query, key, tidy
from .texts import Translation

SOURCE = "catalogs"
SUFFIX = ".mo"
PACKAGE = "libreoffice-l10n-"

_CATALOG = re.compile(r"/resource/([^/]+)/LC_MESSAGES/\w+\.mo$")
_HELP = "extended_tip"
_PLACEHOLDER = re.compile(r"[%$#{}<>\\]")
_FOREIGN_MNEMONIC = re.compile(r"\s*\([~_]\w\)")
_MNEMONIC = re.compile(r"[~_](?=\w)")
_END = re.compile(r"[\s:：.…。]+$")


def package_name(lang: str) -> str:
    """Debian package with the strings in ``lang``."""
    return PACKAGE + lang


def plain(message: str) -> str:
    """``message`` as it is seen: without the mark of a shortcut ("Form control~s", "表(_T)"), its colon or its dots."""
    return _END.sub("", _MNEMONIC.sub("", _FOREIGN_MNEMONIC.sub("", tidy(message))))


def messages(files: Iterable[tuple[str, bytes]]) -> Iterator[tuple[str, Translation]]:
    """Yield language and string of every translated string without placeholders among ``files``, ordered by path."""
    for name, content in sorted(files):
        match = _CATALOG.search(name)
        if not match:
            continue
        for message in read_mo(io.BytesIO(content)):
            context: str | bytes = message.context or ""
            if isinstance(context, bytes):  # read_mo decodes it since Babel 2.19
                context = context.decode()
            if not message.id or _HELP in context or not isinstance(message.id, str):
                continue  # the header, the help's, or one that has a plural
            text, english = plain(str(message.string)), plain(message.id)
            shown = is_query(text) and is_query(english) and not _PLACEHOLDER.search(text + english)
            if shown and key(text) != key(english):
                yield language_tag(match[1]), Translation(f"{SOURCE}/{key(english)}", text, english)
