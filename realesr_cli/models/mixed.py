"""Low precision where it is harmless: one network definition serves training, golden tests and fast inference.

A network that supports this keeps its entrance (first convolution) and its sums (residual stream, base picture) in the
input's float32, and runs everything between in the dtype of its body weights. In float32 all casts are no-ops.
Measured against the network cast as a whole to bfloat16, this lifts the agreement with float32 by 2 to 12 dB at a few
percent of the time: pixel values k/255 do not exist in bfloat16.
"""

import copy
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn


def fast_copy(network: nn.Module, dtype: torch.dtype, device: torch.device, *, channels_last: bool) -> nn.Module:
    """A copy of `network` for inference, its body in `dtype`, on `device`; `network` is not changed.

    Networks name what must stay in float32 in `full_precision: tuple[str, ...]`: modules or parameters.
    """
    twin = copy.deepcopy(network).eval().requires_grad_(False)
    keep = cast(tuple[str, ...], getattr(network, "full_precision", ()))
    for name, tensor in (*twin.named_parameters(), *twin.named_buffers()):
        if tensor.is_floating_point() and not any(name == kept or name.startswith(f"{kept}.") for kept in keep):
            tensor.data = tensor.data.to(dtype)
    for layer in twin.modules():
        if isinstance(layer, nn.Conv2d) and layer.bias is not None and layer.bias.dtype != layer.weight.dtype:
            _centre(layer)
    twin.to(device)
    if hasattr(twin, "freeze"):
        cast(Callable[[], None], twin.freeze)()
    return cast(nn.Module, twin.to(memory_format=torch.channels_last)) if channels_last else twin  # type: ignore[call-overload]


def low(x: Tensor, layer: nn.Conv2d) -> Tensor:
    """`x` in the dtype that `layer` computes in: autocast's, in training, or its own."""
    device = x.device.type
    return x.to(torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else layer.weight.dtype)


def centred(layer: nn.Conv2d, x: Tensor, dtype: torch.dtype) -> Tensor:
    """`layer(x)` in `dtype`, for results in [0, 1] of a layer whose bias is named in `full_precision`, not its weight.

    In low precision the layer computes `y - 0.5`, whose values are half as large and so rounded half as coarsely.
    """
    y: Tensor = layer(x)
    return y.to(dtype) + cast(Tensor, layer.rest)[:, None, None] if hasattr(layer, "rest") else y


def _centre(layer: nn.Conv2d) -> None:
    """Brings the bias to the dtype of the weight, less 0.5; `rest` is what it then lacks."""
    exact = cast(Tensor, layer.bias).data
    low_bias = (exact - 0.5).to(layer.weight.dtype)
    layer.register_buffer("rest", exact - low_bias.to(exact.dtype))
    cast(Tensor, layer.bias).data = low_bias
