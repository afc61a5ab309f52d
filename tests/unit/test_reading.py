"""Weights files in every container and spelling; everything else refused in one line, and never run."""

import io
import json
import os
import pickle
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from realesr_cli.errors import CorruptWeights, ModelNotFound, UsageError
from realesr_cli.models import reading
from realesr_cli.models.reading import RawWeights, blend, read_weights, safetensors_bytes

Finder = Callable[[str], Path]
TENSORS = {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.tensor([1, 2])}


def raw(tensors: dict[str, torch.Tensor], name: str = "x") -> RawWeights:
    return RawWeights(tensors=tensors, format="torch", metadata={}, sha256=name, path=Path(name))


def saved(path: Path, content: object, **options: Any) -> Path:
    torch.save(content, path, **options)
    return path


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) and a[key].dtype == b[key].dtype for key in a)


# --- the golden checkpoints


@pytest.mark.parametrize(
    "name", ["module_prefix.pth", "ordered_dict.pth", "params_only.pth", "state_dict_key.pth", "weights.safetensors"]
)
def test_every_container_of_network_a_gives_the_same_tensors(golden: Finder, name: str) -> None:
    expected = torch.load(golden("checkpoints/params_only.pth"), weights_only=True)["params"]
    assert same(read_weights(golden(f"checkpoints/{name}")).tensors, expected)


@pytest.mark.parametrize(
    ("name", "key"),
    [("bare_trunk.pth", "RRDB_trunk.0.RDB1.conv1.weight"), ("bare_sequential_legacy_zip.pth", "model.10.bias")],
)
def test_older_spellings_are_left_to_the_architectures(golden: Finder, name: str, key: str) -> None:
    assert key in read_weights(golden(f"checkpoints/{name}")).tensors


def test_the_running_mean_wins(golden: Finder) -> None:
    path = golden("checkpoints/ema_and_params.pth")
    assert same(read_weights(path).tensors, torch.load(path, weights_only=True)["params_ema"])


def test_half_precision_stays_as_stored(golden: Finder) -> None:
    dtypes = {tensor.dtype for tensor in read_weights(golden("checkpoints/params_half.pth")).tensors.values()}
    assert dtypes == {torch.float16}


@pytest.mark.parametrize(("name", "inputs"), [("x2_ema.pth", 12), ("x1_params.pth", 48)])
def test_pixel_unshuffle_networks_are_read(golden: Finder, name: str, inputs: int) -> None:
    assert read_weights(golden(f"checkpoints/{name}")).tensors["conv_first.weight"].shape[1] == inputs


def test_tensors_of_no_known_network_are_read_all_the_same(golden: Finder) -> None:
    assert list(read_weights(golden("checkpoints/not_a_network.pth")).tensors) == ["foo.weight"]


