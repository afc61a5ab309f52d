"""A model, and what restores faces, loaded once and made ready on devices: in this process or in one of a cluster."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from realesr_cli.options import DeviceOptions, FaceOptions, TileOptions
from realesr_cli.reporting import Reporter

if TYPE_CHECKING:
    from realesr_cli.faces.enhance import FaceEnhancer
    from realesr_cli.models.architectures import LoadedModel
    from realesr_cli.upscaler import Upscaler


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelOptions:
    """Which networks are taken, and how pictures go through them; paths of weights are as the user wrote them."""

    model: str
    denoise: float | None = None
    other: str | None = None
    """Another training of the same network, blended in."""
    share: float = 0.5
    """Of `other`."""
    tile: TileOptions = field(default_factory=TileOptions)
    faces: FaceOptions | None = None
    offline: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Loaded:
    """The networks of a run, on no device yet."""

    model: "LoadedModel"
    restorer: "LoadedModel | None" = None
    detector: Path | None = None

    @property
    def sha256s(self) -> tuple[str, ...]:
        """Of all weights that change pixels."""
        return tuple(network.sha256 for network in (self.model, self.restorer) if network is not None)


def load(options: ModelOptions, reporter: Reporter) -> Loaded:
    """The networks, fetched where the cache has no copy. Raises: ModelError and its kinds, UsageError."""
    from realesr_cli.faces.enhance import load_parts
    from realesr_cli.models.architectures import load_model

    restorer = detector = None
    # what is large or under a licence first: if it cannot be had, nothing is done
    if options.faces is not None:
        restorer, detector = load_parts(options.faces, offline=options.offline, reporter=reporter)
    model = load_model(
        options.model,
        strength=options.denoise,
        other=options.other,
        share=options.share,
        offline=options.offline,
        reporter=reporter,
    )
    return Loaded(model=model, restorer=restorer, detector=detector)


def make_ready(
    loaded: Loaded, options: ModelOptions, device: DeviceOptions, reporter: Reporter
) -> "tuple[Upscaler, FaceEnhancer | None]":
    """What enlarges on the device, to be closed in the end, and what restores faces there if they are to be.

    Raises: DeviceUnavailable, UnsupportedInput.
    """
    from realesr_cli.faces.detect import FaceDetector
    from realesr_cli.faces.enhance import FaceEnhancer
    from realesr_cli.upscaler import Upscaler

    upscaler = Upscaler(loaded.model, device=device, tile=options.tile, reporter=reporter)
    if options.faces is None or loaded.restorer is None or loaded.detector is None:
        return upscaler, None
    detector = FaceDetector(loaded.detector, options.faces)
    # faces that are too small for the result go through the picture's own network
    return upscaler, FaceEnhancer(
        loaded.restorer, detector, options=options.faces, device=device, enlarge=upscaler, reporter=reporter
    )
