"""Qdrant's embedded engine behind the request models of a server: the engine of the REST stub.

A stub, honest about what it is: the scores, filters and fusions are the real engine's; the rules of a server around it
(strict mode, sizes, shards) are written here after the server's source, and no server was asked.

A collection of several shards is several engines. Each answers a request by itself, as a server's shards do, and the
best of all answers are the answer. A root fusion by ranks is then refused: a server does that over all shards.
"""

from __future__ import annotations

import random
import shutil
import tempfile
import uuid
from itertools import pairwise
from typing import Any

import qdrant_edge as edge
from qdrant_client import models

from m3_vdb.stores.qdrant.edge_values import match_bool

MAX_FLOATS = 1024 * 1024
_DATATYPES = {
    None: None,
    "float32": edge.VectorStorageDatatype.Float32,
    "float16": edge.VectorStorageDatatype.Float16,
    "uint8": edge.VectorStorageDatatype.Uint8,
    "turbo8": edge.VectorStorageDatatype.Turbo8,
    "turbo16": edge.VectorStorageDatatype.Turbo16,
}
_DISTANCES = {"Dot": edge.Distance.Dot, "Cosine": edge.Distance.Cosine, "Euclid": edge.Distance.Euclid}
_INDEXES = {
    "keyword": edge.PayloadSchemaType.Keyword,
    "integer": edge.PayloadSchemaType.Integer,
    "float": edge.PayloadSchemaType.Float,
    "bool": edge.PayloadSchemaType.Bool,
    "datetime": edge.PayloadSchemaType.Datetime,
}


class RefusedError(Exception):
    def __init__(self, status: int, words: str) -> None:
        super().__init__(words)
        self.status = status


