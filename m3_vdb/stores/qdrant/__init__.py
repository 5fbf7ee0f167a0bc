"""Collections of Qdrant: on a server (``server``, through qdrant-client), or in a folder (``embedded``, Qdrant Edge).

The two are imported apart, because a user may have only one of the packages, and qdrant-client takes seconds.
"""
