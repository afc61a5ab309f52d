"""Damaged and hostile files of four kinds: weights as safetensors, torch's `.pth` and ncnn pairs, and configurations.

Each function makes one, by chance alone; `canary` is the path of a file that hostile ones try to make. For every kind
there are changes of bytes, which damage, and changes of what the format says, which lie.
"""

import io
import json
import pickle
import random
import struct
import zipfile
from collections.abc import Iterable
from functools import cache
from typing import Any

import torch

from networks import compact, rrdb
from realesr_cli.models.graph import graph_of
from realesr_cli.models.ncnn_writer import ncnn_files
from realesr_cli.models.reading import safetensors_bytes
from realesr_cli.models.srcnn import SRCNN
from realesr_train.recipes import list_recipes

_BOMB_BYTES = 2**29
_HUGE = (-1, 0, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**62, 2**63 - 1, 2**64, -(2**63))

Files = dict[str, bytes]
"""Content by suffix: one file, or the two of an ncnn network."""


# --- changes that any file can suffer


def damaged(data: bytes, others: list[bytes], chance: random.Random) -> bytes:
    """Flipped bits, a cut, a chunk that is doubled, missing, moved or of another file, and lying lengths."""
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 1, 2, 5))):
        place = (
            chance.randrange(len(changed) + 1)
            if chance.random() < 0.5
            else chance.randrange(min(len(changed) + 1, 300))
        )
        end = place + chance.randrange(1, 200)
        match chance.randrange(8):
            case 0 | 1:
                for _ in range(chance.randrange(1, 12)):
                    if changed:
                        changed[min(place + chance.randrange(20), len(changed) - 1)] ^= 1 << chance.randrange(8)
            case 2:
                del changed[place:]
            case 3:
                changed[place:place] = changed[place:end] * chance.randrange(1, 4)
            case 4:
                del changed[place:end]
            case 5:
                other = chance.choice(others)
                start = chance.randrange(len(other))
                changed[place:end] = other[start : start + chance.randrange(1, 400)]
            case 6:
                changed[place : place + 8] = struct.pack("<Q", chance.choice(_HUGE) % 2**64)
            case 7:
                changed[place : place + 4] = chance.randbytes(4)
    return bytes(changed)


def _networks() -> list[torch.nn.Module]:
    return [
        compact(depth=1).network,
        rrdb().network,
        SRCNN(channels=3, widths=(4, 3), kernels=(3, 1, 3), scale=2),
    ]


@cache
def _states() -> list[dict[str, torch.Tensor]]:
    return [{key: value.contiguous() for key, value in one.state_dict().items()} for one in _networks()]


# --- safetensors


@cache
def _safetensors() -> list[bytes]:
    return [safetensors_bytes(state, {"name": "a", "scale": "2", "activation": "relu"}) for state in _states()]


def safetensors(chance: random.Random, canary: str) -> Files:
    data = chance.choice(_safetensors())
    if chance.random() < 0.4:
        return {".safetensors": damaged(data, _safetensors(), chance)}
    length = int.from_bytes(data[:8], "little")
    header: dict[str, Any] = json.loads(data[8 : 8 + length])
    odd: dict[str, Any] = {}
    for _ in range(chance.randrange(1, 4)):
        _change_header(header, odd, chance)
    text = json.dumps(header | odd)
    if chance.random() < 0.1:
        text = text[:-1] + ", " + text[1:]  # every key twice
    if chance.random() < 0.05:
        depth = chance.choice((100, 10_000, 200_000))
        text = text[:-1] + ', "deep": ' + chance.choice("[{") * depth + "]" * depth + "}"
    raw = text.encode()
    told = len(raw) if chance.random() < 0.9 else chance.choice(_HUGE) % 2**64
    return {".safetensors": told.to_bytes(8, "little") + raw + data[8 + length :]}


