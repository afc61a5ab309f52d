"""The chain of degradations: clean pictures and draws to the network's 8-bit input, and the crop of both.

Images of a batch have sizes of their own between the first and the last resize. Those whose sides round up to the same
multiples of 64 pixels (of 256 on a GPU) travel as one tensor, and a step is one call for each such group, not for each
image. An image's group follows from its own sizes alone, so its result does not depend on the batch.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from realesr_train.degradation import filters, jpeg, noise, resize
from realesr_train.degradation.canvas import checked_sizes, reflected
from realesr_train.degradation.counter import keys, normal_field, uniform_field
from realesr_train.degradation.draws import IMPULSE, NOISES, BlurDraw, Cropped, Draws, NoiseDraw, ResizeDraw, Stream
from realesr_train.degradation.kernels import blur_kernels

_CANVAS_STEP_PX = {"cpu": 64}
_GPU_CANVAS_STEP_PX = 256
"""Few groups on a GPU, where a call costs more than pixels; small canvases on a CPU, where pixels do."""

Hook = Callable[[str, dict[int, Tensor]], None]
"""`hook(step, images)`: what the step made of the images that took it, by place in the batch, each (3, h, w). Called
again where other images take the same step elsewhere. The images are views: what is written into them goes on."""


@dataclass(frozen=True, slots=True)
class _Group:
    """Images that travel together: image i of it is the upper left `sizes[i]` of `pixels[i]`."""

    index: Tensor
    """(n,) int64 on the host: places in the batch."""
    pixels: Tensor
    sizes: Tensor
    """(n, 2) int64 on the host."""
    fills: bool
    """The images fill the canvas, as all do before the first and after the last resize."""

    @property
    def borders(self) -> Tensor | None:
        return None if self.fills else self.sizes

    def select(self, places: Tensor) -> "_Group":
        if len(places) == len(self.index):
            return self
        pixels = self.pixels[_moved(places, self.pixels)]
        return replace(self, index=self.index[places], pixels=pixels, sizes=self.sizes[places])


def _moved(index: Tensor, like: Tensor) -> Tensor:
    """A host tensor on the device of `like`, without waiting for the device."""
    return index.to(like.device, non_blocking=True)


@torch.no_grad()
def apply(
    hr: Tensor, draws: Draws, *, given: Mapping[str, Tensor] | None = None, on_step: Hook | None = None
) -> Tensor:
    """The degraded pictures (N, 3, H/scale, W/scale), exactly k/255, of clean ones `hr` (N, 3, H, W) float32 in [0, 1].

    Steps by name: `usm`, `blur1`, `resize1`, `noise1`, `jpeg1`, the same with 2, ..., and at the end `resize3`, `sinc`,
    `jpeg2` or `jpeg2`, `resize3`, `sinc` (numbers for two passes); plain pictures take none. `on_step` sees each of
    them. `given` replaces what a step would make by itself: kernels (N, k, k) by the name of a blur, fields
    (N, 3, h, w) by that of a noise step (standard normal for Gaussian noise, counts for Poisson noise).

    TF32, autocast and cuDNN's autotuning are off inside; there is no gradient.

    Raises: ValueError naming the argument.
    Source: training specification, section 5.
    """
    check_pictures(hr, len(draws), draws.height, draws.width)
    with plain_arithmetic(hr.device):
        lq = hr.new_empty(len(draws), 3, draws.height // draws.scale, draws.width // draws.scale)
        plain, degraded = draws.plain.nonzero()[:, 0], (~draws.plain).nonzero()[:, 0]
        if len(plain):
            places = _moved(plain, hr)
            lq[places] = F.interpolate(hr[places], lq.shape[2:], mode="bicubic", antialias=True)
        if len(degraded):
            pixels = hr if len(degraded) == len(draws) else hr[_moved(degraded, hr)]
            start = _Group(degraded, pixels, checked_sizes(pixels, None), fills=True)
            end = _Chain(draws, given or {}, on_step).run(start)
            lq[_moved(end.index, hr)] = end.pixels
        return lq.mul_(255).round_().clamp_(0, 255).div_(255)


@dataclass(frozen=True, slots=True)
class _Chain:
    """The steps, each from groups to groups."""

    draws: Draws
    given: Mapping[str, Tensor]
    hook: Hook | None

    def run(self, start: _Group) -> _Group:
        """All steps; the images come back at the final size, in some order."""
        draws, groups = self.draws, [start]
        if draws.sharpen_input:
            groups = self.on(groups, "usm", lambda part: filters.sharpen(part.pixels))
        for number, one in enumerate(draws.passes, 1):
            groups = self.blur(groups, f"blur{number}", one.blur)
            by_factor = number == 1 and draws.resize_step == "factor"
            groups = self.resize(groups, f"resize{number}", one.resize, by_factor=by_factor)
            groups = self.noise(groups, f"noise{number}", one.noise, Stream.NOISE_FIELD + 16 * (number - 1))
            if one.quality is not None:
                groups = self.jpeg(groups, f"jpeg{number}", one.quality)
        final, count = draws.final, len(draws.passes)
        groups = self.jpeg(groups, f"jpeg{count}", final.quality, ~final.jpeg_last)
        groups = self.resize(groups, f"resize{count + 1}", final.resize, is_last=True)
        groups = self.blur(groups, "sinc", final.sinc)
        (group,) = self.jpeg(groups, f"jpeg{count}", final.quality, final.jpeg_last)
        return group

    def on(
        self, groups: list[_Group], step: str, change: Callable[[_Group], Tensor], taken_by: Tensor | None = None
    ) -> list[_Group]:
        """The groups, with the pixels of the images that take the step changed; sizes stay. `taken_by` (N,) bool."""
        if taken_by is None:
            taken_by = torch.ones(len(self.draws), dtype=torch.bool)
        changed = []
        for group in groups:
            places = taken_by[group.index].nonzero()[:, 0]
            if len(places) == 0:
                changed.append(group)
                continue
            part = group.select(places)
            pixels = change(part)
            if len(places) < len(group.index):
                pixels = group.pixels.index_copy(0, _moved(places, pixels), pixels)
            changed.append(replace(group, pixels=pixels))
        self._show(step, changed, taken_by)
        return changed

    def blur(self, groups: list[_Group], step: str, draw: BlurDraw) -> list[_Group]:
        """Impulses are left out, instead of correlating with them."""
        if step in self.given:
            kernels, taken_by = self.given[step], None
        else:
            taken_by = draw.family != IMPULSE
            kernels = blur_kernels(
                family=draw.family,
                size=draw.size_px,
                sigma_x=draw.sigma_x,
                sigma_y=draw.sigma_y,
                theta=draw.theta,
                beta=draw.beta,
                omega=draw.omega,
            )

        def change(part: _Group) -> Tensor:
            return filters.blur(part.pixels, _moved(kernels[part.index], part.pixels), part.borders)

        return self.on(groups, step, change, taken_by)

    def resize(
        self, groups: list[_Group], step: str, draw: ResizeDraw, *, by_factor: bool = False, is_last: bool = False
    ) -> list[_Group]:
        """The images at their new sizes, grouped anew by them. `by_factor`: sampled in steps of 1 / factor (D2)."""
        device = groups[0].pixels.device
        canvases = draw.target if is_last else _canvases(draw.target, device)
        steps = None if not by_factor or draw.factor is None else (1 / draw.factor)[:, None].expand(-1, 2)
        parts: dict[tuple[int, ...], list[_Group]] = {}
        for group in groups:
            own = canvases[group.index]
            for height, width in sorted({(height, width) for height, width in own.tolist()}):
                part = group.select((own == torch.tensor([height, width])).all(1).nonzero()[:, 0])
                pixels = resize.resize(
                    part.pixels,
                    draw.target[part.index],
                    draw.mode[part.index],
                    part.borders,
                    steps=None if steps is None else steps[part.index],
                    canvas=(height, width),
                )
                resized = _Group(part.index, pixels, draw.target[part.index], fills=is_last)
                parts.setdefault((height, width), []).append(resized)
        changed = [_joined(parts[canvas]) for canvas in sorted(parts)]
        self._show(step, changed, torch.ones(len(self.draws), dtype=torch.bool))
        return changed

    def noise(self, groups: list[_Group], step: str, draw: NoiseDraw, stream: int) -> list[_Group]:
        """Each image with noise of its kind, clamped to [0, 1]."""
        field_keys = keys(self.draws.seed, draw.field, stream)
        given = self.given.get(step)

        def field(part: _Group, make: Callable[..., Tensor]) -> Tensor:
            height, width = part.pixels.shape[2:]
            if given is not None:
                return _on_canvas(given[part.index], height, width)
            return make(field_keys[part.index], height, width, 3, part.pixels.device)

        def gaussian(part: _Group) -> Tensor:
            sigma, grey = (_moved(values[part.index], part.pixels) for values in (draw.strength, draw.grey))
            return noise.add_gaussian(part.pixels, sigma, grey, field(part, normal_field), part.borders)

        def poisson(part: _Group) -> Tensor:
            scale, grey = (_moved(values[part.index], part.pixels) for values in (draw.strength, draw.grey))
            levels = 256 if draw.poisson_levels == "fixed" else None
            rates = noise.poisson_rates(part.pixels, grey, part.borders, fixed_levels=levels)
            numbers = field(part, uniform_field)
            counts = numbers if given is not None else noise.poisson_counts(rates, numbers, grey)
            return noise.add_poisson(part.pixels, scale, rates, counts, part.borders)

        groups = self.on(groups, step, gaussian, draw.kind == NOISES.index("gaussian"))
        return self.on(groups, step, poisson, draw.kind == NOISES.index("poisson"))

    def jpeg(self, groups: list[_Group], step: str, quality: Tensor, taken_by: Tensor | None = None) -> list[_Group]:
        is_legacy = self.draws.jpeg_model == "legacy"

        def change(part: _Group) -> Tensor:
            return jpeg.jpeg(part.pixels, quality[part.index], part.borders, legacy=is_legacy)

        return self.on(groups, step, change, taken_by)

    def _show(self, step: str, groups: list[_Group], taken_by: Tensor) -> None:
        if self.hook is None or not taken_by.any():
            return
        images = {}
        for group in groups:
            for pixels, place, (height, width) in zip(
                group.pixels, group.index.tolist(), group.sizes.tolist(), strict=True
            ):
                if taken_by[place]:
                    images[place] = pixels[:, :height, :width]
        self.hook(step, dict(sorted(images.items())))


def _canvases(sizes: Tensor, device: torch.device) -> Tensor:
    """(N, 2): the sides of each image, rounded up."""
    step = _CANVAS_STEP_PX.get(device.type, _GPU_CANVAS_STEP_PX)
    return (sizes + step - 1) // step * step


def _joined(parts: list[_Group]) -> _Group:
    if len(parts) == 1:
        return parts[0]
    return replace(
        parts[0],
        index=torch.cat([part.index for part in parts]),
        pixels=torch.cat([part.pixels for part in parts]),
        sizes=torch.cat([part.sizes for part in parts]),
    )


def _on_canvas(field: Tensor, height: int, width: int) -> Tensor:
    """`field` (N, C, h, w) with zeros to the right and below, or cut off there."""
    return torch.nn.functional.pad(field, (0, width - field.shape[3], 0, height - field.shape[2]))


def check_pictures(hr: Tensor, count: int, height: int, width: int) -> None:
    """Raises ValueError unless `hr` is (count, 3, height, width) float32 in [0, 1]."""
    if hr.dtype != torch.float32 or hr.ndim != 4 or hr.shape[1] != 3 or len(hr) == 0:
        raise ValueError(f"hr: {hr.dtype} {tuple(hr.shape)}; give float32 (N, 3, height, width), not empty")
    expected = (count, 3, height, width)
    if hr.shape != expected:
        raise ValueError(f"hr: {tuple(hr.shape)}; the draws are for {expected}")
    if hr.device.type == "cpu":  # on another device looking at values would wait for it
        low, high = hr.aminmax()
        if not (low >= 0 and high <= 1):
            raise ValueError(f"hr: values from {low.item():g} to {high.item():g}; they must lie in [0, 1]")


@contextmanager
def plain_arithmetic(device: torch.device) -> Iterator[None]:
    """Full float32 products, no autocast, and no autotuning, which sizes that change all the time would restart."""
    cudnn = torch.backends.cudnn
    before = torch.get_float32_matmul_precision(), cudnn.allow_tf32, cudnn.benchmark
    torch.set_float32_matmul_precision("highest")
    cudnn.allow_tf32 = cudnn.benchmark = False
    try:
        with torch.autocast(device.type, enabled=False) if _has_autocast(device) else nullcontext():
            yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        cudnn.allow_tf32, cudnn.benchmark = before[1:]


def _has_autocast(device: torch.device) -> bool:
    return torch.amp.is_autocast_available(device.type)


def paired_crop(lq: Tensor, gt: Tensor, draws: Cropped) -> tuple[Tensor, Tensor]:
    """Each image's crop at its drawn place: (N, 3, p/scale, p/scale) of `lq` and (N, 3, p, p) of `gt`, p = crop_px.

    Raises: ValueError where the draws are without a crop.
    Source: training specification, section 5, step 10.
    """
    if draws.crop_px is None:
        raise ValueError("draws: crop_px is None; draw with a crop")
    side = draws.crop_px // draws.scale
    return _cropped(lq, draws.crop, side), _cropped(gt, draws.crop * draws.scale, draws.crop_px)


def _cropped(pixels: Tensor, corners: Tensor, side: int) -> Tensor:
    span = torch.arange(side)
    rows, columns = (_moved(corners[:, axis, None] + span, pixels) for axis in (0, 1))
    images = torch.arange(len(pixels), device=pixels.device)[:, None, None, None]
    channels = torch.arange(pixels.shape[1], device=pixels.device)[None, :, None, None]
    return pixels[images, channels, rows[:, None, :, None], columns[:, None, None, :]]


def fit_crop(picture: Tensor, side_px: int) -> Tensor:
    """(..., H, W) with both sides at least `side_px`: reflected at the right and bottom, as often as it takes.

    Raises: ValueError for an empty picture.
    Source: training specification, section 2, step 4.
    """
    if 0 in picture.shape[-2:]:
        raise ValueError(f"picture: {tuple(picture.shape)} is empty")
    for axis in (-2, -1):
        length = picture.shape[axis]
        if length < side_px:
            index = reflected(torch.tensor([length]), side_px, 0)[0]
            picture = picture.index_select(axis, _moved(index, picture))
    return picture
