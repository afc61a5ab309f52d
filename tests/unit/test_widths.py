"""Maps of widths that convolutions are fast with, and the same numbers as without (models/widths.py)."""

import copy
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn

from networks import compact, loaded, rrdb
from realesr_cli import DeviceOptions, Upscaler
from realesr_cli.models.architectures import LoadedModel
from realesr_cli.models.widths import ZeroColumns
from realesr_cli.options import TileOptions

MODELS: dict[str, Callable[[], LoadedModel]] = {
    "compact": compact,
    "rrdb": rrdb,
    "rrdb of folded pixels": lambda: rrdb(unshuffle=2),
}


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> LoadedModel:
    return MODELS[request.param]()


def conv_widths(network: nn.Module, seen: list[int]) -> None:
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].shape[3]))


@pytest.mark.parametrize("width", [40, 258, 514, 530, 544])
def test_zeros_beside_the_picture_change_nothing(model: LoadedModel, width: int) -> None:
    torch.manual_seed(0)
    x = torch.rand(2, 3, 12, width)
    watched = copy.deepcopy(model.network)
    run = ZeroColumns(watched, model.multiple_of)
    seen: list[int] = []
    conv_widths(watched, seen)
    with torch.inference_mode():
        expected, result = model.network(x), run(watched.forward, x)
        again = watched(x)
    assert result.shape == expected.shape
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-6)
    # a function that is called by itself is left alone afterwards
    torch.testing.assert_close(again, expected, rtol=0, atol=1e-6)
    assert seen[0] % 16 == 0 or seen[0] <= 256


@pytest.mark.parametrize("self_ensemble", [False, True])
@pytest.mark.parametrize("shape", [(30, 300), (300, 30), (24, 256)])
def test_pictures_in_bfloat16_are_the_same(
    model: LoadedModel, shape: tuple[int, int], self_ensemble: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = np.random.default_rng(5).integers(0, 256, (*shape, 3), np.uint8)
    device, tile = DeviceOptions(device="cpu", precision="bf16"), TileOptions(self_ensemble=self_ensemble)
    with Upscaler(model, device=device, tile=tile) as upscaler:
        result = upscaler(pixels)
    for user in ("inference", "engine", "models.rrdb"):
        monkeypatch.setattr(f"realesr_cli.{user}.widths_matter", lambda dtype, device: False)
    with Upscaler(model, device=device, tile=tile) as upscaler:
        expected = upscaler(pixels)
    difference = np.abs(result.astype(int) - expected)
    assert difference.max() <= 1  # kernels of other widths may order a sum otherwise
    assert (difference > 0).mean() < 0.01


def test_threads_may_share_a_network() -> None:
    model, random = compact(depth=12), np.random.default_rng(5)
    pictures = [random.integers(0, 256, (40, width, 3), np.uint8) for width in (258, 400, 300, 511) * 4]
    with Upscaler(model, device=DeviceOptions(device="cpu", precision="bf16")) as upscaler:
        expected = [upscaler(pixels) for pixels in pictures]
        with ThreadPoolExecutor(4) as pool:
            results = list(pool.map(upscaler, pictures))
    for result, alone in zip(results, expected, strict=True):
        np.testing.assert_array_equal(result, alone)


def test_only_networks_that_see_zeros_outside_get_them() -> None:
    widths: list[int] = []

    class Clamped(nn.Module):
        """Looks at its last column once more, so that zeros there would show."""

        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Conv2d(3, 3, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            widths.append(x.shape[3])
            low = x.to(self.layer.weight.dtype)
            return self.layer(nn.functional.pad(low, (1, 1, 1, 1), mode="replicate"))

    pixels = np.random.default_rng(5).integers(0, 256, (16, 300, 3), np.uint8)
    model = loaded(Clamped(), scale=1, radius_px=1, pad_px=1, values_per_px=10, supports_low_precision=True)
    with Upscaler(model, device=DeviceOptions(device="cpu", precision="bf16")) as upscaler:
        upscaler(pixels)
    assert widths == [300]