def _change_header(header: dict[str, Any], odd: dict[str, Any], chance: random.Random) -> None:
    """One change of a header of tensors; `odd` takes what is none."""
    key = chance.choice(list(header))
    entry = header[key]
    match chance.randrange(8):
        case 0:
            entry["dtype"] = chance.choice(("F64", "F16", "BF16", "I8", "BOOL", "F8_E4M3", "F4", "C64", "", "X", 5))
        case 1:
            entry["shape"] = [chance.choice((*_HUGE, 1, 3, 1.5, "3", None)) for _ in range(chance.randrange(7))]
        case 2:
            entry["data_offsets"] = [chance.choice((*_HUGE, 4)) for _ in range(chance.randrange(4))]
        case 3:
            header[chance.choice(("", "../x", "body.99999999.weight", "a\nb", "\x1b[2J", "ü" * 3000))] = entry
        case 4 if len(header) > 1:
            del header[key]
        case 5:
            value = chance.choice(("1e9", "-1", "0", "nan", "9" * 5000, "\n\x1b]0;x\x07", "../../x", 5, None, {}, []))
            odd["__metadata__"] = {chance.choice(("name", "scale", "activation", "output_range", "x")): value}
        case 6:
            odd[key] = chance.choice((None, 5, "x", [], {}, [entry]))
        case 7:  # a tensor that is a part of others
            entry["data_offsets"] = header[chance.choice(list(header))].get("data_offsets", [0, 4])


# --- pickles in both of torch's containers

_CALLS = """
    os.system posix.system nt.system os.mkdir builtins.eval builtins.exec builtins.__import__ builtins.getattr
    builtins.open subprocess.Popen subprocess.check_output io.open pathlib.Path socket.create_connection webbrowser.open
    torch.load torch.hub.load torch.storage._load_from_bytes runpy.run_path torch._utils._rebuild_tensor_v2
    torch._utils._rebuild_parameter torch.Size torch.Tensor torch.FloatStorage torch.nn.modules.conv.Conv2d
    collections.OrderedDict collections.defaultdict _codecs.encode functools.partial copyreg._reconstructor
    numpy.core.multiarray._reconstruct numpy.zeros
""".split()  # noqa: SIM905


def _program(chance: random.Random, canary: str) -> bytes:
    """Opcodes that call something, in one of the ways that pickles have, or that have no end."""
    module, _, name = chance.choice(_CALLS).rpartition(".")
    called = f"{module}\n{name}".encode()
    path = pickle.dumps(chance.choice((canary, f"touch {canary}", f"open({canary!r}, 'w')", ["touch", canary])), 2)[
        2:-1
    ]
    huge = b"\x8a\x08" + struct.pack("<q", chance.choice((2**31, 2**40, 2**62)))
    match chance.randrange(9):
        case 0:
            body = b"c" + called + b"\n" + path + b"\x85R"
        case 1:
            body = b"(" + path + b"i" + called + b"\n"
        case 2:
            body = b"(c" + called + b"\n" + path + b"o"
        case 3:  # by names on the stack
            names = b"".join(b"\x8c" + bytes([len(one)]) + one.encode() for one in (module, name))
            body = names + b"\x93" + path + b"\x85R"
        case 4:  # the state of an object
            body = b"c" + called + b"\n)\x81}" + path + path + b"sb"
        case 5:
            depth = chance.choice((10, 1000, 100_000))
            body = chance.choice((b"]" * depth + b"a" * (depth - 1), b"(" * depth + b"t" * depth, b"}" * depth))
        case 6:  # each list holds the one before twice
            body = b"]q\0" + b"".join(
                b"]q" + bytes([i + 1]) + b"h" + bytes([i]) + b"ah" + bytes([i]) + b"a" for i in range(200)
            )
        case 7:
            body = chance.choice((b"\x8d", b"\x8e", b"\x95")) + struct.pack("<Q", 2**62) + b"abc"
        case _:
            body = b"c" + called + b"\n(" + huge * chance.randrange(1, 6) + b"tR"
    wrapped = b"}X\x06\0\0\0params}X\x01\0\0\0a" + body + b"ss" if chance.random() < 0.5 else body
    return b"\x80\x02" + wrapped + b"."