def test_a_pickle_that_would_run_code_is_refused_and_runs_nothing(
    golden: Finder, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(CorruptWeights, match="would run code") as caught:
        read_weights(golden("checkpoints/unsafe_pickle.pth"))
    assert "\n" not in caught.value.message
    assert capfd.readouterr() == ("", "")


# --- further forms


class _Evil:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_hostile_pickle_leaves_no_trace(tmp_path: Path, legacy: bool) -> None:
    path = saved(
        tmp_path / "evil.pth", {"params": _Evil(tmp_path / "owned")}, _use_new_zipfile_serialization=not legacy
    )
    with pytest.raises(CorruptWeights, match="would run code"):
        read_weights(path)
    plain = tmp_path / "plain.pth"
    plain.write_bytes(pickle.dumps(_Evil(tmp_path / "owned")))
    with pytest.raises(CorruptWeights):
        read_weights(plain)
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("key", reading._CONTAINERS)
def test_each_container_is_opened_and_nested_ones_too(tmp_path: Path, key: str) -> None:
    prefixed = {f"module.{name}": tensor for name, tensor in TENSORS.items()}
    path = saved(tmp_path / "x.pth", {key: prefixed | {"note": "text"}, "step": 5, "loss": torch.zeros(())})
    assert same(read_weights(path).tensors, TENSORS)
    path = saved(tmp_path / "y.pth", {"state_dict": {key: TENSORS}})
    assert same(read_weights(path).tensors, TENSORS)


def test_parameters_come_back_as_plain_tensors(tmp_path: Path) -> None:
    path = saved(tmp_path / "x.pth", {"w": torch.nn.Parameter(torch.ones(2))})
    assert not read_weights(path).tensors["w"].requires_grad


def test_a_prefix_on_some_keys_only_is_part_of_the_names(tmp_path: Path) -> None:
    path = saved(tmp_path / "x.pth", {"module.a": torch.ones(1), "b": torch.ones(1)})
    assert set(read_weights(path).tensors) == {"module.a", "b"}


def test_a_dict_that_contains_itself_ends(tmp_path: Path) -> None:
    content: dict[str, Any] = {}
    content["model"] = content
    with pytest.raises(CorruptWeights, match="no tensors"):
        read_weights(saved(tmp_path / "x.pth", content))


def test_content_decides_not_the_suffix(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "x.pth", {"author": "me"})
    found = read_weights(tmp_path / "x.pth")
    assert (found.format, found.metadata) == ("safetensors", {"author": "me"})
    assert same(found.tensors, TENSORS)
    assert read_weights(saved(tmp_path / "y.safetensors", TENSORS)).format == "torch"
    assert read_weights(saved(tmp_path / "z.bin", TENSORS)).format == "torch"


@pytest.mark.parametrize("name", ["ncnn/realesr-general-x4v3.bin", "ncnn/realesr-animevideov3-x2.param"])
def test_ncnn_pairs_are_read_from_either_file(weights_file: Finder, name: str) -> None:
    found = read_weights(weights_file(name))
    assert found.format == "ncnn"
    assert found.tensors["body.0.weight"].shape == (64, 3, 3, 3)
    hashes = {
        "ncnn/realesr-general-x4v3.bin": "85ee266b632a765a725425ba6a5620c088c8aa2939a03063b2d83b3462724cc1",
        "ncnn/realesr-animevideov3-x2.param": "548a36f9c3f4ab8da56cd3b13badf23968bee207b396dad14d04b830e5f2ab2d",
    }
    assert found.sha256 == hashes[name]


def test_the_official_checkpoint_is_read_on_a_machine_without_cuda(weights_file: Finder) -> None:
    found = read_weights(weights_file("realesr-animevideov3.pth"))
    assert len(found.tensors) == 53
    assert found.sha256 == "b8a8376811077954d82ca3fcf476f1ac3da3e8a68a4f4d71363008000a18b75d"


# --- what is no weights file


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (b"", "it is empty"),
        (b"hello, this is not a network\n", "text file"),
        (b"\n <!DOCTYPE html><html><body>Not Found</body></html>", "web page"),
        (b"<html>blocked</html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "Git LFS pointer"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "no known kind"),
        (b"7767517\n", r"\.bin does not exist"),
        (b"\x80", "damaged or cut off"),
        (b"PK\x03\x04", "damaged or cut off"),
        (b"\x10\0\0\0\0\0\0\0{" + b"x" * 40, "damaged or cut off"),
        (pickle.dumps([1, 2, 3]), "damaged|list"),
    ],
)
def test_other_files_are_named_for_what_they_are(tmp_path: Path, content: bytes, cause: str) -> None:
    path = tmp_path / "x.pth"
    path.write_bytes(content)
    with pytest.raises((CorruptWeights, ModelNotFound), match=cause) as caught:
        read_weights(path)
    assert "x." in caught.value.message
    assert "\n" not in caught.value.message
    assert caught.value.hint


def test_a_web_page_says_how_to_fetch_again(tmp_path: Path) -> None:
    (tmp_path / "x.pth").write_bytes(b"<!doctype html>")
    with pytest.raises(CorruptWeights) as caught:
        read_weights(tmp_path / "x.pth")
    assert "realesr models download" in (caught.value.hint or "")


def test_another_zip_archive_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.pth", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(CorruptWeights, match="damaged"):
        read_weights(tmp_path / "x.pth")


