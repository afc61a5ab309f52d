"""What is measured of a picture: the metrics that a user may name, the networks that they need, and the numbers.

Traps: PSNR and SSIM are taken without a border of `border_px` pixels, NIQE and LPIPS of the whole picture, as published
numbers are. PSNR is at most 100 dB, so that one equal pair does not make a mean infinite.
"""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from realesr_cli import weights
from realesr_cli.errors import CorruptWeights, ModelError, UsageError
from realesr_cli.models.reading import read_weights
from realesr_cli.reporting import Reporter
from realesr_train.eval_set import Pixels
from realesr_train.features import FeatureNetwork
from realesr_train.metrics import lpips
from realesr_train.metrics.niqe import niqe
from realesr_train.metrics.psnr_ssim import psnr, ssim
from realesr_train.validation import to_tensor

Values = dict[str, float]
"""Numbers of one result, by the keys of `COLUMNS`."""

COLUMNS: dict[str, tuple[str, int]] = {
    "psnr_y_db": ("PSNR-Y", 2),
    "psnr_rgb_db": ("PSNR-RGB", 2),
    "ssim_y": ("SSIM-Y", 4),
    "ssim_rgb": ("SSIM-RGB", 4),
    "niqe": ("NIQE", 2),
    "lpips_alex": ("LPIPS-alex", 4),
    "lpips_vgg": ("LPIPS-vgg", 4),
    "lpips_squeeze": ("LPIPS-squeeze", 4),
    "shift_levels": ("Shift", 2),
}
"""Key of a number -> its title and decimals."""

METRICS: dict[str, tuple[str, ...]] = {
    "psnr": ("psnr_y_db", "psnr_rgb_db"),
    "ssim": ("ssim_y", "ssim_rgb"),
    "niqe": ("niqe",),
    "lpips": ("lpips_squeeze",),
    "lpips-alex": ("lpips_alex",),
    "lpips-vgg": ("lpips_vgg",),
    "lpips-squeeze": ("lpips_squeeze",),
    "shift": ("shift_levels",),
}
"""Name of a metric -> its keys. Plain lpips is that of SqueezeNet, a download of 5 MB (alex: 244, vgg: 553)."""

_WITHOUT_REFERENCE = ("niqe", "shift")

