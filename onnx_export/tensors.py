"""Tensors by name from files of ``torch.save`` and safetensors, without torch and without running code.

Both formats are a table of contents and raw numbers. The numbers are mapped into memory and become float32 when a
tensor is read, so a file may be larger than memory. The contents of a ``.bin`` or ``.pt`` are a pickle, which is a
program: here it may build dictionaries and name tensors, and anything else in it is refused before it is run. Each part
of such an archive has a checksum, which is compared when the part is first read.
"""

from __future__ import annotations

import io
import json
import math
import mmap
import pickle
import pickletools
import re
import struct
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from m3_vdb.encoding.model_files import AGAIN, check_file, damaged
from m3_vdb.errors import BundleError

Float32: TypeAlias = NDArray[np.float32]

FLOATS: Final[Mapping[str, str]] = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
"""safetensors' names of floats → NumPy's; bfloat16, which NumPy lacks, is the upper half of a float32."""
OTHERS: Final = {"I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1}
"""Other types and their bytes: named in messages, and never read."""
STORAGES: Final[Mapping[str, str]] = {
    "DoubleStorage": "F64", "FloatStorage": "F32", "HalfStorage": "F16", "BFloat16Storage": "BF16",
    "LongStorage": "I64", "IntStorage": "I32", "ShortStorage": "I16", "CharStorage": "I8", "ByteStorage": "U8",
    "BoolStorage": "BOOL",
}  # fmt: skip
"""torch's names of the same types."""
POSITIONS: Final = ("position_ids", "token_type_ids")
"""Older files have the numbers of the positions, which are integers and not weights."""
MOST_CONTENTS: Final = 100 * 2**20
"""Bytes of a table of contents, safetensors' own limit."""
LOCAL_HEADER: Final = struct.Struct("<4s22xHH")
"""Of a file in a zip archive: signature, and the lengths of the name and of the extra field that follow."""
OPERATIONS: Final = frozenset([
    "PROTO", "FRAME", "STOP", "MARK", "MEMOIZE", "BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET", "GLOBAL",
    "STACK_GLOBAL", "REDUCE", "BUILD", "BINPERSID", "EMPTY_DICT", "SETITEM", "SETITEMS", "EMPTY_LIST", "APPEND",
    "APPENDS", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "NONE", "NEWTRUE", "NEWFALSE", "BININT",
    "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE",
])  # fmt: skip
"""What a pickle of tensors consists of."""

_KNOWN: Final = re.compile(r"(?:^|\.)((?:embeddings|encoder\.layer|sparse_linear|colbert_linear)\..+)")
"""A tensor's own name, after whatever the model that saved it was wrapped in ("roberta.", "base_model.model.", …)."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor that is read when it is asked for.

    Attributes:
        shape: its sizes.
        read: gives it as float32, read-only and mapped where the file has float32.
    """

    shape: tuple[int, ...]
    read: Callable[[], Float32]


class Tensors(Mapping[str, Float32]):
    """Tensors by name, each read anew whenever it is asked for, so that few of them are in memory at a time.

    Attributes:
        parts: name → tensor.
    """

    def __init__(self, parts: Mapping[str, Tensor]) -> None:
        self.parts = parts

    def __getitem__(self, name: str) -> Float32:
        return self.parts[name].read()

    def __iter__(self) -> Iterator[str]:
        return iter(self.parts)

    def __len__(self) -> int:
        return len(self.parts)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The floating-point tensors of a ``.safetensors``, ``.bin`` or ``.pt`` file by name; nothing else is read.

    Raises:
        BundleError: the file is missing or damaged, or holds anything but tensors by name. Reading a tensor raises it
            where a value is not finite or, in an archive with checksums, not as it was written.
    """
    check_file(path)
    try:
        with path.open("rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        views = (_safetensors if path.suffix == ".safetensors" else _archive)(path, data)
    except _DAMAGE as error:
        raise damaged(path, error) from error
    return {name: _tensor(path, name, view) for name, view in views.items() if not name.endswith(POSITIONS)}


def plain_name(name: str) -> str:
    """A tensor's name without what the model was wrapped in when it was saved; others as they are."""
    found = _KNOWN.search(name)
    return found[1] if found else name


@dataclass
class _Member:
    """A file in an archive, where it lies, and its checksum, 0 where torch was told to compute none."""

    data: memoryview
    crc: int

    @cached_property
    def is_intact(self) -> bool:
        """Whether it is as it was written, as far as is known (torch.serialization.set_crc32_options)."""
        return not self.crc or zlib.crc32(self.data) == self.crc


class _View(NamedTuple):
    """A tensor of a file: its type (``FLOATS`` or ``OTHERS``), and its numbers as they lie there (None for others)."""

    kind: str
    shape: tuple[int, ...]
    numbers: NDArray[Any] | None
    member: _Member | None = None


class _NotTensorsError(Exception):
    """A pickle of something else."""


_DAMAGE: Final = (
    OSError, EOFError, ValueError, LookupError, TypeError, AttributeError, RecursionError, MemoryError, OverflowError,
    struct.error, zipfile.BadZipFile, pickle.UnpicklingError, NotImplementedError,
)  # fmt: skip
"""What NumPy, zipfile, pickle and the checks below raise for a damaged file."""


def _tensor(path: Path, name: str, view: _View) -> Tensor:
    if view.numbers is None:
        kind = {"I": "int", "U": "uint", "B": "bool"}[view.kind[0]] + view.kind.strip("IUBOL")
        raise BundleError(f"{path}: {name} is {kind}, expected floats: give the model as it was trained")
    numbers, bfloat16 = view.numbers, view.kind == "BF16"

    def read() -> Float32:
        if view.member is not None and not view.member.is_intact:
            raise BundleError(f"{path}: {name} is damaged (not the numbers of its checksum): {AGAIN}")
        wide = (
            (numbers.astype(np.uint32) << 16).view(np.float32) if bfloat16 else numbers.astype(np.float32, copy=False)
        )
        for part in wide.reshape(-1)[None] if wide.ndim < 2 else wide:  # by rows: what is tested takes memory
            if not np.isfinite(part).all():
                raise BundleError(
                    f"{path}: {name} has NaN or infinity: {AGAIN}, or take an earlier one of its training"
                )
        return wide

    return Tensor(view.shape, read)


def _safetensors(path: Path, data: mmap.mmap) -> dict[str, _View]:
    """8 bytes with the length N, N bytes of JSON (name → dtype, shape, data_offsets), then the numbers."""
    (length,) = struct.unpack_from("<Q", data)
    start = 8 + length
    if length > MOST_CONTENTS or start > len(data):
        raise ValueError(f"its header has {length:,} bytes, the file {len(data):,}")
    contents = json.loads(data[8:start])
    contents.pop("__metadata__", None)
    views = {}
    for name, entry in contents.items():
        kind, shape = entry["dtype"], _whole(entry["shape"])
        begin, end = _whole(entry["data_offsets"])
        if kind not in FLOATS and kind not in OTHERS:
            raise BundleError(f"{path}: {name} is {kind}, expected floats: give the model as it was trained")
        views[name] = _view(name, kind, data, start + begin, end - begin, shape)
    return views


def _view(name: str, kind: str, data: mmap.mmap, begin: int, size: int, shape: tuple[int, ...]) -> _View:
    """The tensor whose numbers fill ``size`` bytes from ``begin`` on, all of them."""
    if math.prod(shape) * _width(kind) != size or begin + size > len(data):
        raise ValueError(f"{name} {list(shape)} {kind} has {min(size, len(data) - begin):,} bytes")
    if kind not in FLOATS:
        return _View(kind, shape, None)
    return _View(kind, shape, np.frombuffer(data, FLOATS[kind], math.prod(shape), begin).reshape(shape))


def _width(kind: str) -> int:
    """Bytes of a number."""
    return np.dtype(FLOATS[kind]).itemsize if kind in FLOATS else OTHERS[kind]


def _whole(numbers: Sequence[object]) -> tuple[int, ...]:
    if not all(type(number) is int and number >= 0 for number in numbers):
        raise ValueError(f"sizes {list(numbers)}")
    return tuple(numbers)  # type: ignore[arg-type]  # checked


def _archive(path: Path, data: mmap.mmap) -> dict[str, _View]:
    """A zip archive: ``data.pkl`` names tensors and their storages, which are uncompressed files beside it."""
    if not zipfile.is_zipfile(path):
        if data[:2] == b"\x80\x02" and b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19" in data[:16]:  # the number that began it
            raise BundleError(
                f"{path} has the format of torch before 1.6: write it again, torch.save(torch.load(…), …)"
            )
        raise ValueError("not a file of torch.save, or not the whole of it")
    with zipfile.ZipFile(path) as archive:
        files = {info.filename: info for info in archive.infolist()}
    contents = [name for name in files if name.endswith("/data.pkl")]
    if len(contents) != 1:
        raise ValueError("no data.pkl: not a file of torch.save")
    prefix = contents[0].removesuffix("data.pkl")
    if f"{prefix}byteorder" in files and _content(data, files[f"{prefix}byteorder"]) != b"little":
        raise ValueError("its numbers are big-endian")
    program = _content(data, files[contents[0]])
    try:
        return _state(program, lambda key: _member(data, files[f"{prefix}data/{key}"]))
    except _NotTensorsError as error:
        raise BundleError(
            f"{path} holds {error}, expected tensors by name: write it with torch.save(module.state_dict(), …)"
        ) from error


def _content(data: mmap.mmap, info: zipfile.ZipInfo) -> bytes:
    """The bytes of a small file in an archive."""
    if info.file_size > MOST_CONTENTS:
        raise ValueError(f"{info.filename} has {info.file_size:,} bytes")
    member = _member(data, info)
    if not member.is_intact:
        raise ValueError(f"{info.filename} is not what its checksum says")
    return bytes(member.data)


def _member(data: mmap.mmap, info: zipfile.ZipInfo) -> _Member:
    """A file in an archive, where it lies."""
    signature, name, extra = LOCAL_HEADER.unpack_from(data, info.header_offset)
    begin = info.header_offset + LOCAL_HEADER.size + name + extra
    if signature != b"PK\x03\x04" or info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
        raise ValueError(f"{info.filename} is compressed, encrypted or elsewhere")
    if info.file_size != info.compress_size or begin + info.file_size > len(data):
        raise ValueError(f"{info.filename} is not whole")
    return _Member(memoryview(data)[begin : begin + info.file_size], info.CRC)


class _Storage(NamedTuple):
    """Numbers that tensors are cut from (None: of a type that is never read)."""

    kind: str
    numbers: NDArray[Any] | None
    size: int
    member: _Member


def _state(program: bytes, member: Callable[[str], _Member]) -> dict[str, _View]:
    """The tensors that a pickle names; ``member`` gives the file of a storage by its key.

    Raises:
        _NotTensorsError: it is a pickle of something else.
    """
    for operation, argument, _ in pickletools.genops(program):
        if operation.name not in OPERATIONS:
            raise _NotTensorsError("Python objects")
        if operation.name == "LONG_BINPUT" and cast(int, argument) >= len(program):  # a table of this size is made
            raise ValueError("an index is out of range")
    state = _Unpickler(io.BytesIO(program), member).load()
    if not isinstance(state, dict) or not all(type(k) is str and type(v) is _View for k, v in state.items()):
        raise _NotTensorsError(f"a {type(state).__name__}")
    return dict(state)


class _Unpickler(pickle.Unpickler):
    """An unpickler that imports nothing and knows three functions, all of them harmless."""

    def __init__(self, program: io.BytesIO, member: Callable[[str], _Member]) -> None:
        super().__init__(program)
        self.member = member

    def find_class(self, module: str, name: str) -> Any:  # noqa: ANN401 - as pickle has it
        """What a name in the pickle stands for."""
        if module == "torch" and name in STORAGES:
            return STORAGES[name]
        known: dict[tuple[str, str], Any] = {
            ("collections", "OrderedDict"): OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): _Function(_strided),
            ("torch._utils", "_rebuild_parameter"): _Function(lambda view, *_: view),
        }
        if (module, name) not in known:
            raise _NotTensorsError("Python objects")
        return known[module, name]

    def persistent_load(self, pid: Any) -> _Storage:  # noqa: ANN401 - as pickle has it
        """("storage", type, key, device, how many) → the storage, mapped."""
        what, kind, key, _, size = pid
        if what != "storage" or type(kind) is not str or type(key) is not str:
            raise ValueError(f"an unknown object {what!r}")
        member = self.member(key)
        if len(member.data) != size * _width(kind):
            raise ValueError(f"data/{key} has {len(member.data):,} bytes, expected {size} of {kind}")
        return _Storage(kind, np.frombuffer(member.data, FLOATS[kind]) if kind in FLOATS else None, size, member)


class _Function:
    """A function that a pickle may call; its operation BUILD could change a plain one."""

    __slots__ = ("function",)

    def __init__(self, function: Callable[..., _View]) -> None:
        self.function = function

    def __call__(self, *arguments: Any) -> _View:  # noqa: ANN401 - checked by the function
        return self.function(*arguments)

    def __setstate__(self, state: object) -> None:
        raise ValueError("a function is changed")


def _strided(storage: _Storage, offset: int, shape: Sequence[int], strides: Sequence[int], *_: object) -> _View:
    """A tensor of a storage: element (i, j) is number offset + i·strides[0] + j·strides[1]."""
    (offset,), shape, strides = _whole([offset]), _whole(shape), _whole(strides)
    kind, numbers, total, member = storage
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    if math.prod(shape) and last >= total:
        raise ValueError(f"a tensor {list(shape)} ends beyond its storage")
    if numbers is None:
        return _View(kind, shape, None)
    if not math.prod(shape):
        return _View(kind, shape, numbers[:0].reshape(shape), member)
    steps = [numbers.itemsize * stride for stride in strides]
    return _View(kind, shape, np.lib.stride_tricks.as_strided(numbers[offset:], shape, steps, writeable=False), member)
