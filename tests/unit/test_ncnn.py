"""ncnn files: bit for bit the published numbers under the published names; damaged ones refused in one line."""

import random
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from realesr_cli.errors import CorruptWeights, ModelNotFound
from realesr_cli.models.ncnn import find_pair, parse_ncnn, read_ncnn

Finder = Callable[[str], Path]
HALF, FULL = 0x01306B47, 0

COMPACT = """7767517
5 5
Input in 0 1 data
Convolution a 1 1 data b 0=2 1=3 4=1 5=1 6=54
PReLU p 1 1 b c 0=2
Convolution d 1 1 c e 0=12 1=3 4=1 5=1 6=216
PixelShuffle s 1 1 e output 0=2
"""


def compact_numbers(flag: int = FULL) -> bytes:
    code = "e" if flag == HALF else "f"
    parts = [struct.pack(f"<I54{code}", flag, *range(54)), struct.pack("<4f", 1, 2, 3, 4)]
    return b"".join([*parts, struct.pack(f"<I216{code}", flag, *range(216)), struct.pack("<12f", *range(12))])


def rrdb_files(features: int, growth: int, blocks: int, stages: int) -> tuple[str, bytes, int]:
    """(param, bin, number of convolutions) of an RRDBNet whose k-th convolution has all weights k, as float32."""
    shapes = [(features, 3)]
    shapes += [(growth if c < 4 else features, features + c * growth) for _ in range(3 * blocks) for c in range(5)]
    shapes += [(features, features)] * (2 + stages) + [(3, features)]
    lines = [f"Convolution c{k} 1 1 x y 0={o} 1=3 4=1 5=1 6={o * i * 9}" for k, (o, i) in enumerate(shapes)]
    lines += ["Interp up 1 1 x y 0=1 1=2.000000e+00 2=2.000000e+00"] * stages
    data = b"".join(
        struct.pack("<I", FULL) + np.full(o * i * 9, k, "<f4").tobytes() + np.full(o, -k, "<f4").tobytes()
        for k, (o, i) in enumerate(shapes)
    )
    return f"7767517\n{len(lines)} 9\n" + "\n".join(lines) + "\n", data, len(shapes)


def truncated_half(values: torch.Tensor) -> np.ndarray:
    """float32 -> float16 as the official converter did: the mantissa cut off, small magnitudes to signed zero."""
    bits = values.numpy().view(np.uint32)
    exponent = ((bits >> 23) & 0xFF).astype(np.int64) - 127 + 15
    half = ((bits >> 16) & 0x8000) | (np.maximum(exponent, 0) << 10).astype(np.uint32) | ((bits >> 13) & 0x3FF)
    return np.where(exponent <= 0, (bits >> 16) & 0x8000, half).astype(np.uint16)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_animevideov3_equals_the_official_checkpoint_cut_to_half_precision(weights_file: Finder, scale: int) -> None:
    official = torch.load(weights_file("realesr-animevideov3.pth"), map_location="cpu", weights_only=True)["params"]
    read = read_ncnn(weights_file(f"ncnn/realesr-animevideov3-x{scale}.param"))
    assert list(read) == list(official)
    for key, expected in official.items():
        if expected.ndim == 4:
            assert read[key].dtype == np.float16
            assert np.array_equal(read[key].view(np.uint16), truncated_half(expected)), key
        else:
            assert read[key].dtype == np.float32
            assert np.array_equal(read[key], expected.numpy()), key


@pytest.mark.parametrize("name", ["realesr-general-x4v3", "realesr-general-wdn-x4v3"])
def test_the_general_networks_equal_their_lossless_copies(weights_file: Finder, name: str) -> None:
    copy = load_file(weights_file(f"{name}.fp16.safetensors"))
    read = read_ncnn(weights_file(f"ncnn/{name}.bin"))
    assert read.keys() == copy.keys()
    assert all(np.array_equal(read[key].astype(np.float16), copy[key]) for key in copy)


def test_the_anime_network_has_the_keys_and_shapes_of_basicsr(weights_file: Finder) -> None:
    read = read_ncnn(weights_file("ncnn/realesrgan-x4plus-anime.param"))
    assert len(read) == 192
    assert sum(array.size for array in read.values()) == 4_467_779
    assert read["conv_first.weight"].shape == (64, 3, 3, 3)
    assert read["body.5.rdb3.conv4.weight"].shape == (32, 160, 3, 3)
    assert read["conv_last.bias"].shape == (3,)


@pytest.mark.parametrize("flag", [HALF, FULL])
def test_both_storage_forms_are_read(flag: int) -> None:
    read = parse_ncnn(COMPACT, compact_numbers(flag), "x")
    assert list(read) == ["body.0.weight", "body.0.bias", "body.1.weight", "body.2.weight", "body.2.bias"]
    assert read["body.0.weight"].dtype == (np.float16 if flag == HALF else np.float32)
    assert np.array_equal(read["body.2.weight"].ravel(), np.arange(216))
    assert np.array_equal(read["body.1.weight"], [3, 4])
    assert all(array.flags.writeable for array in read.values())


def test_line_ends_of_windows_are_accepted() -> None:
    assert parse_ncnn(COMPACT.replace("\n", "\r\n"), compact_numbers(), "x")


