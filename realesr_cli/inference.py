"""One batch of tiles through the network: number format, channels, overflow, and bytes made on the device."""

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from realesr_cli.cuda import Recorder
from realesr_cli.device import DeviceChoice
from realesr_cli.errors import NonFiniteOutput
from realesr_cli.models import colours
from realesr_cli.models.architectures import LoadedModel
from realesr_cli.models.mixed import fast_copy
from realesr_cli.reporting import Reporter
from realesr_cli.tiling import Box
from realesr_cli.transfers import transfers

Pixels = NDArray[Any]
Picture = TypeVar("Picture", Pixels, Tensor)
"""In the host's memory, integers over the range of their dtype; or on the device, float32 in [0, 1]."""
Values = Callable[[int, Box], Tensor]
"""(tile, part of its planes) -> float32 (h, w, C*r*r) in [0, 1], r = 1 or the factor of a pixel shuffle to come."""

# Values that are rounded at once: a megabyte as float32, so that each of several threads has enough to do.
_ROUNDED_VALUES = 2**18
_LUMA = (0.299, 0.587, 0.114)  # BT.601, as the reference turns RGB results into grey


class Inference:
    """A model's network on a device, one fast copy for each number format in use."""

    def __init__(
        self,
        model: LoadedModel,
        choice: DeviceChoice,
        reporter: Reporter,
        *,
        self_ensemble: bool = False,
        keep_colours: bool = False,
    ) -> None:
        self._model = model
        self._choice = choice
        self._reporter = reporter
        self._self_ensemble = self_ensemble
        self._keep_colours = keep_colours
        self._networks: dict[torch.dtype, nn.Module] = {}
        self._overflow_told = False
        self._transfers = transfers(choice.device)
        self._recorder = Recorder()
        self._on_step: Callable[[object], None] = lambda output: None
        # networks that end in a pixel shuffle stop before it: rounding to bytes is cheaper there, and so are bytes
        # shuffled; the mean over turned views needs whole pictures
        has_subpixels = hasattr(model.network, "subpixels") and not self_ensemble
        self._shuffle = model.scale if has_subpixels else 1

    def close(self) -> None:
        """Frees the device's memory."""
        self._networks.clear()
        self._recorder.forget()

    def start(
        self,
        batch: Picture,
        kept: Sequence[Box],
        levels: int | None,
        *,
        precise: bool,
        on_step: Callable[[float], None],
    ) -> Callable[[], list[Picture]]:
        """(N, H, W, C) -> a function that gives for each the part `kept` of its result, (h, w, C), where `batch` is.

        C = 1 or 3. `kept` counts input pixels from the corner of each tile. Results in the host's memory are integers
        in 0..levels (255 or 65535), those on the device float32 in [0, 1], and `levels` is None. `precise` computes in
        float32 whatever was chosen. `on_step` is told the share of the work that each step was, all together perhaps a
        little more than one, for windows overlap. On a GPU the work goes on while the host does something else, until
        the function is called, which raises NonFiniteOutput.
        """
        with torch.inference_mode():
            # NHWC in memory is what channels_last means: nothing is copied but the values
            x = (batch if isinstance(batch, Tensor) else self._unit(batch)).permute(0, 3, 1, 2)
        low = torch.float32 if precise else self._choice.dtype
        finish = self._launch(x, kept, levels, low, on_step)

        def result() -> list[Any]:
            parts = finish()
            if parts is None and low != torch.float32:
                self._tell_overflow()
                parts = self._launch(x, kept, levels, torch.float32, lambda share: None)()  # its steps were counted
            if parts is None:
                raise NonFiniteOutput(
                    f"{self._model.name} gives values that are not numbers, even in fp32",
                    hint="the weights file is probably damaged: `realesr models verify`, or choose another with -m",
                )
            return parts

        return result

    def _unit(self, batch: Pixels) -> Tensor:
        """The pictures on the device, float32 in [0, 1]."""
        # torch has uint16, but few of its operations on every device
        integers = batch.astype(np.int32) if batch.dtype == np.uint16 else batch
        return self._transfers.upload(integers).float().div_(np.iinfo(batch.dtype).max)

    def _fetched(self, part: Tensor, levels: int | None) -> Callable[[], Pixels | Tensor]:
        """What `start` gives for a part that is computed on the device."""
        if levels is None:
            return lambda: part
        download, dtype = self._transfers.download(part), np.uint8 if levels == 255 else np.uint16
        return lambda: download().astype(dtype, copy=False)

    def _tell_overflow(self) -> None:
        if self._overflow_told:
            return
        self._overflow_told = True
        self._reporter.emit(
            "warning",
            code="overflow",
            message=f"{self._model.name} overflows in {self._choice.precision}; fp32 is used for such tiles",
            hint="--precision fp32 avoids the double work",
        )

    def _launch(
        self, x: Tensor, kept: Sequence[Box], levels: int | None, dtype: torch.dtype, on_step: Callable[[float], None]
    ) -> Callable[[], list[Pixels | Tensor] | None]:
        """Starts the work; the function waits for it and gives the parts, or None if some values are not numbers."""
        share = 1 / (max(1, len(_blocks(self._network(dtype)))) * (8 if self._self_ensemble else 1))
        self._on_step = lambda output: on_step(share * _share_done(output, x))
        with torch.inference_mode(), _exact_float32(self._choice.device, dtype):
            computed, values = self._values(x, dtype)
            # NaN and infinity survive a sum, which must not overflow by itself
            total = self._transfers.download(computed.sum(dtype=torch.float32))
            parts = [
                self._fetched(self._rounded(partial(values, i), box, x.shape[1], levels), levels)
                for i, box in enumerate(kept)
            ]

        def finish() -> list[Pixels | Tensor] | None:
            if not math.isfinite(float(total())):
                return None
            return [part() for part in parts]

        return finish

    def _rounded(self, values: Callable[[Box], Tensor], box: Box, channels: int, levels: int | None) -> Tensor:
        """The part `box`, in input pixels, as (h, w, channels): integers in 0..levels, or float32 in [0, 1]."""
        r, device = self._shuffle, self._choice.device
        box = box.times(self._model.scale // r)
        dtype = torch.float32 if levels is None else torch.uint8 if levels == 255 else torch.int32
        out = torch.empty((box.height * r, box.width * r, channels), dtype=dtype, device=device)
        # on a CPU in strips that stay in its caches; a GPU has no such thing to gain
        rows = max(1, _ROUNDED_VALUES // (box.width * channels * r**2)) if device.type == "cpu" else box.height
        for top in range(box.top, box.bottom, rows):
            strip = values(Box(top, box.left, min(top + rows, box.bottom), box.right))
            strip = strip.clamp_(0, 1) if levels is None else strip.mul_(levels).round_().clamp_(0, levels).to(dtype)
            place = out[(top - box.top) * r : (top - box.top + len(strip)) * r]
            if r == 1:
                place[...] = strip
                continue
            # the pixel shuffle, colour by colour: a third of the time of one copy with all axes exchanged
            shuffled = place.view(len(strip), r, box.width, r, channels)
            for channel, planes in enumerate(strip.unflatten(2, (channels, r, r)).unbind(2)):  # type: ignore[no-untyped-call]
                shuffled[..., channel] = planes.permute(0, 2, 1, 3)
        return out

    def _values(self, x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Values]:
        """What is computed for (N, 1 or 3, H, W) in [0, 1], and the result with as many channels.

        Whatever the model takes: one for single channels sees three pictures, one for colours a grey one as RGB.
        """
        count, channels = x.shape[:2]
        if channels == self._model.channels_in:
            return self._raw(x, dtype)
        if channels == 3:
            computed, single = self._raw(x.reshape(count * 3, 1, *x.shape[2:]), dtype)
            return computed, lambda i, box: torch.cat([single(3 * i + channel, box) for channel in range(3)], 2)
        wide = x.expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)
        computed, colour = self._raw(wide, dtype)
        return computed, lambda i, box: _luma(colour(i, box))

    def _raw(self, x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Values]:
        """What the network computes for its own channels, and the values of its result."""
        network = self._network(dtype)
        if self._shuffle > 1:
            residual = self._run(cast(Any, network).residual, x)
            if self._keep_colours:  # what comes on top of the input is what changes its low frequencies
                changed = torch.stack(
                    [planes.mean(1, dtype=torch.float32) for planes in residual.chunk(x.shape[1], 1)], 1
                )
                residual = colours.correction(-changed, self._model.scale).add_(residual)
            return residual, lambda i, box: _at(cast(Any, network).subpixels(_part(residual, i, box), _part(x, i, box)))
        if not self._self_ensemble:
            y = self._coloured(self._run(network.forward, x).float(), x)
            return y, lambda i, box: _at(_part(y, i, box))
        total = torch.zeros((), device=x.device)
        for turns in range(4):
            for mirrored in (False, True):
                view = torch.rot90(x.flip(3) if mirrored else x, turns, (2, 3))
                result = torch.rot90(self._run(network.forward, view.contiguous()).float(), -turns, (2, 3))
                total = total + (result.flip(3) if mirrored else result)
        mean = self._coloured(total / 8, x)
        return mean, lambda i, box: _at(_part(mean, i, box))

    def _coloured(self, y: Tensor, x: Tensor) -> Tensor:
        return colours.keep_colours(y, x, self._model.scale) if self._keep_colours else y

    def _run(self, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        if self._choice.device.type == "cuda":
            return self._recorder(function, x)
        return function(x)

    def _network(self, dtype: torch.dtype) -> nn.Module:
        if dtype not in self._networks:
            network = fast_copy(
                self._model.network, dtype, self._choice.device, channels_last=self._choice.channels_last
            )
            for block in _blocks(network):
                block.register_forward_hook(lambda block, inputs, output: self._on_step(output))
            self._networks[dtype] = network
        return self._networks[dtype]


def _exact_float32(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[None]:
    """On CUDA, float32 convolutions keep 10 bits of the mantissa unless told otherwise (TF32)."""
    if device.type != "cuda" or dtype != torch.float32:
        return nullcontext()
    return torch.backends.cudnn.flags(enabled=True, allow_tf32=False)


def _part(maps: Tensor, i: int, box: Box) -> Tensor:
    return maps[i : i + 1, :, box.top : box.bottom, box.left : box.right]


def _at(part: Tensor) -> Tensor:
    """(1, planes, h, w) -> (h, w, planes)."""
    return part[0].permute(1, 2, 0)


def _luma(colour: Tensor) -> Tensor:
    """(h, w, 3*r*r) -> (h, w, r*r)."""
    red, green, blue = colour.clamp(0, 1).chunk(3, 2)
    return _LUMA[0] * red + _LUMA[1] * green + _LUMA[2] * blue


def _blocks(network: nn.Module) -> list[nn.Module]:
    """The parts of a network after which progress is shown."""
    body = getattr(network, "body", None)
    parts = body.children() if isinstance(body, nn.Module) else ()
    return [part for part in parts if not isinstance(part, nn.PReLU)]


def _share_done(output: object, x: Tensor) -> float:
    """Of a block's maps, when it gave `output`, which may be one window of them."""
    if not isinstance(output, Tensor) or output.ndim != 4:
        return 1.0
    return min(1.0, math.prod(output.shape[2:]) / math.prod(x.shape[2:]))