class Collection:
    def __init__(self, created: models.CreateCollection, shards: int, strict: models.StrictModeConfig | None) -> None:
        self.created = created
        self.strict = strict or models.StrictModeConfig(enabled=False)
        self.schema: dict[str, Any] = {}
        # As a server's: grey (work left from before a restart) until a write or a change of settings, then yellow for
        # one answer, then green. Red stays.
        self.ties = random.Random(0)
        self.status = "green"
        self.optimizer_error = ""
        self.folder = tempfile.mkdtemp()
        config = edge.EdgeConfig(
            vectors={name: _vector_params(v) for name, v in (created.vectors or {}).items()},
            sparse_vectors={
                name: edge.EdgeSparseVectorParams(modifier=_modifier(v))
                for name, v in (created.sparse_vectors or {}).items()
            },
        )
        self.shards = [
            edge.EdgeShard.create(f"{self.folder}/{i}", config) for i in range(created.shard_number or shards)
        ]

    def close(self) -> None:
        for shard in self.shards:
            shard.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def info(self) -> models.CollectionInfo:
        c = self.created
        params = models.CollectionParams(
            vectors=c.vectors, sparse_vectors=c.sparse_vectors, shard_number=len(self.shards), replication_factor=1
        )
        schema = {
            name: models.PayloadIndexInfo(data_type=kind, params=params, points=0)
            for name, (kind, params) in self.schema.items()
        }
        status, fault = self.status, self.optimizer_error
        if status == "yellow":
            self.status = "green"
        return models.CollectionInfo(
            status=status, optimizer_status={"error": fault} if fault else "ok",
            segments_count=1, points_count=self.count(), indexed_vectors_count=0,
            payload_schema=schema,
            config=models.CollectionConfig(
                params=params,
                hnsw_config=models.HnswConfig(m=16, ef_construct=100, full_scan_threshold=10000),
                optimizer_config=models.OptimizersConfig(
                    deleted_threshold=0.2, vacuum_min_vector_number=1000, default_segment_number=0, flush_interval_sec=5
                ),
                wal_config=models.WalConfig(wal_capacity_mb=32, wal_segments_ahead=0),
                quantization_config=c.quantization_config,
                strict_mode_config=models.StrictModeConfigOutput.model_validate(self.strict.model_dump()),
                metadata=c.metadata,
            ),
        )  # fmt: skip

    def update(self, metadata: dict[str, Any] | None) -> None:
        if metadata is not None:
            self.created.metadata = {**(self.created.metadata or {}), **metadata}
        self.optimize()

    def optimize(self) -> None:
        if self.status == "grey":
            self.status = "yellow"

    def index(self, field: str, schema: Any) -> None:
        made = schema if hasattr(schema, "type") else None
        kind = getattr(schema, "type", schema)
        kind = getattr(kind, "value", kind)
        params = _INDEXES.get(kind)
        if kind == "text":
            params = edge.TextIndexParams(tokenizer=edge.TokenizerType.Word)
        elif getattr(schema, "is_tenant", None):
            params = edge.KeywordIndexParams(is_tenant=True)
        for shard in self.shards:
            shard.update(edge.UpdateOperation.create_field_index(field, params))
        self.schema[field] = kind, made

    def upsert(self, points: list[models.PointStruct]) -> None:
        largest = self.strict.upsert_max_batchsize if self.strict.enabled else None
        if largest is not None and len(points) > largest:
            raise RefusedError(403, f'Forbidden: Limit exceeded {len(points)} > {largest} for "upsert limit"')
        self.optimize()
        vectors = [{name: _vector(v) for name, v in point.vector.items()} for point in points]
        for point, vector in zip(points, vectors, strict=True):
            one = edge.Point(id=_point_id(point.id), payload=point.payload or {}, vector=vector)
            self._shard(point.id).update(edge.UpdateOperation.upsert_points([one]))

    def delete(self, ids: list[Any]) -> None:
        for shard in self.shards:
            shard.update(edge.UpdateOperation.delete_points([_point_id(i) for i in ids]))

    def delete_matching(self, condition: models.Filter) -> None:
        for shard in self.shards:
            shard.update(edge.UpdateOperation.delete_points_by_filter(to_filter(condition)))

    def set_payload(self, ids: list[Any], fields: dict[str, Any]) -> None:
        for i in ids:
            self._shard(i).update(edge.UpdateOperation.set_payload([_point_id(i)], fields))

    def create_vector(self, name: str, config: models.SparseVectorConfig) -> None:
        for shard in self.shards:
            shard.update(edge.UpdateOperation.create_sparse_vector(name, modifier=_modifier(config)))
        self.created.sparse_vectors = {
            **(self.created.sparse_vectors or {}),
            name: models.SparseVectorParams(modifier=config.modifier),
        }

    def update_vectors(self, points: list[models.PointVectors]) -> None:
        for point in points:
            vectors = {name: _vector(v) for name, v in point.vector.items()}
            one = edge.PointVectors(id=_point_id(point.id), vector=vectors)
            self._shard(point.id).update(edge.UpdateOperation.update_vectors([one]))

    def count(self, condition: models.Filter | None = None) -> int:
        asked = edge.CountRequest(exact=True, filter=to_filter(condition))
        return sum(shard.count(asked) for shard in self.shards)

    def retrieve(self, ids: list[Any], payload: Any, vectors: Any) -> list[dict[str, Any]]:
        found = {}
        for shard in self.shards:
            for r in shard.retrieve(
                [_point_id(i) for i in ids], with_payload=_payload(payload), with_vector=vectors or False
            ):
                found[str(r.id)] = _record(r)
        return [found[str(_point_id(i))] for i in dict.fromkeys(ids) if str(_point_id(i)) in found]

    def scroll(self, request: models.ScrollRequest) -> dict[str, Any]:
        limit = request.limit or 10
        asked = edge.ScrollRequest(
            offset=None if request.offset is None else _point_id(request.offset),
            limit=limit + 1,
            filter=to_filter(request.filter),
            with_payload=_payload(request.with_payload),
            with_vector=request.with_vector or False,
        )
        records = [r for shard in self.shards for r in shard.scroll(asked)[0]]
        records.sort(key=lambda r: r.id.int if isinstance(r.id, uuid.UUID) else r.id)
        more = str(records[limit].id) if len(records) > limit else None
        return {"points": [_record(r) for r in records[:limit]], "next_page_offset": more}

    def query(self, request: models.QueryRequest) -> list[dict[str, Any]]:
        if self.strict.enabled:
            self._check_strict(request, is_root=True)
        limit, offset = request.limit or 10, request.offset or 0
        is_formula = isinstance(request.query, models.FormulaQuery)
        if len(self.shards) > 1 and isinstance(request.query, (models.RrfQuery, models.FusionQuery)):
            raise RefusedError(501, "this stub fuses ranks on one shard only")
        # One more shows a tie at the end; of a plain search it could change which of equal ones are kept.
        points = self._best(request, limit + offset + is_formula)
        if is_formula and any(first.score == second.score for first, second in pairwise(points)):
            # A server collects what a formula scores in hash tables, so equal scores come in another order each time,
            # wherever the page is cut. Those of a plain search keep theirs.
            points = self._best(request, limit + offset + self.count())
            points.sort(key=lambda p: (-p.score, self.ties.random()))
        return [{**_record(p), "score": p.score, "version": p.version} for p in points[offset : offset + limit]]

    def _best(self, request: models.QueryRequest, limit: int) -> list[Any]:
        """The best of all shards, each of which answers by itself."""
        asked = edge.QueryRequest(
            prefetches=[self._prefetch(p) for p in _listed(request.prefetch)],
            query=_query(request.query, request.using),
            filter=to_filter(request.filter),
            params=_params(request.params),
            limit=limit,
            score_threshold=request.score_threshold,
            with_payload=_payload(request.with_payload),
            with_vector=request.with_vector or False,
        )
        return sorted((p for shard in self.shards for p in shard.query(asked)), key=lambda p: -p.score)[:limit]

    def query_batch(self, requests: list[models.QueryRequest]) -> list[list[dict[str, Any]]]:
        largest = self.strict.search_max_batchsize if self.strict.enabled else None
        if largest is not None and len(requests) > largest:
            raise RefusedError(403, f'Forbidden: Limit exceeded {len(requests)} > {largest} for "search batch size"')
        return [self.query(request) for request in requests]

    def _shard(self, point: Any) -> edge.EdgeShard:
        return self.shards[
            uuid.UUID(str(point)).int % len(self.shards) if isinstance(point, str) else point % len(self.shards)
        ]

    def _prefetch(self, p: models.Prefetch) -> edge.Prefetch:
        return edge.Prefetch(
            prefetches=[self._prefetch(inner) for inner in _listed(p.prefetch)],
            query=None if p.query is None else _query(p.query, p.using),
            filter=to_filter(p.filter),
            params=_params(p.params),
            limit=p.limit or 10,
            score_threshold=p.score_threshold,
        )

    def _check_strict(self, request: Any, *, is_root: bool) -> None:
        """After lib/collection/src/operations/verification/query.rs."""
        for inner in _listed(request.prefetch):
            self._check_strict(inner, is_root=False)
        if self.strict.max_query_limit is not None and (request.limit or 10) > self.strict.max_query_limit:
            words = f'Limit exceeded {request.limit} > {self.strict.max_query_limit} for "limit"'
            raise RefusedError(403, f"Forbidden: {words}")
        if self.strict.search_allow_exact is not False:
            return
        if request.params is not None and request.params.exact:
            raise RefusedError(403, "Forbidden: Exact search disabled! Help: Set exact=false.")
        plain = isinstance(request.query, (list, models.NearestQuery))
        vector = (self.created.vectors or {}).get(request.using)
        has_graph = vector is None or vector.hnsw_config is None or vector.hnsw_config.m != 0
        if plain and not has_graph and not (is_root and request.prefetch):
            words = "because global vector indexing is disabled (hnsw_config.m = 0)"
            raise RefusedError(403, f"Forbidden: Request is forbidden on '{request.using}' {words}")


