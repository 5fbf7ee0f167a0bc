"""The languages that are asked for by default, and what sources call them.

The list is the union of what the sources translate well enough to be worth a download. A source has no text in
some of them, and a language without enough queries gets no test collection; neither is an error.
"""

LANGUAGES: tuple[str, ...] = (
    *("ar", "ca", "cs", "da", "de", "el", "en", "eo", "es", "et", "eu", "fa", "fi", "fr", "gl", "hr", "hu", "id"),
    *("it", "ja", "km", "ko", "lv", "nb", "nl", "pl", "pt", "pt-br", "ro", "ru", "sk", "sl", "sr", "sv", "tr"),
    *("uk", "vi", "zh-cn", "zh-tw"),
)

_REGIONAL = {"pt-br", "zh-cn", "zh-tw"}
"""Tags whose region tells a language of its own; in all others ("de-DE") it is left out."""


def language_tag(name: str) -> str:
    """The tag used here for what a folder is called: ``pt_BR`` and ``pt-BR`` are ``pt-br``, ``de-DE`` is ``de``.

    ``C`` is English, as in every locale. A second script of a language (``sr@latin``) keeps its name, which no list
    of languages here has: it would be the same text twice.
    """
    tag = name.lower().replace("_", "-")
    if tag == "c":
        return "en"
    return tag if tag in _REGIONAL else tag.split("-")[0]
