"""Builds a multilingual retrieval benchmark and training rows from text that Debian ships.

Nothing is installed, and nothing but a small fixture is ever committed (package descriptions state no licence):
packages are fetched by name, read, and turned into judged collections (BEIR layout) and training rows. A *source*
is a function that yields :class:`~benchmarks.debian.records.Record`; everything after that (split, queries,
judgements, negatives) does not know which source a record came from. The sources now: Debian package descriptions
(:mod:`.ddtp`) and the LibreOffice help (:mod:`.libreoffice`).
"""
