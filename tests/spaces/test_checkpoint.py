"""Hostile, damaged and honest pickles."""

from __future__ import annotations

import argparse
import contextlib
import os
import pickle
import string
import zipfile
from collections import OrderedDict, deque
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from hw_models.errors import InputError
from spaces.checkpoint import Global, StandIn, read_checkpoint

LAYOUTS = {"zip": True, "legacy": False}


class Command:
    """An object whose pickle calls a function."""

    def __init__(self, function: Callable[..., object], *arguments: str) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, ...]]:
        return self.call


def save(content: object, path: Path, layout: str) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=LAYOUTS[layout])
    return path


def save_opcodes(opcodes: bytes, path: Path, layout: str) -> Path:
    """Write a checkpoint whose object is built by hand-written opcodes (protocol 2)."""
    program = b"\x80\x02" + opcodes + b"."
    if layout == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", program)
            archive.writestr("archive/version", "3\n")
        return path
    header = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}]
    parts = [pickle.dumps(part, protocol=2) for part in header]
    path.write_bytes(b"".join([*parts, program, pickle.dumps([], protocol=2)]))
    return path


def glob(name: str) -> bytes:
    """Return the opcode that pushes a global."""
    module, _, attribute = name.rpartition(".")
    return f"c{module}\n{attribute}\n".encode()


def text(value: str) -> bytes:
    """Return the opcode that pushes a string."""
    return b"X" + len(value).to_bytes(4, "little") + value.encode()


