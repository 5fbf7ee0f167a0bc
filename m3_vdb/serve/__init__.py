"""``m3-vdb serve``: embeddings, re-ranking and search over HTTP, all three parts from one forward pass.

``service.py`` encodes and searches, ``guard.py`` stands before every request (keys, sizes, cancelled requests),
``openai.py``, ``tei.py`` and ``search.py`` are the endpoints, and ``app.py`` puts them together. Needs the extra
``serve``; docs/serve.md describes it for users.
"""