class EdgeEngine:
    """Collections by name."""

    def __init__(self, *, shards: int = 1, strict: models.StrictModeConfig | None = None) -> None:
        self.collections: dict[str, Collection] = {}
        self.named: dict[str, str] = {}  # alias → collection
        self.shards = shards
        self.strict = strict
        self.peer_id = random.getrandbits(52)  # a server draws its number once, in a cluster or not

    def cluster_info(self, name: str) -> models.CollectionClusterInfo:
        local = [
            models.LocalShardInfo(shard_id=i, points_count=shard.count(edge.CountRequest(exact=True)), state="Active")
            for i, shard in enumerate(self.collection(name).shards)
        ]
        return models.CollectionClusterInfo(
            peer_id=self.peer_id, shard_count=len(local), local_shards=local, remote_shards=[], shard_transfers=[]
        )

    def collection_exists(self, name: str) -> bool:
        return self.named.get(name, name) in self.collections

    def collection(self, name: str) -> Collection:
        return self.collections[self.named.get(name, name)]

    def aliases(self) -> models.CollectionsAliasesResponse:
        pairs = self.named.items()
        return models.CollectionsAliasesResponse(
            aliases=[models.AliasDescription(alias_name=name, collection_name=target) for name, target in pairs]
        )

    def change_aliases(self, actions: list[Any]) -> None:
        named = dict(self.named)  # all or nothing
        for action in actions:
            if isinstance(action, models.DeleteAliasOperation):
                named.pop(action.delete_alias.alias_name, None)
                continue
            made = action.create_alias
            if made.collection_name not in self.collections:
                raise RefusedError(404, f"Not found: Collection `{made.collection_name}` doesn't exist!")
            if made.alias_name in self.collections:
                raise RefusedError(409, f"Wrong input: Collection `{made.alias_name}` already exists!")
            named[made.alias_name] = made.collection_name
        self.named = named

    def create_collection(self, name: str, **fields: Any) -> bool:
        if name in self.collections or name in self.named:
            raise RefusedError(409, f"Wrong input: Collection `{name}` already exists!")
        strict = fields.pop("strict_mode_config", None) or self.strict
        renamed = {"vectors_config": "vectors", "sparse_vectors_config": "sparse_vectors"}
        created = models.CreateCollection(**{renamed.get(key, key): value for key, value in fields.items()})
        self.collections[name] = Collection(created, self.shards, strict)
        return True

    def delete_collection(self, name: str) -> bool:
        collection = self.collections.pop(name, None)
        self.named = {alias: target for alias, target in self.named.items() if target != name}
        if collection is not None:
            collection.close()
        return collection is not None

    def close(self) -> None:
        for name in list(self.collections):
            self.delete_collection(name)