@cache
def _pths() -> list[bytes]:
    """The networks in both containers, with and without wrapping, and tensors that are larger than their files."""
    contents: list[Any] = [*_states(), {"params_ema": _states()[0], "step": 5}, {"state_dict": _states()[1]}]
    wide = torch.zeros(1)
    contents.append({"a": wide.expand(2**20, 2**20)})
    contents.append(_states()[0] | {"body.0.weight": torch.zeros(1).expand(2**13, 3, 64, 64)})
    shapes = {"body.0.weight": (4096, 3, 3, 3), "body.0.bias": (4096,), "body.1.weight": (4096,),
              "body.2.weight": (4096, 4096, 3, 3), "body.2.bias": (4096,), "body.3.weight": (4096,),
              "body.4.weight": (48, 4096, 3, 3), "body.4.bias": (48,)}  # fmt: skip
    contents.append({key: torch.zeros(1).expand(shape) for key, shape in shapes.items()})
    contents.append({key: torch.zeros(1).half().expand(value.shape) for key, value in _states()[1].items()})
    contents.append({"conv1.weight": torch.zeros(1, dtype=torch.half).expand(2**15, 2**15)})
    found = []
    for content in contents:
        for with_zip in (True, False):
            buffer = io.BytesIO()
            torch.save(content, buffer, _use_new_zipfile_serialization=with_zip)
            found.append(buffer.getvalue())
    return found


