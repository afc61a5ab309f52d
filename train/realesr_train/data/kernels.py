"""The blur kernels of photos, found in the photos alone: `realesr data kernels`.

`spectrum` fits a Gaussian to each photo's spectrum. `gan` goes on from there with KernelGAN, all photos of a batch in
one network: kernels of any form, at a hundred times the price. Both find the kernel G that makes the photo's half look
like the photo, whose covariance is 3/4 of that of the blur K which the photo itself has; what is written is K.
`published` is KernelGAN with its own start and schedule, which often loses the orientation, and writes G.
"""

import io
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from realesr_cli.atomic import replacing
from realesr_cli.errors import DiskFull, OutputExists, RealesrError, UnsupportedInput
from realesr_cli.image_io import Image, write_image
from realesr_cli.reporting import Reporter, progress
from realesr_train.data.degrade import Done, Fail, Job, make_folder, read_rgb
from realesr_train.data.measured import SHEET
from realesr_train.kernel_forms import KERNEL_PX, centre_of_mass, centred, clean, covariance, gaussian, twice, widened
from realesr_train.kernelgan import learn
from realesr_train.spectrum import fit_blur

Method = Literal["spectrum", "gan", "published"]
ITERATIONS = {"spectrum": 1, "gan": 300, "published": 3000}
RECORD = "kernels.jsonl"
_BORDER_PX = 10
_SIDE_PX = 21
_LEAST_PX = 100
_WIDER = 4 / 3
"""From the covariance of G to that of K."""
_LEAST_VARIANCE = 0.1
_TILE_PX, _MARGIN_PX, _TEXT_PX = 120, 3, 13


@dataclass(frozen=True, kw_only=True, slots=True)
class Blur:
    """A kernel (k, k) for scale 2, and its variances along its axes, in pixels squared.

    The angle is that of the longer axis, degrees from x (right) towards y (down), 0 to 180.
    """

    kernel: Tensor
    variances: tuple[float, float]
    angle_deg: float
    centre: tuple[float, float]


def estimate_files(
    jobs: Sequence[Job],
    output: Path,
    *,
    scale: int,
    method: Method,
    iterations: int | None,
    batch: int,
    device: torch.device,
    seed: int,
    overwrite: bool,
    reporter: Reporter,
    done: Done,
    fail: Fail,
) -> None:
    """Writes a kernel for `scale` (2 or 4) as NAME.npz for each job, `kernels.jsonl` and the picture `sheet.png`.

    The pictures are only read. Those of a batch are in memory together.

    Raises: DiskFull, OutputError.
    """
    found: list[tuple[str, Blur]] = []
    iterations = 1 if method == "spectrum" else iterations or ITERATIONS[method]
    steps = len(jobs) * iterations
    with progress(reporter, steps, "steps") as advance:
        for start in range(0, len(jobs), batch):
            pictures: dict[int, Tensor] = {}
            begun = time.monotonic()
            for job in jobs[start : start + batch]:
                try:
                    target = job.target
                    if target.exists() and not overwrite:
                        hint = "--overwrite replaces it, --skip-existing leaves it alone"
                        raise OutputExists(f"{target} is already there", hint=hint)
                    pictures[job.id] = _read(job.source, reporter)
                except RealesrError as error:
                    fail(job.id, job.source, error)
            group = [job for job in jobs[start : start + batch] if job.id in pictures]
            estimated = _estimate(group, pictures, method, iterations, device, seed, advance, fail)
            seconds = (time.monotonic() - begun) / max(1, len(group))
            for job in group:
                if job.id not in estimated:
                    continue
                blur, name = estimated[job.id], job.target.relative_to(output).as_posix()
                try:
                    _write(job.target, blur, scale, overwrite=overwrite)
                except DiskFull:
                    raise
                except RealesrError as error:
                    fail(job.id, job.source, error)
                    continue
                found.append((name, blur))
                _report(reporter, job, blur, scale, seconds)
                done()
    if found:
        with replacing(output / RECORD) as temporary:
            lines = (
                json.dumps({"kernel": name, "method": method, "scale": scale, **_facts(blur)}) for name, blur in found
            )
            temporary.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        write_image(output / SHEET, Image(pixels=draw_sheet(found)), overwrite=True, reporter=reporter)


def estimate(
    pictures: Sequence[Tensor],
    *,
    method: Method = "spectrum",
    iterations: int | None = None,
    seed: int = 0,
    device: torch.device | None = None,
    advance: Callable[[int], None] = lambda done: None,
) -> list[Blur]:
    """The blur of each picture, (3, H, W) in [0, 1], for scale 2. The pictures are left as they are.

    Raises: UnsupportedInput (too small, or of one colour).
    """
    covariances = [fit_blur(255 * picture.mean(0))[0] for picture in pictures]
    iterations = iterations or ITERATIONS[method]
    return _blurs(pictures, covariances, method, iterations, seed, device or torch.device("cpu"), advance)


def _blurs(
    pictures: Sequence[Tensor],
    covariances: Sequence[Tensor],
    method: Method,
    iterations: int,
    seed: int,
    device: torch.device,
    advance: Callable[[int], None],
) -> list[Blur]:
    if method == "spectrum":
        advance(1)
        return [blur_of(gaussian(_floored(_WIDER * one), _SIDE_PX)) for one in covariances]
    start = torch.stack([gaussian(_floored(one), KERNEL_PX) for one in covariances]) if method == "gan" else None
    kernels = learn(
        [(2 * picture - 1).to(device) for picture in pictures],
        start,
        iterations=iterations,
        device=device,
        seed=seed,
        advance=advance,
    )
    found = [centred(clean(kernel)) for kernel in kernels]
    return [blur_of(widened(one, _WIDER, _SIDE_PX) if method == "gan" else one) for one in found]


