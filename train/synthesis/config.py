"""Settings of ``python -m train synthesize``: YAML keys and command-line options are the names of these fields.

No torch and no client library here, so that ``--help`` is quick. What cannot work is refused before anything is read.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal
from urllib.parse import urlsplit

from m3_vdb.errors import ConfigError

LOWEST: Final = {
    "max_articles": 0,
    "questions_per_article": 1,
    "min_passage_characters": 20,
    "concurrency": 1,
    "max_retries": 0,
    "max_tokens": 1,
    "temperature": 0.0,
    "prompt_price": 0.0,
    "completion_price": 0.0,
}
VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


# Frozen but not slotted: jsonargparse, the library of the command line, cannot read defaults of slotted classes.
@dataclass(frozen=True)
class SynthesizeConfig:
    """Make training rows out of long articles: a question about one passage, paired with the whole article.

    Attributes:
        articles: JSONL files of {"text"} with optional "id", "title" and "lang". Ids are unique over all files; an
            article without one is named by a digest of its content.
        out: JSONL file of training rows to write. Answers are kept beside it, in OUT.answers.jsonl, so that the same
            command resumes after an interruption.
        model: name of the language model at the endpoint, which sees the passages.
        base_url: the endpoint, as "http://host:8000/v1"; empty takes the client library's default, which is OpenAI.
        api_key_env: environment variable that holds the key; empty for an endpoint that wants none.
        questions_per_article: passages drawn from each article, one question each.
        min_characters: shorter articles are left out.
        max_characters: longer articles are left out. The passage may lie anywhere, so the whole article should fit
            the model to be trained: 8,192 tokens are about 30,000 characters in European languages, 11,000 in Chinese.
        min_passage_characters: shortest passage; shorter paragraphs are joined with the next.
        max_passage_characters: longest passage; longer paragraphs are cut between sentences.
        max_articles: most articles to take, drawn by a hash of seed and id, over all files; 0 takes all. A higher
            number keeps those that a lower one took.
        seed: of the draw of articles and passages.
        concurrency: requests under way at the same time.
        max_retries: further attempts of one request after a time-out, a rate limit or a server error.
        timeout: seconds for one attempt.
        max_tokens: most tokens of one answer, a reasoning model's reasoning included.
        temperature: of the model's answers; null takes the model's default, and some models accept no other.
        dry_run: only count passages and requests, estimate tokens and show one prompt; sends and writes nothing.
        prompt_price: price of a million prompt tokens, for the estimate.
        completion_price: price of a million answer tokens, for the estimate.
        on_bad_row: "stop" at a line that is not an article, or "skip" and count it.
    """

    articles: list[Path]
    out: Path
    model: str
    base_url: str = ""
    api_key_env: str = "OPENAI_API_KEY"
    questions_per_article: int = 1
    min_characters: int = 4_000
    max_characters: int = 30_000
    min_passage_characters: int = 200
    max_passage_characters: int = 1_500
    max_articles: int = 0
    seed: int = 0
    concurrency: int = 8
    max_retries: int = 5
    timeout: float = 60.0
    max_tokens: int = 256
    temperature: float | None = None
    dry_run: bool = False
    prompt_price: float = 0.0
    completion_price: float = 0.0
    on_bad_row: Literal["stop", "skip"] = "stop"

    def __post_init__(self) -> None:
        if not self.articles:
            raise ConfigError("articles is empty: give at least one JSONL file")
        for name, lowest in LOWEST.items():
            value = getattr(self, name)
            if value is not None and not value >= lowest:
                raise ConfigError(f"{name}={value}: expected at least {lowest}")
        if not self.timeout > 0:
            raise ConfigError(f"timeout={self.timeout}: expected seconds, more than 0")
        if self.max_characters < self.min_characters:
            raise ConfigError(f"max_characters={self.max_characters} is below min_characters={self.min_characters}")
        # Twice the shortest: then two paragraphs that are each too short can always be joined.
        if self.max_passage_characters < 2 * self.min_passage_characters:
            raise ConfigError(
                f"max_passage_characters={self.max_passage_characters}: expected at least twice "
                f"min_passage_characters={self.min_passage_characters}"
            )
        if self.min_characters <= self.max_passage_characters:
            raise ConfigError(
                f"min_characters={self.min_characters}: a passage of max_passage_characters="
                f"{self.max_passage_characters} would be the whole article; expected longer articles"
            )
        if not self.model:
            raise ConfigError("model is empty: give the name by which the endpoint knows it")
        # The messages below do not repeat what was given, since it may be the key itself.
        if self.api_key_env and not VARIABLE.fullmatch(self.api_key_env):
            raise ConfigError("api_key_env must be the name of an environment variable, and never the key itself")
        url = urlsplit(self.base_url)
        if "@" in url.netloc:
            raise ConfigError("base_url must not hold a user name or password: put the key into the environment")
        if self.base_url and (url.scheme not in ("http", "https") or not url.netloc):
            raise ConfigError(f"base_url={self.base_url!r}: expected an address like http://host:8000/v1")
