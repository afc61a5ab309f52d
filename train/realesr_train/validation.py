"""How good a network is on a few held-out pictures, degraded once and always alike.

Traps: the numbers belong to this set and its degradation; compare them with those of `bicubic_outputs` on the same
pairs, not with published tables. Only whole pictures are used, one at a time, in float32, so a picture costs memory.
PSNR is capped at 100 dB, because a mean must stay finite.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from realesr_cli.errors import TrainingDiverged, UnsupportedInput
from realesr_train.degradation.resize import imresize
from realesr_train.metrics.psnr_ssim import psnr, ssim

Pixels = NDArray[np.uint8]
Degrade = Callable[[Tensor, int], Tensor]
"""`degrade(hr, number)`: (1, 3, H, W) float32 RGB in [0, 1] and the picture's number -> (1, 3, H/scale, W/scale)."""

_SSIM_WINDOW_PX = 11
_PSNR_CAP_DB = 100.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """A held-out picture and what was made of it: `hr` (scale*h, scale*w, 3), `lq` (h, w, 3), uint8 RGB."""

    name: str
    """Also the name of its files, without suffix."""
    lq: Pixels
    hr: Pixels

    @property
    def scale(self) -> int:
        scale: int = self.hr.shape[0] // self.lq.shape[0]
        return scale