def _vector_params(v: models.VectorParams) -> edge.EdgeVectorParams:
    hnsw = v.hnsw_config
    return edge.EdgeVectorParams(
        size=v.size,
        distance=_DISTANCES[v.distance.value],
        multivector_config=v.multivector_config and edge.MultiVectorConfig(edge.MultiVectorComparator.MaxSim),
        hnsw_config=hnsw and edge.HnswIndexConfig(m=hnsw.m or 0, ef_construct=100, full_scan_threshold=10_000),
        datatype=_DATATYPES[v.datatype and v.datatype.value],
    )


def _modifier(params: models.SparseVectorParams | models.SparseVectorConfig) -> Any:
    return edge.Modifier.Idf if params.modifier == models.Modifier.IDF else None


def _vector(value: Any) -> Any:
    """A vector in the engine's form, checked as a server checks it; the engine checks nothing of this."""
    if isinstance(value, models.SparseVector):
        if len(value.indices) != len(value.values):
            raise RefusedError(422, "Validation error: values: must be the same length as indices")
        if len(set(value.indices)) != len(value.indices):
            raise RefusedError(422, "Validation error: indices: must be unique")
        return edge.SparseVector(value.indices, value.values)
    if value and isinstance(value[0], list):
        if sum(map(len, value)) >= MAX_FLOATS:
            raise RefusedError(422, f"Validation error: multivector: must be less than {MAX_FLOATS}")
        if len({len(row) for row in value}) > 1:
            raise RefusedError(422, "Validation error: all vectors must have the same dimension")
    return value


def _query(query: Any, using: str | None) -> Any:
    if isinstance(query, models.NearestQuery):
        query = query.nearest
    if isinstance(query, models.RrfQuery):
        return edge.Fusion.Rrf(query.rrf.k or 2, query.rrf.weights)
    if isinstance(query, models.FusionQuery):
        return edge.Fusion.Dbsf() if query.fusion == models.Fusion.DBSF else edge.Fusion.Rrf(2)
    if isinstance(query, models.FormulaQuery):
        return edge.Formula(_expression(query.formula), query.defaults or {})
    return edge.Query.Nearest(_vector(query), using=using)