@pytest.mark.parametrize("activation", ["9=1", "9=2 -23310=1,1.000000e-01"])
def test_an_activation_fused_into_its_convolution_counts_in_the_names(activation: str) -> None:
    text = COMPACT.replace("PReLU p 1 1 b c 0=2\n", "").replace("5 5", "4 5").replace("6=54", f"6=54 {activation}")
    numbers = compact_numbers()
    read = parse_ncnn(text, numbers[: 4 + 216 + 8] + numbers[4 + 216 + 16 :], "x")
    assert list(read) == ["body.0.weight", "body.0.bias", "body.2.weight", "body.2.bias"]


@pytest.mark.parametrize(("blocks", "stages"), [(1, 2), (2, 1), (3, 2)])
def test_rrdb_convolutions_are_named_in_network_order(blocks: int, stages: int) -> None:
    param, data, count = rrdb_files(4, 2, blocks, stages)
    read = parse_ncnn(param, data, "x")
    assert len(read) == 2 * count
    assert [int(array.flat[0]) for key, array in read.items() if key.endswith("weight")] == list(range(count))
    assert read["body.0.rdb2.conv3.weight"].flat[0] == 8
    assert list(read)[-2:] == ["conv_last.weight", "conv_last.bias"]
    assert ("conv_up2.weight" in read) == (stages == 2)


def test_half_precision_weights_are_padded_to_four_bytes() -> None:
    text = "7767517\n2 2\nConvolution a 1 1 data b 0=1 1=1 4=0 5=1 6=3\nPixelShuffle s 1 1 b output 0=1\n"
    read = parse_ncnn(text, struct.pack("<I3exxf", HALF, 1, 2, 3, 9), "x")
    assert read["body.0.bias"].tolist() == [9]


BROKEN = {
    "no magic": (COMPACT.replace("7767517", "7767518"), compact_numbers()),
    "empty": ("", b""),
    "only the magic": ("7767517", b""),
    "a layer missing": (COMPACT.replace("PReLU p 1 1 b c 0=2\n", ""), compact_numbers()),
    "an unknown layer": (COMPACT.replace("PReLU", "LSTM"), compact_numbers()),
    "a line cut off": (COMPACT[: COMPACT.rindex("s 1 1")], compact_numbers()),
    "no number": (COMPACT.replace("0=2", "0=two"), compact_numbers()),
    "a negative count": (COMPACT.replace("p 1 1 b c 0=2", "p 1 1 b c 0=-2"), compact_numbers()),
    "a dilated convolution": (COMPACT.replace("0=12", "0=12 2=2"), compact_numbers()),
    "no such kernel": (COMPACT.replace("6=216", "6=217"), compact_numbers()),
    "a byte too many": (COMPACT, compact_numbers() + b"\0"),
    "int8 weights": (COMPACT, b"\xd4\x4b\x0d\0" + compact_numbers()[4:]),
    "a discriminator": (COMPACT.replace("PixelShuffle", "Split"), compact_numbers()),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_no_such_network_is_refused_in_one_line(case: str) -> None:
    with pytest.raises(CorruptWeights, match=r"^some\.param is not a usable ncnn network") as caught:
        parse_ncnn(*BROKEN[case], "some.param")
    assert "\n" not in caught.value.message
    assert caught.value.hint


def test_a_bin_cut_anywhere_is_refused() -> None:
    numbers = compact_numbers(HALF)
    for length in range(len(numbers)):
        with pytest.raises(CorruptWeights):
            parse_ncnn(COMPACT, numbers[:length], "x")


def test_a_param_with_any_byte_changed_is_read_or_refused_but_never_crashes() -> None:
    chance = random.Random(1)
    for _ in range(500):
        text = list(COMPACT)
        text[chance.randrange(len(text))] = chr(chance.randrange(1, 127))
        try:
            parse_ncnn("".join(text), compact_numbers(), "x")
        except CorruptWeights:
            continue


def test_the_partner_is_found_from_either_file(tmp_path: Path) -> None:
    for name in ("a.param", "a.bin", "v3-x2.param", "v3-x4.param", "v3.bin"):
        (tmp_path / name).touch()
    assert find_pair(tmp_path / "a.param") == (tmp_path / "a.param", tmp_path / "a.bin")
    assert find_pair(tmp_path / "a.bin") == (tmp_path / "a.param", tmp_path / "a.bin")
    assert find_pair(tmp_path / "v3-x2.param") == (tmp_path / "v3-x2.param", tmp_path / "v3.bin")
    assert find_pair(tmp_path / "v3.bin") == (tmp_path / "v3-x4.param", tmp_path / "v3.bin")


def test_a_missing_partner_is_named(weights_file: Finder, tmp_path: Path) -> None:
    shutil.copy(weights_file("ncnn/realesr-general-x4v3.param"), tmp_path / "alone.param")
    with pytest.raises(ModelNotFound, match=r"alone\.bin does not exist"):
        read_ncnn(tmp_path / "alone.param")


def test_a_param_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.param").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "a.bin").write_bytes(b"")
    with pytest.raises(CorruptWeights, match="not the text"):
        read_ncnn(tmp_path / "a.param")
