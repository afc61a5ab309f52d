"""GFPGANv1Clean loads by its shapes alone and gives the original's numbers, and always the same ones."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from realesr_cli.models.architectures import LoadedModel
from realesr_cli.models.gfpgan import GFPGANv1Clean
from realesr_cli.models.mixed import fast_copy
from realesr_cli.models.restorers import load_restorer

NAMES = ("gfpgan_clean_32_plain", "gfpgan_clean_64")


def load_golden_restorer(path: Path, folder: Path) -> tuple[LoadedModel, dict[str, np.ndarray]]:
    """The network of a golden file, loaded as a user's file would be, and the file's arrays."""
    with np.load(path, allow_pickle=False) as arrays:
        content = {key: arrays[key] for key in arrays.files}
    target = folder / f"{path.stem}.safetensors"
    save_file({key[3:]: torch.from_numpy(value) for key, value in content.items() if key.startswith("sd/")}, target)
    return load_restorer(target), content


def _run(network: nn.Module, x: np.ndarray) -> Tensor:
    """In the original's range, -1 to 1."""
    with torch.inference_mode():
        result: Tensor = network((torch.from_numpy(x) + 1) / 2) * 2 - 1
    return result


@pytest.mark.parametrize("name", NAMES)
def test_every_part_equals_the_original(name: str, golden: Callable[[str], Path], tmp_path: Path) -> None:
    model, arrays = load_golden_restorer(golden(f"networks/{name}.npz"), tmp_path)
    assert (model.architecture, model.side_px) == ("GFPGANv1Clean", arrays["x"].shape[2])
    seen: dict[str, Tensor] = {}

    def remember(key: str) -> Callable[[nn.Module, object, Tensor], None]:
        def hook(module: nn.Module, inputs: object, output: Tensor) -> None:
            seen[key] = output.clone()

        return hook

    for key in arrays:
        if key.startswith("mid/"):
            model.network.get_submodule(key[4:]).register_forward_hook(remember(key))
    seen["y"] = _run(model.network, arrays["x"])
    assert len(seen) == 7
    for key, value in seen.items():
        expected = torch.from_numpy(arrays[key])
        error = float((value.reshape(expected.shape) - expected).abs().max())
        assert error <= 1e-5 * float(expected.abs().max()) + 1e-6, f"{name} {key}: {error:.2e}"


@pytest.mark.parametrize("name", NAMES)
def test_gradients_equal_the_original(name: str, golden: Callable[[str], Path], tmp_path: Path) -> None:
    model, arrays = load_golden_restorer(golden(f"networks/{name}.npz"), tmp_path)
    x = torch.from_numpy(arrays["x"]).requires_grad_(True)
    (model.network((x + 1) / 2) * 2 - 1).square().mean().backward()
    assert x.grad is not None
    expected = torch.from_numpy(arrays["dx"])
    assert float((x.grad - expected).abs().max()) <= 1e-4 * float(expected.abs().max())


def test_the_fast_copy_gives_the_same_numbers(golden: Callable[[str], Path], tmp_path: Path) -> None:
    model, arrays = load_golden_restorer(golden("networks/gfpgan_clean_64.npz"), tmp_path)
    exact = _run(model.network, arrays["x"])
    # half of these differences on [0, 1]; the golden picture runs from -2.2 to 2.2, where 8 bits end at -1 and 1
    for dtype, allowed in ((torch.float32, 1e-5), (torch.float16, 0.01), (torch.bfloat16, 0.05)):
        copy = fast_copy(model.network, dtype, torch.device("cpu"), channels_last=True)
        result = _run(copy, arrays["x"])
        assert result.dtype == torch.float32
        assert float((result - exact).abs().max()) < allowed, dtype
        assert torch.equal(result, _run(copy, arrays["x"])), "not deterministic"


def test_low_precision_survives_styles_of_any_size(golden: Callable[[str], Path], tmp_path: Path) -> None:
    model, arrays = load_golden_restorer(golden("networks/gfpgan_clean_64.npz"), tmp_path)
    network = model.network
    for name, parameter in network.named_parameters():
        if "style_conv" in name and "modulation.bias" in name:
            parameter.data *= 1e5
    exact = _run(network, arrays["x"])
    result = _run(fast_copy(network, torch.float16, torch.device("cpu"), channels_last=True), arrays["x"])
    assert torch.isfinite(result).all()
    assert float((result - exact).square().mean().sqrt()) < 0.05 * float(exact.std())


def test_a_batch_gives_what_single_faces_give(golden: Callable[[str], Path], tmp_path: Path) -> None:
    model, arrays = load_golden_restorer(golden("networks/gfpgan_clean_64.npz"), tmp_path)
    together = _run(model.network, arrays["x"])
    for index in range(2):
        alone = _run(model.network, arrays["x"][index : index + 1])
        assert float((together[index : index + 1] - alone).abs().max()) < 1e-5


def test_the_published_size_has_the_published_number_of_parameters() -> None:
    encoder = (256, 256, 256, 256, 256, 128, 64, 32)
    decoder = (512, 512, 512, 512, 512, 256, 128, 64)
    with torch.device("meta"):
        network = GFPGANv1Clean(
            encoder=encoder, decoder=decoder, style=512, different_styles=True, mapping=8, input_is_latent=True,
            modulated=[channels // 2 for channels in decoder[1:]],
        )  # fmt: skip
    assert sum(parameter.numel() for parameter in network.parameters()) == 86_444_252
