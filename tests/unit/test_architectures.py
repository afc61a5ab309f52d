"""Weights files that are odd in every way that a shape can be: one line, never a traceback, hang or wrong network."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from networks import compact, rrdb
from realesr_cli import DeviceOptions, Upscaler
from realesr_cli.errors import CorruptWeights, ModelError, UnknownArchitecture, UsageError
from realesr_cli.models.architectures import LoadedModel, load_model
from realesr_cli.models.compact import SRVGGNetCompact
from realesr_cli.models.reading import blend, read_weights
from realesr_cli.models.rrdb import RRDBNet
from realesr_cli.models.srcnn import SRCNN
from realesr_cli.models.srresnet import MSRResNet, SRResNet
from recording import Events

Finder = Callable[[str], Path]


def _saved(folder: Path, tensors: dict[str, Tensor], **metadata: str) -> Path:
    path = folder / "net.safetensors"
    save_file({key: value.contiguous() for key, value in tensors.items()}, path, metadata)
    return path


@pytest.mark.parametrize(
    ("network", "metadata", "scale"),
    [
        (RRDBNet(width=12, blocks=2, growth=6), {}, 4),
        (RRDBNet(width=12, blocks=1, growth=6, unshuffle=2), {}, 2),
        (RRDBNet(width=12, blocks=1, growth=6, unshuffle=4), {}, 1),
        (RRDBNet(width=12, blocks=1, growth=6, up_steps=1), {}, 2),
        (RRDBNet(width=12, blocks=1, growth=6, up_steps=3), {}, 8),
        (RRDBNet(width=12, blocks=1, growth=6, up_steps=0), {}, 1),
        (SRVGGNetCompact(width=10, depth=0, scale=4), {}, 4),
        (SRVGGNetCompact(width=10, depth=9, scale=3), {}, 3),
        (SRVGGNetCompact(width=10, depth=2, scale=5, activation="leakyrelu"), {"activation": "leakyrelu"}, 5),
        (SRVGGNetCompact(width=10, depth=2, channels=1), {}, 4),
        (MSRResNet(width=10, blocks=2, scale=3), {}, 3),
        (SRResNet(width=10, blocks=2, up_steps=3), {"output_range": "-1..1"}, 8),
        (SRCNN(channels=3, widths=(8, 4), kernels=(5, 1, 3), scale=2), {"scale": "2"}, 2),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, torch.nn.Module) else None,
)
def test_every_variant_loads_by_its_shapes(
    network: torch.nn.Module, metadata: dict[str, str], scale: int, tmp_path: Path
) -> None:
    model = load_model(_saved(tmp_path, network.state_dict(), **metadata))
    assert model.scale == scale
    x = torch.rand(1, model.channels_in, 8, 12)
    with torch.inference_mode():
        expected = network.eval()(x)
        if "output_range" in metadata:
            expected = (expected + 1) / 2
        torch.testing.assert_close(model.network(x), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_any_float_format_become_float32(dtype: torch.dtype, tmp_path: Path) -> None:
    tensors = {key: value.to(dtype) for key, value in compact().network.state_dict().items()}
    model = load_model(_saved(tmp_path, tensors))
    assert {value.dtype for value in model.network.state_dict().values()} == {torch.float32}


def _compact(**changes: Any) -> dict[str, Tensor]:
    return dict(compact().network.state_dict()) | changes


def _rrdb(**changes: Any) -> dict[str, Tensor]:
    return dict(rrdb().network.state_dict()) | changes


_SRCNN = {f"conv{n}.{part}": torch.zeros(shape) for n, shapes in enumerate(
    (((4, 1, 9, 9), (4,)), ((2, 4, 5, 5), (2,)), ((1, 2, 5, 5), (1,))), 1
) for part, shape in zip(("weight", "bias"), shapes, strict=True)}  # fmt: skip


@pytest.mark.parametrize(
    ("tensors", "metadata"),
    [
        (_rrdb(**{"body.20000000.rdb1.conv1.weight": torch.zeros(1)}), {}),
        (_rrdb(**{"conv_up9999999.weight": torch.zeros(1)}), {}),
        (
            {k: v for k, v in _rrdb().items() if "up2" not in k} | {"conv_first.weight": torch.zeros(8, 48, 3, 3)},
            {},
        ),
        ({key: value for key, value in _rrdb().items() if "rdb2" not in key}, {}),
        ({key: value for key, value in _rrdb().items() if not key.startswith("conv_last")}, {}),
        (_rrdb(**{"conv_hr.weight": torch.zeros(8, 9, 3, 3)}), {}),
        (_compact(**{"body.90000000.weight": torch.zeros(1)}), {}),
        (_compact(**{"body.0.weight": torch.zeros(8, 0, 3, 3)}), {}),
        (_compact(**{"body.8.weight": torch.zeros(0, 8, 3, 3), "body.8.bias": torch.zeros(0)}), {}),
        (_SRCNN, {"scale": "0"}),
        (_SRCNN, {"scale": "-2"}),
        (_SRCNN, {"scale": "many"}),
        ({"model.0.weight": torch.zeros(4, 3, 3, 3), "model.1.sub.0.res.0.weight": torch.zeros(4, 4, 3, 3)}, {}),
        ({"body.0.weight": torch.zeros(4, 3, 3, 3, dtype=torch.complex64)}, {}),
    ],
)
def test_odd_files_get_one_line(tensors: dict[str, Tensor], metadata: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / "net.pth" if any(value.is_complex() for value in tensors.values()) else None
    if path is not None:
        torch.save(tensors, path)
    with pytest.raises(ModelError) as caught:
        load_model(path or _saved(tmp_path, tensors, **metadata))
    assert "net." in caught.value.message
    assert "\n" not in caught.value.message


def test_an_unknown_activation_is_refused(tmp_path: Path) -> None:
    tensors = SRVGGNetCompact(width=8, depth=1, activation="relu").state_dict()
    with pytest.raises(CorruptWeights, match="gelu"):
        load_model(_saved(tmp_path, tensors, activation="gelu"))


def test_what_shapes_cannot_tell_is_assumed_with_a_warning(tmp_path: Path, events: Events) -> None:
    tensors = SRVGGNetCompact(width=8, depth=1, activation="relu").state_dict()
    load_model(_saved(tmp_path, tensors), reporter=events)
    assert [warning["code"] for warning in events.of("warning")] == ["assumed"]


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"conv0.weight_orig": torch.zeros(2), "conv0.weight_u": torch.zeros(2)}, "discriminator"),
        ({"stylegan_decoder.noises.noise0": torch.zeros(2)}, "face restorer"),
        ({"something.else": torch.zeros(2)}, "community"),
    ],
)
def test_other_networks_are_named(
    tensors: dict[str, Tensor], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "spandrel", None)
    with pytest.raises(UnknownArchitecture) as caught:
        load_model(_saved(tmp_path, tensors))
    assert words in (caught.value.hint or "")
    assert next(iter(tensors)) in caught.value.message


def test_a_blend_keeps_what_the_metadata_says(tmp_path: Path) -> None:
    paths = []
    for index, output_range in enumerate(("-1..1", "-1..1", "0..1")):
        folder = tmp_path / str(index)
        folder.mkdir()
        paths.append(_saved(folder, SRResNet(width=8, blocks=1).state_dict(), output_range=output_range))
    first, second, other = map(read_weights, paths)
    assert blend(first, second, 0.5).metadata["output_range"] == "-1..1"
    with pytest.raises(UsageError, match="output_range"):
        blend(first, other, 0.5)


def test_denoise_strength_blends_general_with_its_twin(stocked_cache: Path, golden: Finder) -> None:
    from realesr_cli import read_image

    model = load_model("realesr-general-x4v3", strength=0.5, offline=True)
    result = Upscaler(model, device=DeviceOptions(device="cpu", precision="fp32"))(
        read_image(golden("official/photo.png")).pixels
    )
    expected = read_image(golden("official/photo__general-dn0.5.png")).pixels
    assert np.abs(result.astype(int) - expected).max() <= 1
    for strength in (-0.1, 1.5):
        with pytest.raises(UsageError, match="between 0 and 1"):
            load_model("realesr-general-x4v3", strength=strength, offline=True)
    with pytest.raises(UsageError, match="no companion"):
        load_model("realesr-animevideov3", strength=0.5, offline=True)


def test_a_folder_named_like_a_model_does_not_hide_it(
    stocked_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "realesr-general-x4v3").mkdir()
    assert load_model("realesr-general-x4v3", strength=0.5, offline=True).name == "realesr-general-x4v3"


def test_the_community_extra_loads_other_architectures(tmp_path: Path, rng: np.random.Generator) -> None:
    spandrel = pytest.importorskip("spandrel", reason="the extra `community` is not installed", exc_type=ImportError)
    from spandrel.architectures.SPAN import SPAN

    network = SPAN(num_in_ch=3, num_out_ch=3, feature_channels=8, upscale=2).eval()
    model: LoadedModel = load_model(_saved(tmp_path, network.state_dict()))
    assert (model.architecture, model.scale) == ("SPAN", 2)
    pixels = rng.integers(0, 256, (20, 30, 3), np.uint8)
    result = Upscaler(model, device=DeviceOptions(device="cpu"))(pixels)
    x = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
    with torch.inference_mode():
        expected = spandrel.ModelLoader().load_from_state_dict(network.state_dict())(x)
    assert np.abs(result - expected[0].permute(1, 2, 0).numpy() * 255).max() <= 1
