"""The stage: sample articles, draw passages, ask a question about each, write rows.

What is guaranteed:

- Which articles and passages are drawn depends on the seed, the ids and the texts: not on the order of the files, and
  not on how often the run was interrupted. Rows stand in the order of the files, in whatever order answers came in.
- An answer that was kept is never asked for again. A kill loses the requests under way, at most ``concurrency``.
- The output file appears when the last row is written; until then the path holds what it held before.
"""

from __future__ import annotations

import json
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from m3_vdb.errors import ConfigError
from train.retrieval.data import write_rows
from train.synthesis.articles import Passage, Sample, choose_passages, draw_sample, plain
from train.synthesis.asking import Asker, KeptAnswers, messages, request_key
from train.synthesis.config import SynthesizeConfig

SOURCE: Final = "synthetic"
"""The rows' data set: batches of training do not mix it with others."""
MIN_QUESTION_WIDTH, MAX_QUESTION_WIDTH = 10, 400
"""Letters and digits of a question, in columns: a Han character or kana fills two, as it says about twice as much."""
MAX_COPIED: Final = 0.5
"""Share of the passage that a question may copy word for word: more is not a question about it."""
BYTES_PER_TOKEN: Final = 4
"""Of English text in UTF-8, by the common rule of thumb."""

Report = Callable[[int, int], None]
"""Told (passages done, passages that there can be)."""


@dataclass(frozen=True, slots=True)
class SynthesisReport:
    """What a run did, or with ``dry_run`` would do.

    Attributes:
        articles_read: articles in the files.
        articles_sampled: articles that were drawn.
        passages: passages that were drawn from them.
        rejected: reason → how often; lines, articles and questions that gave no row.
        reused: passages whose answer an earlier run kept.
        requests: requests made, or still to be made; the client library's retries are not counted.
        prompt_tokens: tokens read, as the endpoint counts them, or estimated at four bytes per token.
        completion_tokens: tokens written, or an upper bound, ``max_tokens`` for each request.
        rows: rows in the output file.
        dry_run: whether nothing was asked or written.
        cost: of a dry run, at most, in the currency of the prices that were given; None without prices.
        prompt: one prompt of a dry run as it would be sent, empty if none would be.
    """

    articles_read: int
    articles_sampled: int
    passages: int
    rejected: Mapping[str, int]
    reused: int
    requests: int
    prompt_tokens: int
    completion_tokens: int
    rows: int = 0
    dry_run: bool = False
    cost: float | None = None
    prompt: str = ""

    def summary(self) -> str:
        """The report as lines of text."""
        lines = [
            f"{self.articles_read:,} articles read, {self.articles_sampled:,} sampled, {self.passages:,} passages",
            *(f"{count:,} × {reason}" for reason, count in sorted(self.rejected.items())),
        ]
        if not self.dry_run:
            lines.append(f"{self.rows:,} rows written, {self.reused:,} answers reused")
            lines.append(f"{self.requests:,} requests, {self.prompt_tokens:,} + {self.completion_tokens:,} tokens")
            return "\n".join(lines)
        lines.append(
            f"dry run: {self.requests:,} requests, about {self.prompt_tokens:,} prompt tokens, "
            f"at most {self.completion_tokens:,} answer tokens"
        )
        lines += [f"cost: at most {self.cost:,.2f}"] if self.cost is not None else []
        lines += ["one prompt:", self.prompt] if self.prompt else []
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of the passage that starts at a character of an article: a question, or why there is none."""

    article: str
    start: int
    question: str | None
    reason: str = ""


def synthesize(config: SynthesizeConfig, *, report: Report = lambda done, most: None) -> SynthesisReport:
    """Run the stage, or estimate its cost if ``config.dry_run``.

    Args:
        config: the settings.
        report: called after each passage.

    Returns:
        Counts of everything read, asked, rejected and written.

    Raises:
        ConfigError: a file cannot be read or changed meanwhile, ``out`` is another kind of file, the key is missing or
            refused, the model is unknown.
        DocumentError: a line is not an article, and ``on_bad_row`` is "stop".
        MissingExtraError: the client library is not installed.
        RequestFailedError: the endpoint fails again and again. Answers so far are kept.
    """
    _check_out(config.out)
    sample = draw_sample(config)
    if config.dry_run:
        return _estimate(sample, config)
    outcomes: list[Outcome] = []
    with Asker(config) as asker:
        for passage, answer in asker.ask(_passages(sample, config)):
            reason = answer.reason if answer.question is None else fault(answer.question, passage.text)
            question = None if reason else answer.question
            outcomes.append(Outcome(passage.article.id, passage.start, question, reason))
            report(len(outcomes), len(sample.chosen) * config.questions_per_article)
    outcomes = settle(outcomes)
    write_rows(_rows(sample, config, outcomes), config.out)
    empty = len(sample.chosen) - len({outcome.article for outcome in outcomes})
    rejected = Counter(sample.rejected) + Counter({"article without a usable passage": empty})  # leaves out zeros
    return SynthesisReport(
        sample.read,
        len(sample.chosen),
        len(outcomes),
        dict(rejected + Counter(outcome.reason for outcome in outcomes if outcome.reason)),
        asker.reused,
        asker.requests,
        asker.prompt_tokens,
        asker.completion_tokens,
        rows=sum(outcome.question is not None for outcome in outcomes),
    )


def _passages(sample: Sample, config: SynthesizeConfig) -> Iterator[Passage]:
    """Passages of every sampled article, in order; an article may have none."""
    return (passage for article in sample.articles(config) for passage in choose_passages(article, config))


def fault(question: str, passage: str) -> str:
    """Why a question cannot be used, or ""."""
    if len(question.splitlines()) > 1:
        return "question of several lines"
    words = plain(question)
    width = sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in words if not c.isspace())
    if width < MIN_QUESTION_WIDTH:
        return "question too short"
    if width > MAX_QUESTION_WIDTH:
        return "question too long"
    source = plain(passage)
    if source in words or (words in source and len(words) > MAX_COPIED * len(source)):
        return "question repeats the passage"
    return ""


def settle(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Drop questions that were asked more than once.

    Asked about two articles, a question has two answers of which each row would call one wrong, so none stays. Asked
    twice about one article, the first stays.
    """
    forms = [plain(outcome.question or "") for outcome in outcomes]
    articles = Counter(form for form, _ in {(form, one.article) for form, one in zip(forms, outcomes, strict=True)})
    settled: list[Outcome] = []
    used: set[str] = set()
    for form, outcome in zip(forms, outcomes, strict=True):
        several = "question fits several articles" if articles[form] > 1 else ""
        reason = several or ("question asked twice" if form in used else "")
        dropped = outcome.question is not None and reason
        settled.append(replace(outcome, question=None, reason=reason) if dropped else outcome)
        used |= {form}
    return settled