def test_missing_files_and_folders_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="does not exist"):
        read_weights(tmp_path / "none.pth")
    with pytest.raises(CorruptWeights, match="is a folder"):
        read_weights(tmp_path)


@pytest.mark.parametrize("content", [[1, 2], 5, torch.ones(2), {"epoch": 3}, {}, {"params": {}}, {5: torch.ones(1)}])
def test_a_file_without_named_tensors_is_refused(tmp_path: Path, content: object) -> None:
    with pytest.raises(CorruptWeights, match="holds no network"):
        read_weights(saved(tmp_path / "x.pth", content))


def test_a_torchscript_archive_is_refused_without_a_warning(tmp_path: Path) -> None:
    path = saved(tmp_path / "x.pth", TENSORS)
    with zipfile.ZipFile(path, "a") as archive:
        name = archive.namelist()[0].partition("/")[0]
        archive.writestr(f"{name}/constants.pkl", b"\x80\x02).")
    with pytest.raises(CorruptWeights):
        read_weights(path)


@pytest.mark.parametrize("form", ["zip", "legacy", "safetensors"])
def test_cut_and_damaged_files_give_one_line(tmp_path: Path, form: str) -> None:
    buffer = io.BytesIO()
    torch.save({"params": TENSORS}, buffer, _use_new_zipfile_serialization=form == "zip")
    whole = safetensors_bytes(TENSORS, {"a": "b"}) if form == "safetensors" else buffer.getvalue()
    chance = random.Random(2)
    path = tmp_path / "x.pth"
    variants = [whole[:length] for length in range(0, len(whole), max(1, len(whole) // 120))]
    for _ in range(300):
        changed = bytearray(whole)
        changed[chance.randrange(len(changed))] = chance.randrange(256)
        variants.append(bytes(changed))
    refused = 0
    for variant in variants:
        path.write_bytes(variant)
        try:
            read_weights(path)  # a changed number inside a tensor cannot be noticed here
        except (CorruptWeights, ModelNotFound) as error:
            refused += 1
            assert "\n" not in error.message
    assert refused >= 100


# --- blending and writing


def test_a_blend_is_the_weighted_sum_in_float32() -> None:
    a, b = torch.tensor([1.0, 3.0]).half(), torch.tensor([3.0, 7.0])
    mixed = blend(raw({"w": a, "n": torch.tensor(5)}), raw({"w": b, "n": torch.tensor(6)}), 0.25)
    assert mixed.tensors["w"].dtype == torch.float32
    assert mixed.tensors["w"].tolist() == [2.5, 6.0]
    assert mixed.tensors["n"] == 5


def test_the_hash_of_a_blend_tells_recipes_apart() -> None:
    a, b = raw(TENSORS, "a"), raw(TENSORS, "b")
    assert blend(a, b, 0.5).sha256 == blend(a, b, 0.5).sha256
    assert len({blend(a, b, 0.5).sha256, blend(a, b, 0.4).sha256, blend(b, a, 0.4).sha256}) == 3


@pytest.mark.parametrize(
    "other", [{"v": torch.ones(2)}, {"w": torch.ones(3)}, {"w": torch.ones(2), "x": torch.ones(1)}]
)
def test_different_networks_cannot_be_blended(other: dict[str, torch.Tensor]) -> None:
    with pytest.raises(UsageError, match="different networks"):
        blend(raw({"w": torch.ones(2)}), raw(other), 0.5)


def test_the_same_tensors_give_the_same_file(tmp_path: Path) -> None:
    texts = {str(number): "x" for number in range(20)}
    first = safetensors_bytes(TENSORS, texts)
    assert first == safetensors_bytes(dict(reversed(TENSORS.items())), dict(reversed(texts.items())))
    header = json.loads(first[8 : 8 + int.from_bytes(first[:8], "little")])
    assert list(header) == sorted(header)
    (tmp_path / "x.safetensors").write_bytes(first)
    found = read_weights(tmp_path / "x.safetensors")
    assert same(found.tensors, TENSORS)
    assert found.metadata == texts
