"""Read a PyTorch checkpoint without running anything that lies in it.

A `.pt` file is a pickle, and a pickle is a program. This reader interprets it with three kinds of
result only: plain values (numbers, strings, lists, dicts), tensors, and `StandIn`s, inert records
of "an object of class X with this state". No class or function of the file is ever imported or
called: a name in the file becomes a `Global`, a pair of strings, and the few names that build
tensors are looked up in a table here. A name outside the model namespaces is refused.

Both containers of `torch.save` are read: the zip archive (torch >= 1.6) and the older plain stream.
The opcodes are those of CPython's `pickle.py`; the layout of the containers is that of
`torch/serialization.py`.
"""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import torch
from torch import Tensor

from hw_models.errors import InputError

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # torch/serialization.py MAGIC_NUMBER
LEGACY_PROTOCOL = 1001

STORAGE_DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}

# Packages whose names become stand-ins: models, their settings, and the bookkeeping that YOLOv5 and
# ultralytics keep beside them (numpy scalars, argparse namespaces, paths).
INERT_PACKAGES = {"models", "utils", "ultralytics", "numpy", "argparse", "pathlib", "collections"}
INERT_NAMES = {
    ("_codecs", "encode"),  # numpy's pickles of byte strings
    ("copyreg", "_reconstructor"),
    ("copy_reg", "_reconstructor"),
    ("builtins", "object"),
    ("__builtin__", "object"),
    ("torch", "device"),
    *(("torch", str(dtype).removeprefix("torch.")) for dtype in STORAGE_DTYPES.values()),
    *(("torch", name) for name in STORAGE_DTYPES),
}


