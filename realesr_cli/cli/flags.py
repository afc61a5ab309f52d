"""Options that several commands share: the same name, letter and meaning everywhere."""

from pathlib import Path
from typing import Annotated

import typer

Model = Annotated[
    str,
    typer.Option(
        "-m",
        "--model",
        help="Name from `realesr models list`, a weights file, or auto: the best at hand.",
        metavar="NAME|FILE",
    ),
]
Output = Annotated[
    Path | None,
    typer.Option(
        "-o",
        "--output",
        help="File, - for stdout, or folder (several inputs, or no suffix); default: beside the input.",
    ),
]
Scale = Annotated[
    float | None, typer.Option("-s", "--scale", help="Enlargement from 0.01 to 64, e.g. 2.5; default: the model's own.")
]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:N, mps or xpu.")]
Precision = Annotated[
    str, typer.Option("--precision", help="auto (the fastest that is safe here), fp32, fp16 or bf16.")
]
Threads = Annotated[int | None, typer.Option("--threads", help="CPU threads; default: one for each core.")]
Blend = Annotated[
    str | None,
    typer.Option("--blend", help="Another training of the network and its share, FILE:0.8.", metavar="NAME:SHARE"),
]
KeepColours = Annotated[
    bool,
    typer.Option("--keep-colours", help="Give the result the picture's own local colours back; for clean pictures."),
]
Tile = Annotated[
    int | None,
    typer.Option(
        "--tile",
        help="Side of a tile in input pixels, from 16: small needs less memory and more time; default: as fits.",
    ),
]
FaceEnhance = Annotated[bool, typer.Option("--face-enhance", help="Restore faces with a network of their own.")]
FaceStrength = Annotated[
    float | None,
    typer.Option("--face-strength", help="0, the upscaled face, to 1, the restored one; default: 1."),
]
FaceModel = Annotated[
    str | None,
    typer.Option(
        "--face-model",
        help="gfpgan-1.2, gfpgan-1.3, gfpgan-1.4 (the default), codeformer, or a weights file.",
        metavar="NAME|FILE",
    ),
]
OnlyCenterFace = Annotated[bool, typer.Option("--only-center-face", help="Only the face nearest to the middle.")]
FaceMinSize = Annotated[
    int | None, typer.Option("--face-min-size", help="Smallest face, in pixels of the input; default: 16.")
]
FaceThreshold = Annotated[
    float | None, typer.Option("--face-threshold", help="Least confidence of the detector, 0 to 1; default: 0.7.")
]
SaveFaces = Annotated[
    Path | None, typer.Option("--save-faces", help="Keep each face, before | after, in this folder.", metavar="DIR")
]
AcceptLicense = Annotated[bool, typer.Option("--accept-license", help="Use weights that may not be used commercially.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace results that exist. Inputs are never replaced.")]
SkipExisting = Annotated[
    bool, typer.Option("--skip-existing", help="Leave inputs alone whose result is already there.")
]
FailFast = Annotated[bool, typer.Option("--fail-fast", help="Stop at the first file that fails.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")]
Offline = Annotated[bool, typer.Option("--offline", help="Never use the network.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object for each event on stdout (docs/architecture.md).")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Only warnings and errors.")]
Verbose = Annotated[bool, typer.Option("-v", "--verbose", help="Say more, and show the traceback of a bug.")]
Width = Annotated[int | None, typer.Option("--width", help="Width of the result; the height follows.")]
Height = Annotated[int | None, typer.Option("--height", help="Height of the result; the width follows.")]
Fit = Annotated[str | None, typer.Option("--fit", help="Largest result that fits into this box.", metavar="WxH")]
Denoise = Annotated[
    float | None, typer.Option("--denoise", help="From 0, keep grain, to 1, remove it; with realesr-general-x4v3.")
]
Tta = Annotated[bool, typer.Option("--tta", help="Mean over 8 turned and mirrored runs: a bit better, 8 times slower.")]
Format = Annotated[
    str | None, typer.Option("--format", help="png, jpg, webp, tif, avif, gif, ...; default: as the input.")
]
Quality = Annotated[int | None, typer.Option("--quality", help="1 to 100, for formats that lose detail; default: 95.")]
Lossless = Annotated[bool, typer.Option("--lossless", help="WebP, AVIF and JPEG 2000 without loss.")]
Strip = Annotated[
    bool,
    typer.Option("--strip", help="Leave out EXIF, XMP, resolution, texts; not the profile: colours would change."),
]
Background = Annotated[
    str | None,
    typer.Option("--background", help="Lay transparent pictures on white, black or #rrggbb.", metavar="COLOUR"),
]
Alpha = Annotated[str, typer.Option("--alpha-mode", help="Alpha through the network (model) or bicubic (resize).")]
MaxPixels = Annotated[int, typer.Option("--max-pixels", help="Refuse pictures that claim to have more pixels.")]
Cluster = Annotated[
    str | None,
    typer.Option(
        "--cluster",
        help="Work on a Ray cluster: auto (RAY_ADDRESS, or what runs here), local (one for this run), or HOST:PORT. "
        "All paths, also of weights, must be on a file system that its machines share.",
        metavar="auto|local|ADDRESS",
    ),
]