def _expression(e: Any) -> Any:
    if isinstance(e, models.SumExpression):
        return edge.Expression.Sum([_expression(part) for part in e.sum])
    if isinstance(e, models.MultExpression):
        return edge.Expression.Mult([_expression(part) for part in e.mult])
    if isinstance(e, models.DivExpression):
        return edge.Expression.Div(_expression(e.div.left), _expression(e.div.right), e.div.by_zero_default)
    if isinstance(e, models.ExpDecayExpression):
        x, target = edge.Expression.DatetimeKey(e.exp_decay.x.datetime_key), e.exp_decay.target.datetime
        since = edge.Expression.Datetime(target)
        return edge.Expression.Decay(edge.DecayKind.Exp, x, since, e.exp_decay.midpoint, e.exp_decay.scale)
    if isinstance(e, models.Filter):
        return edge.Expression.Condition(to_filter(e))
    return edge.Expression.Variable(e) if isinstance(e, str) else edge.Expression.Constant(float(e))


def _params(params: models.SearchParams | None) -> Any:
    return params and edge.SearchParams(hnsw_ef=params.hnsw_ef, exact=bool(params.exact))


def to_filter(f: models.Filter | None) -> edge.Filter | None:
    if f is None:
        return None
    clauses = {name: [_condition(c) for c in _listed(getattr(f, name))] for name in ("must", "should", "must_not")}
    return edge.Filter(**{name: conditions or None for name, conditions in clauses.items()})


def _condition(c: Any) -> Any:  # noqa: PLR0911 - one return for each kind
    if isinstance(c, models.Filter):
        return to_filter(c)
    if isinstance(c, models.HasIdCondition):
        return edge.HasIdCondition({_point_id(i) for i in c.has_id})
    if isinstance(c, models.HasVectorCondition):
        return edge.HasVectorCondition(c.has_vector)
    if isinstance(c, models.IsEmptyCondition):
        return edge.IsEmptyCondition(c.is_empty.key)
    if isinstance(c, models.IsNullCondition):
        return edge.IsNullCondition(c.is_null.key)
    assert isinstance(c, models.FieldCondition), f"the stub does not know {c!r}"
    if c.range is not None:
        bounds = {name: getattr(c.range, name) for name in ("gt", "gte", "lt", "lte")}
        if isinstance(c.range, models.DatetimeRange):
            bounds = {name: bound and bound.isoformat() for name, bound in bounds.items()}
        kind = edge.RangeDateTime if isinstance(c.range, models.DatetimeRange) else edge.RangeFloat
        return edge.FieldCondition(c.key, range=kind(**bounds))
    if c.values_count is not None:
        return edge.FieldCondition(c.key, values_count=edge.ValuesCount(lt=c.values_count.lt))
    if isinstance(c.match, models.MatchAny):
        return edge.FieldCondition(c.key, match=edge.MatchAny(list(c.match.any)))
    if isinstance(c.match, models.MatchText):
        return edge.FieldCondition(c.key, match=edge.MatchText(c.match.text))
    value = c.match.value
    return edge.FieldCondition(c.key, match=match_bool(value) if isinstance(value, bool) else edge.MatchValue(value))


def _payload(selector: Any) -> Any:
    return False if selector is None else selector


def _point_id(value: Any) -> Any:
    try:
        return value if isinstance(value, int) else uuid.UUID(str(value))
    except ValueError:
        raise RefusedError(
            400, f"value {value} is not a valid point ID, valid values are either an unsigned integer or a UUID"
        ) from None


def _record(r: Any) -> dict[str, Any]:
    vector = r.vector
    if isinstance(vector, dict):
        vector = {
            name: {"indices": list(v.indices), "values": list(v.values)} if isinstance(v, edge.SparseVector) else v
            for name, v in vector.items()
        }
    return {"id": str(r.id) if isinstance(r.id, uuid.UUID) else r.id, "payload": r.payload, "vector": vector}


def _listed(value: Any) -> list[Any]:
    return [] if value is None else value if isinstance(value, list) else [value]