@dataclass(frozen=True, slots=True)
class Global:
    """The name of a class or function in a checkpoint; never the thing itself."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(slots=True, eq=False)
class StandIn:
    """An object of the checkpoint as inert data: what it claims to be, and what it holds."""

    origin: Global
    args: tuple[Any, ...] = ()
    state: dict[Any, Any] = field(default_factory=dict)
    items: list[Any] = field(default_factory=list)

    def set_state(self, state: object) -> None:
        """Keep the attributes of a pickled `__dict__` (and `__slots__`); ignore any other form."""
        parts = state if isinstance(state, tuple) else (state,)
        for part in parts:
            if isinstance(part, Mapping):
                self.state.update(part)

    # Subclasses of list, dict and set are pickled with these calls.
    def append(self, item: object) -> None:
        """Keep one item of a list-like object."""
        self.items.append(item)

    def add(self, item: object) -> None:
        """Keep one item of a set-like object."""
        self.items.append(item)

    def __setitem__(self, key: object, value: object) -> None:
        self.items.append((key, value))


@dataclass(frozen=True, slots=True)
class Storage:
    """The flat memory that tensors of a checkpoint are views of."""

    flat: Tensor


def _rebuild_tensor(storage: Storage, offset: int, size: Any, stride: Any, *_: object) -> Tensor:
    """Make the tensor that is a view of `storage`; it may not be larger than its memory."""
    size, stride = tuple(size), tuple(stride)
    elements = 1
    for length in size:
        elements *= length
    if elements > storage.flat.numel():
        raise ValueError(f"a tensor of shape {size} in a storage of {storage.flat.numel()}")
    return storage.flat.as_strided(size, stride, offset)


def _first(value: Any, *_: object) -> Any:
    return value


BUILDERS: dict[tuple[str, str], Callable[..., Any]] = {
    ("torch._utils", "_rebuild_tensor"): _rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _first,
    ("torch._utils", "_rebuild_parameter_with_state"): _first,
    ("torch.nn.parameter", "Parameter"): _first,
    ("torch", "Size"): tuple,
    ("collections", "OrderedDict"): OrderedDict,
    ("builtins", "set"): set,
    ("__builtin__", "set"): set,
}


def _is_known(module: str, name: str) -> bool:
    return (
        (module, name) in BUILDERS
        or (module, name) in INERT_NAMES
        or module.partition(".")[0] in INERT_PACKAGES
        or module.startswith("torch.nn.")
    )


class _RefusedError(Exception):
    """A name outside the tables above was met."""


_BUILD: Callable[[Any], None] = pickle._Unpickler.dispatch[pickle.BUILD[0]]


class _Reader(pickle._Unpickler):
    """CPython's unpickler in Python, with every opcode that imports or calls replaced.

    Args:
        file: Where the pickle is read from.
        load_storage: Maps (dtype, key, number of elements) to the storage with that key.
        trust: Import and call names that would be refused, as `pickle.load` does.
    """

    stack: list[Any]
    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = {**pickle._Unpickler.dispatch}

    def __init__(
        self,
        file: BinaryIO,
        load_storage: Callable[[torch.dtype, str, int], Storage],
        *,
        trust: bool,
    ) -> None:
        super().__init__(file, encoding="utf-8")
        self.load_storage = load_storage
        self.trust = trust

    def find_class(self, module: str, name: str) -> Any:
        """Turn a name into a `Global`, or refuse it."""
        if _is_known(module, name):
            return Global(module, name)
        if self.trust:
            return super().find_class(module, name)
        raise _RefusedError(f"{module}.{name}")

    def persistent_load(self, pid: Any) -> Any:
        """Find the memory a tensor refers to."""
        kind, *rest = pid
        if kind == "module":  # the legacy format stores the source of each class beside its name
            return rest[0]
        if kind != "storage":
            raise pickle.UnpicklingError(f"unknown persistent id {kind!r}")
        storage_type, key, _location, elements = rest[:4]
        if not isinstance(storage_type, Global) or storage_type.name not in STORAGE_DTYPES:
            raise pickle.UnpicklingError(f"unknown storage type {storage_type}")
        return self.load_storage(STORAGE_DTYPES[storage_type.name], str(key), int(elements))

    def get_extension(self, code: int) -> None:
        """Refuse the registry of `copyreg`: its entries are imported names."""
        raise _RefusedError(f"copyreg extension {code}")

    def _make(self, maker: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        if isinstance(maker, Global):
            build = BUILDERS.get((maker.module, maker.name))
            return build(*args) if build else StandIn(maker, tuple(args))
        if self.trust and callable(maker):
            return maker(*args, **kwargs)
        raise _RefusedError(f"a call of {type(maker).__name__}")

    def _instantiate(self, klass: Any, args: Any) -> None:
        self.stack.append(self._make(klass, tuple(args), {}))

    def _load_reduce(self) -> None:
        args = self.stack.pop()
        self.stack[-1] = self._make(self.stack[-1], args, {})

    def _load_newobj(self) -> None:
        args = self.stack.pop()
        self.stack[-1] = self._make_object(self.stack[-1], args, {})

    def _load_newobj_ex(self) -> None:
        kwargs, args = self.stack.pop(), self.stack.pop()
        self.stack[-1] = self._make_object(self.stack[-1], args, kwargs)

    def _make_object(self, cls: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        if self.trust and isinstance(cls, type):
            return cls.__new__(cls, *args, **kwargs)
        return self._make(cls, args, kwargs)

    def _load_build(self) -> None:
        target = self.stack[-2]
        if isinstance(target, StandIn):
            target.set_state(self.stack.pop())
        elif isinstance(target, (OrderedDict, Tensor)):
            self.stack.pop()  # `_metadata` of a state dict, attributes of a parameter
        elif self.trust:
            _BUILD(self)
        else:
            raise _RefusedError(f"setting the state of {type(target).__name__}")

    dispatch[pickle.REDUCE[0]] = _load_reduce
    dispatch[pickle.NEWOBJ[0]] = _load_newobj
    dispatch[pickle.NEWOBJ_EX[0]] = _load_newobj_ex
    dispatch[pickle.BUILD[0]] = _load_build


def _flat(data: bytes, dtype: torch.dtype, elements: int) -> Storage:
    if len(data) != elements * dtype.itemsize:
        raise EOFError(f"{elements} numbers of {dtype} wanted, {len(data)} bytes found")
    if not data:
        return Storage(torch.empty(0, dtype=dtype))
    return Storage(torch.frombuffer(bytearray(data), dtype=dtype))


def _read_zip(file: BinaryIO, trust: bool) -> Any:
    """Read the zip layout: NAME/data.pkl beside one stored entry NAME/data/KEY a storage."""
    with zipfile.ZipFile(file) as archive:
        entries = {info.filename: info for info in archive.infolist()}
        pickles = [name for name in entries if name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise pickle.UnpicklingError("no data.pkl in the archive")
        folder = pickles[0].removesuffix("data.pkl")
        if folder + "constants.pkl" in entries:
            raise pickle.UnpicklingError("a TorchScript program, not a checkpoint")
        if any(info.compress_type != zipfile.ZIP_STORED for info in entries.values()):
            raise pickle.UnpicklingError("compressed entries, which torch.save never writes")
        if folder + "byteorder" in entries and archive.read(folder + "byteorder") != b"little":
            raise pickle.UnpicklingError("big-endian tensors")
        storages: dict[str, Storage] = {}

        def load_storage(dtype: torch.dtype, key: str, elements: int) -> Storage:
            if key not in storages:
                storages[key] = _flat(archive.read(f"{folder}data/{key}"), dtype, elements)
            return storages[key]

        data = io.BytesIO(archive.read(pickles[0]))
        return _Reader(data, load_storage, trust=trust).load()


def _read_legacy(file: BinaryIO, size_bytes: int, trust: bool) -> Any:
    """Read the stream layout: magic, protocol, system, objects, storage keys, then the memory."""
    storages: dict[str, Storage] = {}

    def load_storage(dtype: torch.dtype, key: str, elements: int) -> Storage:
        if elements * dtype.itemsize > size_bytes:
            raise EOFError(f"a storage of {elements} numbers in a file of {size_bytes} bytes")
        return storages.setdefault(key, Storage(torch.zeros(elements, dtype=dtype)))

    def load() -> Any:
        return _Reader(file, load_storage, trust=trust).load()

    if load() != LEGACY_MAGIC or load() != LEGACY_PROTOCOL:
        raise pickle.UnpicklingError("not a file of torch.save")
    load()  # the writing machine's byte order and integer sizes: torch itself does not use them
    content = load()
    for key in load():
        flat = storages[str(key)].flat
        (elements,) = struct.unpack("<q", file.read(8))
        flat.copy_(_flat(file.read(flat.numel() * flat.itemsize), flat.dtype, elements).flat)
    return content


def read_checkpoint(path: Path, *, trust: bool = False) -> Any:
    """Read what `torch.save` wrote as plain values, tensors and stand-ins.

    Args:
        path: A `.pt` file, zip or legacy layout.
        trust: Let names outside the model namespaces be imported and called, as `torch.load` does.

    Returns:
        The saved object; tensors on the CPU in their stored type.

    Raises:
        InputError: If the file cannot be read, is truncated, is no checkpoint, or names anything
            but models and tensors.
    """
    try:
        with path.open("rb") as file:
            start = file.read(2)
            file.seek(0)
            if start == b"PK":
                return _read_zip(file, trust)
            return _read_legacy(file, path.stat().st_size, trust)
    except OSError as error:
        raise InputError(
            f"The weights {path} cannot be read: {error.strerror or error}.",
            "Check the path given with --weights.",
        ) from error
    except _RefusedError as error:
        raise InputError(
            f"The checkpoint {path} was refused and nothing in it was run: it holds more than"
            f" models and tensors, namely {error}.",
            "Get the weights from a source you trust, or pass --trust-checkpoint if you are sure"
            " that this file may run code.",
        ) from error
    except Exception as error:  # a damaged or hostile stream can make any opcode fail in any way
        raise InputError(
            f"The file {path} is not a readable YOLOv5 checkpoint: expected what torch.save"
            f" writes, got a file that is truncated, damaged or of another kind"
            f" ({type(error).__name__}: {error}).",
            "Copy or download it again, and check that it is a .pt file of ultralytics or yolov5.",
        ) from error