@cache
def _bomb(kind: int) -> bytes:
    """A network's archive, of which one member unpacks to half a gigabyte."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in _members(_pths()[0]).items():
            if name.endswith(("data/0", "data.pkl", "version")[kind]):
                with archive.open(name, "w", force_zip64=True) as file:
                    file.write(data)
                    for _ in range(_BOMB_BYTES >> 20):
                        file.write(bytes(1 << 20))
            else:
                archive.writestr(name, data)
    return buffer.getvalue()


def _members(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def _rezipped(members: Iterable[tuple[str, bytes]], chance: random.Random) -> bytes:
    buffer = io.BytesIO()
    how = zipfile.ZIP_DEFLATED if chance.random() < 0.2 else zipfile.ZIP_STORED
    with zipfile.ZipFile(buffer, "w", how) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return buffer.getvalue()


def _other_numbers(pickled: bytes, chance: random.Random) -> bytes:
    """Some of the small whole numbers (sizes, strides, offsets) replaced by large ones."""
    places = [place for place, byte in enumerate(pickled[:-2]) if byte == ord("K")]
    changed = bytearray(pickled)
    for place in sorted(chance.sample(places, min(len(places), chance.randrange(1, 5))), reverse=True):
        value = chance.choice(_HUGE)
        changed[place : place + 2] = b"\x8a\x09" + value.to_bytes(9, "little", signed=True)
    return bytes(changed)


def pth(chance: random.Random, canary: str) -> Files:
    data = chance.choice(_pths())
    if data[:2] != b"PK":
        if chance.random() < 0.3:  # a pickle alone, or one of the several of an old file
            return {".pth": _program(chance, canary) + chance.choice((b"", data))}
        changed = _other_numbers(data, chance) if chance.random() < 0.3 else damaged(data, _pths(), chance)
        return {".pth": changed}
    if chance.random() < 0.3:
        return {".pth": damaged(data, _pths(), chance)}
    if chance.random() < 0.01:
        return {".pth": _bomb(chance.randrange(3))}
    members = list(_members(data).items())
    place = next(number for number, (name, _) in enumerate(members) if name.endswith("data.pkl"))
    name, pickled = members[place]
    match chance.randrange(6):
        case 0:
            members[place] = name, _program(chance, canary)
        case 1:
            members[place] = name, damaged(pickled, _pths(), chance)
        case 2 | 3:
            members[place] = name, _other_numbers(pickled, chance)
        case 4:
            at = chance.randrange(len(members))
            strange = ("../" * 9 + canary, canary, "a\\..\\b", "x\ny", "data.pkl", "archive/data/999", "C:\\x")
            members[at] = chance.choice(strange), members[at][1]
        case 5:
            at = chance.randrange(len(members))
            members[at] = members[at][0], damaged(members[at][1] or b"x", _pths(), chance)
    return {".pth": _rezipped(members, chance)}


# --- ncnn


@cache
def _ncnn() -> list[tuple[bytes, bytes]]:
    return [(text.encode(), data) for text, data in (ncnn_files(graph_of(one)) for one in _networks()[:2])]


def ncnn(chance: random.Random, canary: str) -> Files:
    text, data = chance.choice(_ncnn())
    match chance.randrange(4):
        case 0:
            data = damaged(data, [one for _, one in _ncnn()], chance)
        case 1:
            text = damaged(text, [one for one, _ in _ncnn()], chance)
        case 2:
            words = text.split(b" ")
            for place in chance.sample(range(len(words)), chance.randrange(1, 4)):
                key, equals, _ = words[place].partition(b"=")
                number = str(chance.choice((*_HUGE, "9" * 5000, "nan", "1e9", "٣", ""))).encode()
                words[place] = key + equals + number if equals else number
            text = b" ".join(words)
        case 3:
            lines = text.split(b"\n")
            place = chance.randrange(len(lines))
            lines[place : place + 1] = [lines[place]] * chance.choice((0, 2, 3, 5000))
            lines[1] = chance.choice((lines[1], b"999999999 999999999", b"", b"\xff\xfe", str(len(lines) - 3).encode()))
            text = b"\n".join(lines)
    return {".param": text, ".bin": data}


# --- training configurations

_VALUES = (
    "1e999", "-1", "0", "nan", "-inf", "true", "[]", "[[[]]]", "{}", "{a={a={a=1}}}", "1979-05-27",
    "0x7fffffffffffffff", "18446744073709551616",
    "9" * 5000, "1" + "0" * 400, "0x" + "f" * 5000, '""', '"../../../x"', '"/etc/x"', r'"a\u0000b"', r'"\u001b[2J\n"',
    '"' + "x" * 5000 + '"', "[1, 2]", '["a"]', '["' + "y" * 300 + '"]',
)  # fmt: skip
_OWN = b"""
scale = 4
[run]
name = "a"
steps = 5
folder = "out"
[data]
folders = ["photos"]
crop_px = 64
patch_px = 32
"""


@cache
def _configs() -> list[bytes]:
    return [_OWN, b'base = "esrgan"\n' + _OWN, *(recipe.path.read_bytes() for recipe in list_recipes())]


def toml(chance: random.Random, canary: str) -> Files:
    data = chance.choice(_configs())
    match chance.randrange(5):
        case 0:
            data = damaged(data, _configs(), chance)
        case 1 | 2:
            lines = data.decode().split("\n")
            settings = [number for number, line in enumerate(lines) if "=" in line]
            for number in chance.sample(settings, min(len(settings), chance.randrange(1, 4))):
                lines[number] = lines[number].partition("=")[0] + "= " + chance.choice(_VALUES)
            data = "\n".join(lines).encode()
        case 3:
            key = chance.choice(
                ("x", "run", "scale", "stage", "base", "data.folders", '"a\\nb"', '"\\u001b"', "run.name", '""')
            )
            data += (
                f"\n{chance.choice(('', '[run]', '[[stage]]', '[stage]'))}\n{key} = {chance.choice(_VALUES)}\n".encode()
            )
        case 4:
            depth = chance.choice((50, 1000, 100_000))
            deep = ("x = " + "[" * depth + "]" * depth, "x = " + "{a=" * depth, "a." * depth + "a = 1",
                    "[" + "a." * depth + "a]", "[[stage]]\n" * min(depth, 1000), "scale = 4\n" * 3)  # fmt: skip
            data = chance.choice((data, b"")) + b"\n" + chance.choice(deep).encode()
    return {".toml": data}
