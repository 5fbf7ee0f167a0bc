"""The languages that are asked for by default.

The list is the union of what the sources translate well enough to be worth a download. A source has no text in
some of them, and a language without enough queries gets no test collection; neither is an error.
"""

LANGUAGES: tuple[str, ...] = (
    *("ca", "cs", "da", "de", "el", "en", "eo", "es", "et", "eu", "fi", "fr", "gl", "hr", "hu", "id", "it", "ja"),
    *("km", "ko", "nb", "nl", "pl", "pt", "pt-br", "ro", "ru", "sk", "sl", "sr", "sv", "tr", "uk", "vi"),
    *("zh-cn", "zh-tw"),
)
