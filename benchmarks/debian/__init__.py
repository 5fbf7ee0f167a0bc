"""Builds a multilingual retrieval benchmark and training rows from text that Debian ships.

Nothing is installed, and nothing but a small fixture is ever committed (package descriptions state no licence):
packages are fetched by name, read, and turned into judged collections (BEIR layout) and training rows. A *source*
yields an :class:`~benchmarks.debian.texts.Edition` per language; everything after that (split, queries, judgements,
negatives) does not know which source a text came from. The sources:

* records, long texts and parallel paragraphs: the LibreOffice help (:mod:`.libreoffice`)
* records and long texts: Debian's handbook (:mod:`.docbook`)
* records: Debian package descriptions (:mod:`.ddtp`), the help of GNOME (:mod:`.mallard`)
* long texts: installation guide, Debian reference (:mod:`.docbook`), manual pages (:mod:`.manpages`)
* translated terms: the strings of the user interface of LibreOffice (:mod:`.catalogs`)

Other documentation that Debian ships is left alone on purpose: it can still serve as text that nobody has seen.

What is written: ``same_language/<lang>/``, ``cross_lingual/``, ``long_documents/`` and ``udhr/`` (collections with
queries for tests and for choosing weights), ``train.jsonl``, ``train_long.jsonl``, ``train_windows.jsonl``,
``questions.jsonl``, ``pairs.jsonl``, ``parallel.jsonl`` and ``messages.jsonl`` (rows that touch
neither), and ``manifest.json``.
"""
