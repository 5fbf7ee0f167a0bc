"""A Qdrant server's REST interface over the client's local mode: real bytes on a real socket, a toy engine behind.

It also keeps three rules of a server that local mode does not: bodies below 32 MiB, multi-vectors below 1,048,576
numbers, and strict JSON. Every body it received is kept in ``bodies``.
"""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from pydantic import BaseModel
from qdrant_client import QdrantClient, models

MAX_BODY = 32 * 1024 * 1024
MAX_FLOATS = 1024 * 1024


class RestStub:
    def __init__(self) -> None:
        self.engine = QdrantClient(":memory:")
        self.lock = threading.Lock()
        self.bodies: list[tuple[str, str, int, Any]] = []
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (_Handler,), {"stub": self}))
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server.server_address[1]}"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.engine.close()

    def answer(self, method: str, path: str, body: Any) -> Any:  # noqa: PLR0911 - one return for each route
        _, name, *rest = path.strip("/").split("/")
        route = (method, "/".join(rest))
        if route == ("GET", "exists"):
            return {"exists": self.engine.collection_exists(name)}
        if route == ("PUT", ""):
            c = models.CreateCollection.model_validate(body)
            return self.engine.create_collection(
                name, vectors_config=c.vectors, sparse_vectors_config=c.sparse_vectors, metadata=c.metadata
            )
        if not self.engine.collection_exists(name):
            raise RefusedError(404, f"Not found: Collection `{name}` doesn't exist!")
        if route == ("GET", ""):
            return self.engine.get_collection(name)
        if route == ("PUT", "points"):
            points = models.PointsList.model_validate(body).points
            for point in points:
                if sum(map(len, point.vector["multi_vector"])) >= MAX_FLOATS:
                    raise RefusedError(422, "Validation error: multivector too large")
            return self.engine.upsert(name, points)
        if route == ("POST", "points/query"):
            q = models.QueryRequest.model_validate(body)
            return self.engine.query_points(
                name,
                prefetch=q.prefetch,
                query=q.query,
                limit=q.limit,
                offset=q.offset,
                score_threshold=q.score_threshold,
                with_vectors=q.with_vector,
                with_payload=q.with_payload,
            )
        if route == ("POST", "points"):
            return self.engine.retrieve(name, models.PointRequest.model_validate(body).ids, with_payload=True)
        if route == ("POST", "points/delete"):
            return self.engine.delete(name, models.PointIdsList.model_validate(body))
        if route == ("POST", "points/count"):
            return self.engine.count(name, exact=True)
        raise RefusedError(404, f"the stub does not know {method} {path}")


class RefusedError(Exception):
    def __init__(self, status: int, words: str) -> None:
        super().__init__(words)
        self.status = status


class _Handler(BaseHTTPRequestHandler):
    stub: RestStub
    protocol_version = "HTTP/1.1"

    def _serve(self) -> None:
        size = int(self.headers.get("Content-Length") or 0)
        raw = self.rfile.read(size)
        path = urlsplit(self.path).path
        try:
            if size > MAX_BODY:
                raise RefusedError(413, "Payload error: JSON payload is larger than allowed")
            body = json.loads(raw, parse_constant=_no_constant) if raw else None
            self.stub.bodies.append((self.command, path, size, body))
            with self.stub.lock:
                result = self.stub.answer(self.command, path, body)
            status, answer = 200, {"result": _plain(result), "status": "ok", "time": 0.0}
        except RefusedError as error:
            status, answer = error.status, {"result": None, "status": {"error": str(error)}, "time": 0.0}
        except ValueError as error:
            status, answer = 400, {"result": None, "status": {"error": f"{error}"}, "time": 0.0}
        data = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_PUT = do_POST = _serve  # noqa: N815 - the names are http.server's

    def log_message(self, *args: object) -> None:
        pass


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else value