def make_pairs(
    pictures: Mapping[str, Pixels], degrade: Degrade, *, scale: int, multiple_of: int = 1
) -> tuple[Pair, ...]:
    """Each picture (H, W, 3) uint8 RGB under its name, with its degraded one, rounded to 8 bits.

    Pictures are cut at the right and bottom to sides that are multiples of scale * multiple_of, and numbered from 0 in
    their order; a `degrade` that draws by (seed, number) gives the same pairs in every run.

    Raises: UnsupportedInput (a picture that is too small, or of another kind, or whose name is no file name).
    """
    pairs = []
    step = scale * multiple_of
    for number, (name, picture) in enumerate(pictures.items()):
        if Path(name).name != name:
            raise UnsupportedInput(f"validation picture {name!r} cannot name its files", hint="name it without folders")
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
            kind = f"{picture.dtype} {picture.shape}"
            raise UnsupportedInput(f"validation picture {name} is {kind}", hint="give 8-bit RGB (H, W, 3)")
        height, width = (side // step * step for side in picture.shape[:2])
        if min(height, width) < 2 * scale + _SSIM_WINDOW_PX:
            least = -(-(2 * scale + _SSIM_WINDOW_PX) // step) * step
            raise UnsupportedInput(
                f"validation picture {name} is too small ({picture.shape[1]}x{picture.shape[0]} px)",
                hint=f"both sides need at least {least} px",
            )
        hr = np.ascontiguousarray(picture[:height, :width])
        lq = to_pixels(degrade(to_tensor(hr), number))
        if lq.shape != (height // scale, width // scale, 3):
            raise ValueError(f"degrade: gives {lq.shape} for {name}, not {(height // scale, width // scale, 3)}")
        pairs.append(Pair(name=name, lq=lq, hr=hr))
    return tuple(pairs)


def to_tensor(pixels: Pixels) -> Tensor:
    """(H, W, 3) uint8 -> (1, 3, H, W) float32 in [0, 1]."""
    return torch.from_numpy(pixels.transpose(2, 0, 1)[None].astype(np.float32) / np.float32(255))


def to_pixels(picture: Tensor) -> Pixels:
    """(1, 3, H, W) float -> (H, W, 3) uint8, clamped to [0, 1] and rounded."""
    levels = picture.detach().float().clamp(0, 1).mul(255).round().to(torch.uint8)
    return np.ascontiguousarray(levels[0].permute(1, 2, 0).cpu().numpy())


def outputs(network: nn.Module, pairs: Iterable[Pair]) -> Iterator[Pixels]:
    """The network's result for each `lq` (scale*h, scale*w, 3) uint8, on the network's device, in eval mode.

    Every part of the network gets its own mode back, also after an error.

    Raises: TrainingDiverged (a result that is not finite).
    """
    device = next(network.parameters()).device
    for pair in pairs:
        # within the loop: what the caller does between two results must not happen without gradients
        with _evaluation(network), torch.no_grad():
            result: Tensor = network(to_tensor(pair.lq).to(device))
        if not bool(result.isfinite().all()):
            raise TrainingDiverged(
                f"the network gives NaN or infinity for validation picture {pair.name}",
                hint="go back to an earlier checkpoint, with a lower learning rate or clip_norm",
            )
        yield to_pixels(result)


def bicubic_outputs(pairs: Iterable[Pair]) -> Iterator[Pixels]:
    """Each `lq` enlarged by MATLAB-like bicubic interpolation: what a network must beat."""
    for pair in pairs:
        yield to_pixels(imresize(to_tensor(pair.lq), size=(pair.hr.shape[0], pair.hr.shape[1])))


def scores(results: Iterable[Pixels], pairs: Sequence[Pair], *, border: int | None = None) -> dict[str, float]:
    """Means over the pictures of PSNR and SSIM on luma and on RGB, and of two things that they do not tell.

    Keys: psnr_y_db, ssim_y, psnr_rgb_db, ssim_rgb; shift_r_levels, shift_g_levels, shift_b_levels, the mean of result
    - picture in a channel, in 1/255 (colour drift); pitch_pattern, see `pitch_pattern`. A border of `border` pixels
    (default: the scale) is cut first.

    Raises: ValueError (no pictures, or not as many results as pairs).
    """
    if not pairs:
        raise ValueError("pairs: none; validation needs at least one picture")
    rows = []
    for pixels, pair in zip(results, pairs, strict=True):
        cut = pair.scale if border is None else border
        inside = slice(cut, -cut or None)
        shift = (pixels[inside, inside].astype(np.int32) - pair.hr[inside, inside]).mean((0, 1))
        rows.append(
            {
                "psnr_y_db": min(psnr(pixels, pair.hr, border=cut, luma=True), _PSNR_CAP_DB),
                "ssim_y": ssim(pixels, pair.hr, border=cut, luma=True),
                "psnr_rgb_db": min(psnr(pixels, pair.hr, border=cut), _PSNR_CAP_DB),
                "ssim_rgb": ssim(pixels, pair.hr, border=cut),
                **{f"shift_{name}_levels": float(value) for name, value in zip("rgb", shift, strict=True)},
                "pitch_pattern": pitch_pattern(pixels, pair.scale),
            }
        )
    return {key: sum(row[key] for row in rows) / len(rows) for key in rows[0]}


def validate(
    network: nn.Module,
    pairs: Sequence[Pair],
    *,
    border: int | None = None,
    on_output: Callable[[Pair, Pixels], None] | None = None,
) -> dict[str, float]:
    """`scores` of the network's outputs; `on_output` sees each of them, for a sample sheet.

    Raises: TrainingDiverged, ValueError (no pairs).
    """

    def seen() -> Iterator[Pixels]:
        for pair, pixels in zip(pairs, outputs(network, pairs), strict=True):
            if on_output is not None:
                on_output(pair, pixels)
            yield pixels

    return scores(seen(), pairs, border=border)


def pitch_pattern(pixels: Pixels, scale: int) -> float:
    """How much fine texture depends on the place within an input pixel: 0 in a photo, up to about 1 for dots.

    Mean absolute second difference of luma for each of the scale * scale places; their standard deviation over their
    mean. Networks that are trained too early against perceptual losses leave such a pattern, invisible to PSNR.
    """
    luma = pixels.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    around = luma[:-2, 1:-1] + luma[2:, 1:-1] + luma[1:-1, :-2] + luma[1:-1, 2:]
    detail = np.abs(4 * luma[1:-1, 1:-1] - around)
    height, width = (side // scale * scale for side in detail.shape)
    places = detail[:height, :width].reshape(height // scale, scale, width // scale, scale).mean((0, 2))
    mean = float(places.mean())
    return float(places.std()) / mean if mean else 0.0


@contextmanager
def _evaluation(network: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