def blur_of(kernel: Tensor) -> Blur:
    """What a kernel (k, k) of scale 2 is."""
    row, column = centre_of_mass(kernel.double())
    values, vectors = torch.linalg.eigh(covariance(kernel))
    angle = float(torch.rad2deg(torch.atan2(vectors[1, 1], vectors[0, 1]))) % 180
    return Blur(
        kernel=kernel.float(), variances=(float(values[1]), float(values[0])), angle_deg=angle, centre=(row, column)
    )


def for_scale(kernel: Tensor, scale: int) -> Tensor:
    """The kernel of scale 2 as it is, or that of scale 4 made of it."""
    return kernel if scale == 2 else twice(kernel.double()).float()


def draw_sheet(found: Sequence[tuple[str, Blur]]) -> NDArray[np.uint8]:
    """(H, W, 3): the middle of every kernel with its name, the standard deviations of its axes and its angle."""
    tiles = []
    for name, blur in found:
        inner = blur.kernel[_MARGIN_PX:-_MARGIN_PX, _MARGIN_PX:-_MARGIN_PX]
        values = (inner / inner.max()).numpy()
        shown = cv2.resize((255 * values).astype(np.uint8), (_TILE_PX, _TILE_PX), interpolation=cv2.INTER_NEAREST)
        long, short = (value**0.5 for value in blur.variances)
        tiles.append(
            labelled(
                np.dstack([shown] * 3), [Path(name).stem, f"{long:.1f} x {short:.1f} px, {blur.angle_deg:.0f} deg"]
            )
        )
    return grid_of(tiles)


def labelled(tile: NDArray[np.uint8], lines: Sequence[str]) -> NDArray[np.uint8]:
    """The tile with short lines below it, black on white, and a margin."""
    height, width = tile.shape[:2]
    strip = np.full((height + (_TEXT_PX + 3) * len(lines) + 10, max(width, 160) + 8, 3), 255, np.uint8)
    strip[4 : 4 + height, 4 : 4 + width] = tile
    for number, line in enumerate(lines, 1):
        cv2.putText(
            strip, line[:24], (4, height + 6 + (_TEXT_PX + 3) * number), (0, 0, 0), cv2.FontFace("sans"), _TEXT_PX
        )
    return strip


def grid_of(tiles: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """The tiles, all of one size, in rows of about the same number as there are rows; at most 12 in a row."""
    columns = min(12, max(1, round(len(tiles) ** 0.5)))
    blank = np.full_like(tiles[0], 255)
    rows = [
        np.concatenate([*tiles[i : i + columns], *[blank] * (columns - len(tiles[i : i + columns]))], 1)
        for i in range(0, len(tiles), columns)
    ]
    return np.concatenate(rows)


def _read(path: Path, reporter: Reporter) -> Tensor:
    pixels = read_rgb(path, reporter)[0]
    pixels = pixels[:, _BORDER_PX:-_BORDER_PX, _BORDER_PX:-_BORDER_PX].contiguous()
    if min(pixels.shape[1:]) < _LEAST_PX:
        raise UnsupportedInput(
            f"{path} is too small to find its blur",
            hint=f"sides of at least {_LEAST_PX + 2 * _BORDER_PX} pixels",
            path=path,
        )
    return pixels


def _estimate(
    group: Sequence[Job],
    pictures: dict[int, Tensor],
    method: Method,
    iterations: int,
    device: torch.device,
    seed: int,
    advance: Callable[[int], None],
    fail: Fail,
) -> dict[int, Blur]:
    """A picture that tells nothing fails alone."""
    usable, covariances = [], []
    for job in group:
        try:
            covariances.append(fit_blur(255 * pictures[job.id].mean(0))[0])
            usable.append(job)
        except RealesrError as error:
            fail(
                job.id, job.source, UnsupportedInput(f"{job.source}: {error.message}", hint=error.hint, path=job.source)
            )
    if not usable:
        return {}
    blurs = _blurs(
        [pictures[job.id] for job in usable],
        covariances,
        method,
        iterations,
        seed,
        device,
        lambda count: advance(count * len(usable)),
    )
    return {job.id: blur for job, blur in zip(usable, blurs, strict=True)}


def _write(path: Path, blur: Blur, scale: int, *, overwrite: bool) -> None:
    """Raises: DiskFull, OutputError."""
    buffer = io.BytesIO()
    np.savez(buffer, kernel=for_scale(blur.kernel, scale).numpy(), scale=np.int64(scale))
    make_folder(path.parent)
    with replacing(path, overwrite=overwrite) as temporary:
        temporary.write_bytes(buffer.getvalue())


def _facts(blur: Blur) -> dict[str, Any]:
    return {
        "variances_px2": [round(value, 3) for value in blur.variances],
        "angle_deg": round(blur.angle_deg, 1),
        "centre_px": [round(value, 3) for value in blur.centre],
        "side_px": len(blur.kernel),
    }


def _report(reporter: Reporter, job: Job, blur: Blur, scale: int, seconds: float) -> None:
    side = len(for_scale(blur.kernel, scale))
    reporter.emit(
        "done",
        id=job.id,
        input=str(job.source),
        output=str(job.target),
        width=side,
        height=side,
        seconds=round(seconds, 3),
        **_facts(blur),
    )


def _floored(matrix: Tensor) -> Tensor:
    """A covariance without an axis so short that its Gaussian falls between the pixels."""
    values, vectors = torch.linalg.eigh(matrix)
    floored: Tensor = vectors @ torch.diag(values.clamp(min=_LEAST_VARIANCE)) @ vectors.T
    return floored