_PSNR_CAP_DB = 100.0
_SSIM_PX = 11
_BACKBONES: dict[lpips.Backbone, str] = {"alex": "alexnet", "vgg": "vgg16", "squeeze": "squeezenet1.1"}
"""Names of the catalogue."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Metrics:
    """What is measured of each result."""

    names: tuple[str, ...]
    """Of `METRICS`."""
    border_px: int
    networks: Mapping[lpips.Backbone, lpips.Lpips] = field(default_factory=dict)

    @property
    def keys(self) -> tuple[str, ...]:
        wanted = {key for name in self.names for key in METRICS[name]}
        return tuple(key for key in COLUMNS if key in wanted)

    @property
    def smallest_px(self) -> int:
        """Least side of a result that everything can be measured of, but NIQE."""
        least = [1 + 2 * self.border_px] + [lpips.SMALLEST_PX[backbone] for backbone in self.networks]
        return max([*least, _SSIM_PX + 2 * self.border_px] if "ssim" in self.names else least)


def check_names(names: Sequence[str], *, has_reference: bool) -> None:
    """Raises: UsageError (an unknown metric, none, or one that needs clean pictures)."""
    for name in names:
        if name not in METRICS:
            raise UsageError(f"--metrics: {name!r} is not known", hint=f"give some of {', '.join(METRICS)}")
        if name not in _WITHOUT_REFERENCE and not has_reference:
            raise UsageError(
                f"--metrics: {name} compares with clean pictures, and there are none",
                hint="--hr DIR names them; --degradation bicubic takes those of --data as clean ones; "
                "niqe and shift need none",
            )
    if not names:
        raise UsageError("--metrics names nothing", hint=f"give some of {', '.join(METRICS)}")


def open_lpips(
    names: Sequence[str], files: Sequence[str], *, device: torch.device, offline: bool, reporter: Reporter
) -> dict[lpips.Backbone, lpips.Lpips]:
    """The LPIPS networks that the metrics' `names` ask for, on `device`.

    `files` are weights of backbones, as files or names of the cache, in any order; what they are, their tensors say.
    The others come from the catalogue.

    Raises: UsageError (a file for none of these metrics), ModelError naming the choices.
    """
    backbones = [backbone for backbone in _BACKBONES if any(f"lpips_{backbone}" in METRICS[name] for name in names)]
    given = {}
    for file in files:
        tensors = read_weights(weights.resolve(file, offline=offline, reporter=reporter)).tensors
        backbone = _backbone_of(tensors)
        if backbone is None:
            raise CorruptWeights(
                f"--lpips-weights {file} is none of AlexNet, VGG16 and SqueezeNet 1.1", hint="give torchvision's files"
            )
        if backbone not in backbones:
            raise UsageError(f"--lpips-weights {file} is for lpips-{backbone}", hint=f"--metrics lpips-{backbone}")
        given[backbone] = (tensors, file)
    networks = {}
    for backbone in backbones:
        if backbone not in given:
            name = _BACKBONES[backbone]
            try:
                path = weights.resolve(name, offline=offline, reporter=reporter)
            except ModelError as error:
                raise type(error)(
                    f"lpips-{backbone} needs {name}: {error.message}",
                    hint="--lpips-weights FILE names torchvision's file, or any with the same convolutions; "
                    "or another of --metrics lpips-squeeze (5 MB), lpips-alex (244 MB), lpips-vgg (553 MB)",
                ) from error
            given[backbone] = (read_weights(path).tensors, name)
        tensors, source = given[backbone]
        features = FeatureNetwork(lpips.BACKBONES[backbone], tensors, lpips.LAYERS[backbone], source=source)
        heads = read_weights(lpips.heads(backbone)).tensors
        networks[backbone] = lpips.Lpips(features, heads).to(device)
    return networks


def _backbone_of(tensors: Mapping[str, torch.Tensor]) -> lpips.Backbone | None:
    first = tensors.get("features.0.weight")
    if first is None or first.ndim != 4:
        return None
    if "features.3.squeeze.weight" in tensors:
        return "squeeze"
    if first.shape[2] == 11:
        return "alex"
    return "vgg" if "features.17.weight" in tensors else None  # VGG19 has its ninth convolution at 19


def measurer(metrics: Metrics, low: Pixels, clean: Pixels | None) -> Callable[[Pixels], Values]:
    """Measures results of the picture `low` beside one clean picture, whose LPIPS features are made once."""
    border = metrics.border_px
    wanted = {}
    if clean is not None:
        with torch.no_grad():
            wanted = {name: network.features(_placed(clean, network)) for name, network in metrics.networks.items()}

    def measure(result: Pixels) -> Values:
        values: Values = {}
        if clean is not None and "psnr" in metrics.names:
            values["psnr_y_db"] = min(psnr(result, clean, border=border, luma=True), _PSNR_CAP_DB)
            values["psnr_rgb_db"] = min(psnr(result, clean, border=border), _PSNR_CAP_DB)
        if clean is not None and "ssim" in metrics.names:
            values["ssim_y"] = ssim(result, clean, border=border, luma=True)
            values["ssim_rgb"] = ssim(result, clean, border=border)
        if "niqe" in metrics.names:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)  # NaN says it, and is reported once a picture
                values["niqe"] = niqe(result)
        if "shift" in metrics.names:
            values["shift_levels"] = colour_shift(result, low)
        with torch.no_grad():
            for name, reference in wanted.items():
                network = metrics.networks[name]
                values[f"lpips_{name}"] = network.distance(network.features(_placed(result, network)), reference).item()
        return values

    return measure


def colour_shift(result: Pixels, low: Pixels) -> float:
    """How far the mean of a channel has moved from that of the input, in levels of 255: the mean of the channels.

    Both (h, w, 3) uint8, of any sizes.
    """
    return float(np.abs(result.mean((0, 1)) - low.mean((0, 1))).mean())


def _placed(pixels: Pixels, network: lpips.Lpips) -> torch.Tensor:
    return to_tensor(pixels).to(network.get_buffer("head0").device)


def plain(values: Mapping[str, float]) -> dict[str, float | None]:
    """The numbers as JSON knows them: None in the place of NaN."""
    return {key: None if math.isnan(value) else value for key, value in values.items()}