@pytest.fixture(params=LAYOUTS)
def layout(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A file that hostile pickles try to create."""
    return tmp_path / "created-by-a-pickle"


def assert_refused(path: Path, victim: Path, named: str) -> None:
    before = set(Path.cwd().iterdir())
    with pytest.raises(InputError, match=r"refused and nothing in it was run") as caught:
        read_checkpoint(path)
    assert named in caught.value.message
    assert "--trust-checkpoint" in caught.value.hint
    assert not victim.exists()
    assert set(Path.cwd().iterdir()) == before


def test_hostile_reduce_is_refused_by_name(tmp_path: Path, victim: Path, layout: str) -> None:
    path = save({"model": Command(os.system, f"touch {victim}")}, tmp_path / "a.pt", layout)
    assert_refused(path, victim, "system")


def test_hostile_builtin_is_refused(tmp_path: Path, victim: Path, layout: str) -> None:
    path = save([1, Command(eval, f"open({str(victim)!r}, 'w')")], tmp_path / "a.pt", layout)
    assert_refused(path, victim, "eval")


def test_hostile_object_deep_inside_a_model_is_refused(
    tmp_path: Path, victim: Path, layout: str
) -> None:
    net = nn.Sequential(nn.Conv2d(1, 1, 1))
    net[0].hook = {"deep": [(Command(os.system, f"touch {victim}"),)]}
    assert_refused(save({"ema": net}, tmp_path / "a.pt", layout), victim, "system")


def test_the_same_file_runs_when_it_is_trusted(tmp_path: Path, victim: Path, layout: str) -> None:
    content = {"made": Command(os.mkdir, str(victim)), "x": torch.ones(2)}
    loaded = read_checkpoint(save(content, tmp_path / "a.pt", layout), trust=True)
    assert victim.is_dir()
    assert torch.equal(loaded["x"], torch.ones(2))


def test_trusted_files_hold_real_objects(tmp_path: Path, layout: str) -> None:
    formatter = string.Formatter()
    formatter.note = {"x": torch.ones(2)}
    content = [formatter, SimpleNamespace(a=1), Fraction(1, 3), nn.Conv2d(1, 1, 1)]
    path = save(content, tmp_path / "a.pt", layout)
    with pytest.raises(InputError, match=r"string\.Formatter"):
        read_checkpoint(path)
    made, namespace, third, conv = read_checkpoint(path, trust=True)
    assert torch.equal(made.note["x"], torch.ones(2))
    assert (type(made), namespace, third) == (
        string.Formatter,
        SimpleNamespace(a=1),
        Fraction(1, 3),
    )
    assert isinstance(conv, StandIn)  # models are rebuilt, trusted or not


@pytest.mark.parametrize(
    ("name", "opcodes"),
    [
        ("posix.system", lambda shell: b"(" + text(shell) + b"iposix\nsystem\n"),  # INST
        ("posix.system", lambda shell: b"(" + glob("posix.system") + text(shell) + b"o"),  # OBJ
        ("posix.system", lambda shell: glob("posix.system") + text(shell) + b"\x85\x81"),  # NEWOBJ
        (
            "builtins.getattr",  # an allowed module as a stepping stone
            lambda shell: glob("builtins.getattr") + glob("numpy.os") + text("system") + b"\x86R",
        ),
        (  # STACK_GLOBAL with a dotted name inside an unknown module
            "os.path.os.system",
            lambda shell: text("os.path") + text("os.system") + b"\x93" + text(shell) + b"\x85R",
        ),
        (  # a pickle inside the pickle, which torch would read without any restriction
            "torch.storage._load_from_bytes",
            lambda shell: glob("torch.storage._load_from_bytes") + text(shell) + b"\x85R",
        ),
        ("copyreg extension", lambda shell: b"\x82\x01"),  # EXT1
        (  # BUILD on a global: would set attributes of a class
            "state of Global",
            lambda shell: glob("torch._utils._rebuild_tensor_v2") + b"N}" + text("x") + b"Ns\x86b",
        ),
        (  # REDUCE on an instance instead of a function
            "a call of StandIn",
            lambda shell: glob("models.common.Conv") + b")\x81" + text(shell) + b"\x85R",
        ),
        (  # REDUCE on a string
            "a call of str",
            lambda shell: text("os.system") + text(shell) + b"\x85R",
        ),
        (  # BUILD on a plain list
            "state of list",
            lambda shell: b"]" + b"}" + text("append") + glob("models.x") + b"sb",
        ),
    ],
)
def test_hand_written_opcodes_are_refused(
    tmp_path: Path, victim: Path, layout: str, name: str, opcodes: Callable[[str], bytes]
) -> None:
    path = save_opcodes(opcodes(f"touch {victim}"), tmp_path / "a.pt", layout)
    assert_refused(path, victim, name)


def test_names_of_model_packages_become_records_that_run_nothing(
    tmp_path: Path, layout: str
) -> None:
    """`ultralytics.utils` can reach a shell; as a record it is inert, whatever the file does."""
    call = glob("ultralytics.utils.os.system") + text("exit 1") + b"\x85R"
    state = b"}" + text("__setstate__") + glob("models.x") + b"sb"
    found = read_checkpoint(save_opcodes(call + state, tmp_path / "a.pt", layout))
    assert isinstance(found, StandIn)
    assert found.origin == Global("ultralytics.utils.os", "system")
    assert found.args == ("exit 1",)
    assert list(found.state) == ["__setstate__"]


def test_tensors_come_back_exactly(tmp_path: Path, layout: str) -> None:
    base = torch.arange(24, dtype=torch.float32).view(4, 6)
    content = {
        "view": base[1:, ::2].t(),
        "half": torch.rand(3, 3).half(),
        "integers": torch.tensor([1, 2**40]),
        "flags": torch.tensor([True, False]),
        "empty": torch.empty(0, 3),
        "scalar": torch.tensor(2.5),
        "parameter": nn.Parameter(torch.rand(2, 2)),
        "state": OrderedDict(a=torch.ones(1)),
        "plain": [1, 2.5, "text", None, {"k": (1, 2)}, {3, 4}, torch.Size([1, 2])],
    }
    found = read_checkpoint(save(content, tmp_path / "a.pt", layout))
    for key, value in content.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(found[key], value)
            assert found[key].dtype == value.dtype
    assert torch.equal(found["state"]["a"], torch.ones(1))
    assert found["plain"] == [*content["plain"][:-1], (1, 2)]


def test_bookkeeping_of_training_runs_is_inert(tmp_path: Path, layout: str) -> None:
    content = {
        "opt": argparse.Namespace(imgsz=640),
        "folder": Path("runs"),
        "fitness": np.float64(0.5),
        "x": torch.ones(1),
    }
    found = read_checkpoint(save(content, tmp_path / "a.pt", layout))
    assert found["opt"].origin == Global("argparse", "Namespace")
    assert found["opt"].state == {"imgsz": 640}
    assert isinstance(found["folder"], StandIn)
    assert isinstance(found["fitness"], StandIn)


def test_containers_of_other_classes_keep_their_items(tmp_path: Path, layout: str) -> None:
    class_dict = b"cmodels.common\nRegistry\n)\x81(" + text("key") + b"K\x07u"
    found = read_checkpoint(save_opcodes(class_dict, tmp_path / "a.pt", layout))
    assert (found.origin.name, found.items) == ("Registry", [("key", 7)])
    found = read_checkpoint(save(deque([1, 2]), tmp_path / "b.pt", layout))
    assert (found.origin.name, found.items) == ("deque", [1, 2])


def test_a_module_is_a_record_of_its_tensors(tmp_path: Path, layout: str) -> None:
    net = nn.Sequential(nn.Conv2d(2, 3, 1))
    found = read_checkpoint(save(net, tmp_path / "a.pt", layout))
    assert found.origin == Global("torch.nn.modules.container", "Sequential")
    weight = found.state["_modules"]["0"].state["_parameters"]["weight"]
    assert torch.equal(weight, net[0].weight)


def test_every_truncation_is_an_input_error(tmp_path: Path, layout: str) -> None:
    whole = save({"x": torch.rand(50), "y": "text"}, tmp_path / "a.pt", layout).read_bytes()
    path = tmp_path / "cut.pt"
    for length in range(0, len(whole) - 1, 7):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match=r"not a readable YOLOv5|was refused"):
            read_checkpoint(path)


def test_damaged_bytes_never_raise_anything_else(tmp_path: Path, layout: str) -> None:
    whole = save({"x": torch.rand(8), "y": [1, "text"]}, tmp_path / "a.pt", layout).read_bytes()
    path = tmp_path / "damaged.pt"
    for position in range(0, len(whole), 5):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0xA5]) + whole[position + 1 :])
        with contextlib.suppress(InputError):
            read_checkpoint(path)


def test_a_tensor_larger_than_its_memory_is_refused(tmp_path: Path) -> None:
    """A stride of 0 would turn four bytes into a terabyte."""
    path = save({"x": torch.ones(1).expand(2**20, 2**18)}, tmp_path / "a.pt", "zip")
    with pytest.raises(InputError, match="in a storage of 1"):
        read_checkpoint(path)


@pytest.mark.parametrize("content", [b"", b"PK", b"not a pickle", b"\x80\x02N.", b"\x00" * 100])
def test_other_files_are_an_input_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.pt"
    path.write_bytes(content)
    with pytest.raises(InputError, match="is not a readable YOLOv5 checkpoint"):
        read_checkpoint(path)


def test_a_torchscript_archive_is_not_run(tmp_path: Path) -> None:
    path = tmp_path / "script.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("script/data.pkl", b"\x80\x02N.")
        archive.writestr("script/constants.pkl", b"\x80\x02N.")
    with pytest.raises(InputError, match="TorchScript"):
        read_checkpoint(path)


def test_a_missing_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot be read: No such file") as caught:
        read_checkpoint(tmp_path / "nowhere.pt")
    assert "--weights" in caught.value.hint
