"""`realesr compare`: pictures under a divider, in one page for a browser."""

import os
from pathlib import Path
from typing import Annotated, cast

import typer

from realesr_cli.cli import flags
from realesr_cli.cli.run import running
from realesr_cli.errors import UsageError
from realesr_cli.options import (
    MAX_PIXELS,
    DeviceOptions,
    InputOptions,
    Precision,
    SizeOptions,
    TileOptions,
    parse_crop,
)


def compare(
    inputs: Annotated[
        list[Path], typer.Argument(help="Pictures to compare; with --models one picture to enlarge.", metavar="INPUT")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="The page, a file NAME.html.")] = Path("compare.html"),
    models: Annotated[
        list[str] | None,
        typer.Option("--models", help="Compare models: names or weights files, A,B,...", metavar="NAME|FILE,..."),
    ] = None,
    reference: Annotated[
        Path | None,
        typer.Option("--reference", help="The true picture, for PSNR and SSIM; default: the first, of models none."),
    ] = None,
    scale: Annotated[
        float | None,
        typer.Option("-s", "--scale", help="Enlargement, with --models; default: the largest of the models' own."),
    ] = None,
    crop: Annotated[
        str | None,
        typer.Option("--crop", help="Show a part of the (largest) picture: WxH of its middle, or WxH+LEFT+TOP."),
    ] = None,
    quality: Annotated[
        int | None, typer.Option("--quality", help="1 to 100: a smaller page with lossy pictures; default: lossless.")
    ] = None,
    device: flags.Device = "auto",
    precision: flags.Precision = "auto",
    threads: flags.Threads = None,
    tile: flags.Tile = None,
    max_pixels: Annotated[
        int, typer.Option("--max-pixels", help="Refuse pictures that claim to have more pixels.")
    ] = MAX_PIXELS,
    overwrite: flags.Overwrite = False,
    offline: flags.Offline = False,
    json: flags.Json = False,
    quiet: flags.Quiet = False,
    verbose: flags.Verbose = False,
) -> None:
    """Compare pictures, or models on one picture: a page with a divider to drag, zoom, loupe, PSNR and SSIM.

    Pictures of different size are enlarged to the largest by bicubic interpolation.
    """
    with running("compare", json=json, quiet=quiet, verbose=verbose, models=models, device=device) as run:
        size = SizeOptions(scale=scale)
        device_options = DeviceOptions(device=device, precision=cast(Precision, precision), threads=threads)
        tile_options = TileOptions(size=tile)
        accept = InputOptions(max_pixels=max_pixels)
        part = None if crop is None else parse_crop(crop)
        names = [name for text in models or () for name in _split(text)]
        if names and len(inputs) > 1:
            raise UsageError(f"--models takes one picture, not {len(inputs)}", hint="--reference names the true one")
        if scale is not None and not names:
            raise UsageError("--scale is for --models", hint="pictures are brought to the size of the largest")

        from realesr_cli import comparison

        page = comparison.PageOptions(
            target=output, overwrite=overwrite, reference=reference, crop=part, quality=quality
        )
        if names:
            comparison.compare_models(
                inputs[0],
                names,
                page,
                accept,
                size=size,
                device=device_options,
                tile=tile_options,
                offline=offline,
                reporter=run.reporter,
            )
        else:
            comparison.compare_pictures(inputs, page, accept, run.reporter)
        run.summary["done"] = 1


def _split(text: str) -> list[str]:
    """The models of `a,b`; a file may have commas in its name."""
    return [text] if os.path.isfile(text) else [name for part in text.split(",") if (name := part.strip())]  # noqa: PTH113
