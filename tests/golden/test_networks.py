"""Every network file of the golden data loads by its shapes alone and gives the original's numbers."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from realesr_cli.models.architectures import LoadedModel, load_model

# what no shape tells, as a file's metadata says it
_METADATA = {
    "srvgg_relu_x2": {"activation": "relu"},
    "srvgg_leakyrelu_x3": {"activation": "leakyrelu"},
    "srcnn_955_y": {"scale": "1"},
    "srcnn_955_rgb": {"scale": "1"},
}
_EXPECTED = {
    "rrdbnet_x4": ("RRDBNet", 4),
    "rrdbnet_x2": ("RRDBNet", 2),
    "rrdbnet_x1": ("RRDBNet", 1),
    "rrdbnet_x4_odd": ("RRDBNet", 4),
    "bsrgan_x2": ("RRDBNet", 2),
    "esrgan_sequential_x4": ("RRDBNet", 4),
    "esrgan_trunk_x4": ("RRDBNet", 4),
    "kair_rrdb_x2": ("RRDBNet", 2),
    "kair_rrdb_x4": ("RRDBNet", 4),
    "msrresnet_x2": ("MSRResNet", 2),
    "msrresnet_x3": ("MSRResNet", 3),
    "msrresnet_x4": ("MSRResNet", 4),
    "msrresnet_odd_x3": ("MSRResNet", 3),
    "msrresnet_old_x4": ("MSRResNet", 4),
    "srresnet_bn_x2": ("SRResNet", 2),
    "srresnet_bn_x4": ("SRResNet", 4),
    "srcnn_955_y": ("SRCNN", 1),
    "srcnn_955_rgb": ("SRCNN", 1),
    "srvgg_prelu_x1": ("SRVGGNetCompact", 1),
    "srvgg_prelu_x2": ("SRVGGNetCompact", 2),
    "srvgg_prelu_x4": ("SRVGGNetCompact", 4),
    "srvgg_prelu_x4_b": ("SRVGGNetCompact", 4),
    "srvgg_relu_x2": ("SRVGGNetCompact", 2),
    "srvgg_leakyrelu_x3": ("SRVGGNetCompact", 3),
}


def load_golden(path: Path, folder: Path) -> tuple[LoadedModel, dict[str, np.ndarray]]:
    """The network of a golden file, loaded as a user's file would be, and the file's arrays."""
    with np.load(path, allow_pickle=False) as arrays:
        content = {key: arrays[key] for key in arrays.files}
    tensors = {key[3:]: torch.from_numpy(value) for key, value in content.items() if key.startswith("sd/")}
    target = folder / f"{path.stem}.safetensors"
    save_file({key: value.contiguous() for key, value in tensors.items()}, target, _METADATA.get(path.stem))
    return load_model(target), content


@pytest.mark.parametrize("name", _EXPECTED)
def test_network_equals_the_original(name: str, golden: Callable[[str], Path], tmp_path: Path) -> None:
    model, arrays = load_golden(golden(f"networks/{name}.npz"), tmp_path)
    assert (model.architecture, model.scale) == _EXPECTED[name]
    x = torch.from_numpy(arrays["x"])
    with torch.inference_mode():
        y = model.network.refine(x) if name.startswith("srcnn") else model.network(x)
    assert y.shape == arrays["y"].shape
    error = float((y - torch.from_numpy(arrays["y"])).abs().max())
    assert error <= 1e-4, f"{name}: {error:.2e}"
    meta = json.loads(str(arrays["meta"]))
    assert sum(p.numel() for p in model.network.parameters()) == sum(
        arrays[f"sd/{key}"].size for key in meta["param_names"]
    )


@pytest.mark.parametrize("name", _EXPECTED)
def test_gradients_equal_the_original(name: str, golden: Callable[[str], Path], tmp_path: Path) -> None:
    """The strips of inference must not be in the way of training."""
    model, arrays = load_golden(golden(f"networks/{name}.npz"), tmp_path)
    x = torch.from_numpy(arrays["x"]).requires_grad_(True)
    y = model.network.refine(x) if name.startswith("srcnn") else model.network(x)
    (y * y).mean().backward()
    assert x.grad is not None
    expected = torch.from_numpy(arrays["dx"])
    assert float((x.grad - expected).abs().max()) <= 1e-4 * float(expected.abs().max()) + 1e-7
