"""A stub of a Qdrant server's REST interface: real bytes on a real socket, the embedded engine behind.

It keeps rules of a server that the engine does not: bodies up to 32 MiB, multi-vectors below 1,048,576 numbers, unique
sparse indices, strict JSON, and strict mode if asked for. ``shards`` makes collections of several parts. Every body it
received is kept in ``bodies``, bytes of the answers in ``sent``; ``refuse`` holds answers (status, headers) that the
next requests get instead.
"""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

from pydantic import BaseModel
from qdrant_client import models

from benchmarks.stubs.qdrant_stub_engine import EdgeEngine, RefusedError

UNAUTHORIZED = 401
MAX_BODY = 32 * 1024 * 1024


class RestStub:
    def __init__(
        self, *, shards: int = 1, strict: models.StrictModeConfig | None = None, version: str = "1.20.0"
    ) -> None:
        self.engine = EdgeEngine(shards=shards, strict=strict)
        self.version = version
        self.lock = threading.Lock()
        self.bodies: list[tuple[str, str, int, Any]] = []
        self.sent: list[int] = []
        self.refuse: list[tuple[int, dict[str, str]]] = []
        self.keys: dict[str, bool] = {}  # key → whether it may write; empty: none is asked for
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (_Handler,), {"stub": self}))
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server.server_address[1]}"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.engine.close()

    def answer(self, method: str, path: str, body: Any, key: str = "") -> Any:  # noqa: PLR0911 - one for each route
        if path == "/":
            return None
        if self.keys and key not in self.keys:
            missing = "Must provide an API key or an Authorization bearer token"
            raise RefusedError(401, "Invalid API key or JWT" if key else missing)
        reads = method == "GET" or path.endswith(("/query", "/query/batch", "/scroll", "/count", "/points"))
        if self.keys and not self.keys[key] and not (reads and method != "PUT"):
            raise RefusedError(403, "Forbidden: Write access to collection notes is required")
        if path == "/aliases":
            return self.engine.aliases()
        if path == "/collections/aliases":
            self.engine.change_aliases(models.ChangeAliasesOperation.model_validate(body).actions)
            return True
        _, name, *rest = path.strip("/").split("/")
        route, name = f"{method} {'/'.join(rest)}", unquote(name)
        if route == "GET exists":
            return {"exists": self.engine.collection_exists(name)}
        if route == "PUT ":
            c = models.CreateCollection.model_validate(body)
            return self.engine.create_collection(
                name,
                vectors_config=c.vectors,
                sparse_vectors_config=c.sparse_vectors,
                shard_number=c.shard_number,
                quantization_config=c.quantization_config,
                strict_mode_config=c.strict_mode_config,
                metadata=c.metadata,
            )
        if route == "DELETE ":
            return self.engine.delete_collection(name)  # not an error if there is none
        if not self.engine.collection_exists(name):
            raise RefusedError(404, f"Not found: Collection `{name}` doesn't exist!")
        if route == "GET cluster":
            return self.engine.cluster_info(name)
        return self._in_collection(route, self.engine.collection(name), body)

    def _in_collection(self, route: str, found: Any, body: Any) -> Any:  # noqa: PLR0911, PLR0912 - one for each route
        done = {"operation_id": 0, "status": "completed"}
        if route == "GET ":
            return found.info()
        if route == "PATCH ":
            found.update(models.UpdateCollection.model_validate(body).metadata)
            return True
        if route == "PUT index":
            wanted = models.CreateFieldIndex.model_validate(body)
            found.index(wanted.field_name, wanted.field_schema)
            return done
        if route.startswith("PUT vectors/"):
            wanted = models.SparseVectorNameConfig.model_validate(body)
            found.create_vector(unquote(route.removeprefix("PUT vectors/")), wanted.sparse)
            return done
        if route == "PUT points/vectors":
            found.update_vectors(models.UpdateVectors.model_validate(body).points)
            return done
        if route == "PUT points":
            found.upsert(models.PointsList.model_validate(body).points)
            return done
        if route == "POST points/query":
            return {"points": found.query(models.QueryRequest.model_validate(body))}
        if route == "POST points/query/batch":
            requests = models.QueryRequestBatch.model_validate(body).searches
            return [{"points": points} for points in found.query_batch(requests)]
        if route == "POST points":
            wanted = models.PointRequest.model_validate(body)
            return found.retrieve(wanted.ids, wanted.with_payload, wanted.with_vector)
        if route == "POST points/scroll":
            return found.scroll(models.ScrollRequest.model_validate(body))
        if route == "POST points/delete":
            if "filter" in body:
                found.delete_matching(models.FilterSelector.model_validate(body).filter)
            else:
                found.delete(models.PointIdsList.model_validate(body).points)
            return done
        if route == "POST points/payload":
            wanted = models.SetPayload.model_validate(body)
            found.set_payload(wanted.points, wanted.payload)
            return done
        if route == "POST points/count":
            return {"count": found.count(models.CountRequest.model_validate(body).filter)}
        raise RefusedError(404, f"the stub does not know {route}")


class _Handler(BaseHTTPRequestHandler):
    stub: RestStub
    protocol_version = "HTTP/1.1"

    def _serve(self) -> None:
        size = int(self.headers.get("Content-Length") or 0)
        raw = self.rfile.read(size)
        path = urlsplit(self.path).path
        headers: dict[str, str] = {}
        try:
            if self.stub.refuse:
                status, headers = self.stub.refuse.pop(0)
                raise RefusedError(status, "Rate limiting exceeded: Write rate limit exceeded, retry later")
            if size > MAX_BODY:
                raise RefusedError(413, "Payload error: JSON payload is larger than allowed")
            body = json.loads(raw, parse_constant=_no_constant) if raw else None
            self.stub.bodies.append((self.command, path, size, body))
            with self.stub.lock:
                result = self.stub.answer(self.command, path, body, self.headers["api-key"] or "")
            status, answer = 200, {"result": _plain(result), "status": "ok", "time": 0.0}
            if path == "/":
                answer = {"title": "stub of Qdrant", "version": self.stub.version}
        except RefusedError as error:
            status, answer = error.status, {"result": None, "status": {"error": str(error)}, "time": 0.0}
        except ValueError as error:
            status, answer = 400, {"result": None, "status": {"error": f"{error}"}, "time": 0.0}
        data, kind = json.dumps(answer).encode(), "application/json"
        if status == UNAUTHORIZED:  # alone of all answers it is not JSON
            data, kind = answer["status"]["error"].encode(), "text/plain"
        self.stub.sent.append(len(data))
        self.send_response(status)
        for name, value in {"Content-Type": kind, **headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_PUT = do_POST = do_PATCH = do_DELETE = _serve  # noqa: N815 - the names are http.server's

    def log_message(self, *args: object) -> None:
        pass


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _plain(value: Any) -> Any:
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else value