def _check_out(out: Path) -> None:
    """Refuse to replace a file that this stage did not write.

    Raises:
        ConfigError: ``out`` exists and its first line is not a synthetic row.
    """
    try:
        with out.open("rb") as file:
            line = file.readline()
        fields: Any = json.loads(line) if line.strip() else {"source": SOURCE}
    except FileNotFoundError:
        return
    except (OSError, ValueError):
        fields = None
    if not isinstance(fields, dict) or fields.get("source") != SOURCE:
        raise ConfigError(f"{out} exists and holds no synthetic rows: give another path for out, or move the file")


def _rows(sample: Sample, config: SynthesizeConfig, outcomes: Sequence[Outcome]) -> Iterator[dict[str, Any]]:
    """The training rows: their positive is the whole article, negatives are left to ``mine``."""
    passages = _passages(sample, config)
    for outcome in outcomes:
        passage = next(passages, None)
        if passage is None or (passage.article.id, passage.start) != (outcome.article, outcome.start):
            raise ConfigError("the articles changed while they were read: run again")
        if outcome.question is not None:
            language = {"lang": passage.article.lang} if passage.article.lang else {}
            named = {"source": SOURCE, "id": passage.article.id, "passage": passage.text}
            yield {"query": outcome.question, "pos": [passage.article.document], "neg": [], **language, **named}


def _estimate(sample: Sample, config: SynthesizeConfig) -> SynthesisReport:
    """Count what a run would ask, without a client, a key or a file."""
    kept = KeptAnswers(config.out).by_key
    passages = requests = size = 0
    prompt = ""
    for passage in _passages(sample, config):
        passages += 1
        if request_key(passage, config) not in kept:
            requests += 1
            texts = [str(message["content"]) for message in messages(passage)]
            size += sum(len(text.encode()) for text in texts)
            prompt = prompt or "\n\n".join(texts)
    tokens = size // BYTES_PER_TOKEN, requests * config.max_tokens
    price = (tokens[0] * config.prompt_price + tokens[1] * config.completion_price) / 1e6
    return SynthesisReport(
        sample.read,
        len(sample.chosen),
        passages,
        sample.rejected,
        passages - requests,
        requests,
        *tokens,
        dry_run=True,
        cost=price if config.prompt_price or config.completion_price else None,
        prompt=prompt,
    )
