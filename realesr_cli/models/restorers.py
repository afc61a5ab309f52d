"""From a weights file to a network that restores faces: GFPGAN, and others through the optional package spandrel.

A restorer is a `LoadedModel` that takes aligned faces of one size; it enlarges nothing and is no choice for `-m`.
"""

import dataclasses
from pathlib import Path
from typing import Any, cast

from torch import Tensor, nn

from realesr_cli import catalog, weights
from realesr_cli.errors import ModelNotFound, UnknownArchitecture, UsageError
from realesr_cli.models.architectures import Architecture, LoadedModel, build_known, count_layers, find_in_spandrel
from realesr_cli.models.gfpgan import GFPGANv1Clean
from realesr_cli.models.reading import RawWeights, read_weights
from realesr_cli.reporting import NULL, Reporter

_COMMUNITY_SIDE_PX = 512
# architectures of spandrel whose published weights may not be used commercially
_NON_COMMERCIAL = ("CodeFormer",)


def load_restorer(
    name_or_path: str | Path, *, offline: bool = False, accept_licence: bool = False, reporter: Reporter = NULL
) -> LoadedModel:
    """The face restorer of a catalogue name (fetched if it is not in the cache) or of a weights file.

    `accept_licence` is needed for weights that may not be used commercially; without it nothing is fetched.

    Raises: UsageError (licence not accepted, or another kind of network), ModelNotFound, DownloadFailed,
    ChecksumMismatch, CorruptWeights, UnknownArchitecture.
    """
    entry = None if weights.is_file(name_or_path) else _catalogued(str(name_or_path))
    if entry is not None and entry.kind != "face-restorer":
        raise UsageError(
            f"{entry.name} does not restore faces", hint="`realesr models list --all` shows what does: gfpgan-1.4, ..."
        )
    if entry is not None and entry.non_commercial and not accept_licence:
        raise _licence_not_accepted(entry.name, entry.licence)
    raw = read_weights(weights.resolve(name_or_path, offline=offline, reporter=reporter))
    if entry is None:  # a published file by its path is what it is
        entry = next((known for known in catalog.CATALOG if known.sha256 == raw.sha256), None)
    name = raw.path.stem if entry is None else entry.name
    if entry is not None:
        raw = dataclasses.replace(raw, metadata={**raw.metadata, "licence": entry.licence})
    model = build_known(raw, name, RESTORERS, reporter) or _community_restorer(raw, name)
    if model.architecture in _NON_COMMERCIAL and not accept_licence:
        raise _licence_not_accepted(name, model.metadata.get("licence", "none in the file, but that of its authors"))
    return model


def _licence_not_accepted(name: str, licence: str) -> UsageError:
    return UsageError(
        f"{name} may not be used commercially; its licence: {licence}",
        hint="--accept-license says that you have read it and keep to it",
    )


def _catalogued(name: str) -> catalog.CatalogEntry | None:
    try:
        return catalog.find(name)
    except ModelNotFound:
        return None


def _build_gfpgan(raw: RawWeights, reporter: Reporter) -> dict[str, Any]:
    tensors = raw.tensors
    decoder = "stylegan_decoder"
    levels = count_layers(tensors, r"conv_body_down\.(\d+)\.")
    mapping = count_layers(tensors, rf"{decoder}\.style_mlp\.(\d+)\.", first=1, step=2)
    style = tensors[f"{decoder}.style_convs.0.modulated_conv.modulation.weight"].shape[1]
    ups = [tensors[f"conv_body_up.{level}.conv2.weight"].shape[0] for level in range(levels)]
    convolutions = [tensors[f"{decoder}.style_convs.{2 * level}.bias"].shape[1] for level in range(levels)]
    different_styles = tensors["final_linear.weight"].shape[0] != style
    side = 4 * 2**levels
    return {
        "network": GFPGANv1Clean(
            encoder=(tensors["final_conv.weight"].shape[0], *ups),
            decoder=(tensors[f"{decoder}.constant_input.weight"].shape[1], *convolutions),
            style=style,
            different_styles=different_styles,
            mapping=mapping,
            # no shape tells; the published files have both, and one vector for all layers is what a mapping gives
            input_is_latent=different_styles,
            modulated=[tensors[f"condition_scale.{level}.2.weight"].shape[0] for level in range(levels)],
        ),
        "scale": 1,
        "channels_in": 3,
        "channels_out": 3,
        "side_px": side,
        "supports_low_precision": True,
        "values_per_px": 8 * convolutions[-1],
    }


class _Restorer(nn.Module):
    """A face network of spandrel: RGB in [0, 1] -> the same, restored.

    Its networks want [-1, 1] and return several things; the package's own call does not see to that for all of them.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        result = self.model(2 * x - 1)
        return cast(Tensor, (result if isinstance(result, Tensor) else result[0]) + 1) / 2


def _community_restorer(raw: RawWeights, name: str) -> LoadedModel:
    """CodeFormer, RestoreFormer and what else spandrel knows of this kind. Raises: UnknownArchitecture."""
    try:
        import spandrel_extra_arches  # what is not free for every use: CodeFormer
    except ImportError:
        pass
    else:
        spandrel_extra_arches.install(ignore_duplicates=True)
    found = find_in_spandrel(raw)
    if found.purpose != "FaceSR":
        raise UnknownArchitecture(
            f"{raw.path} is {found.architecture.name}, which does not restore faces",
            hint="networks that enlarge pictures are chosen with -m",
            path=raw.path,
        )
    return LoadedModel(
        network=_Restorer(found.model).eval().requires_grad_(False),
        name=name,
        architecture=found.architecture.name,
        scale=1,
        channels_in=3,
        channels_out=3,
        side_px=_COMMUNITY_SIDE_PX,
        sha256=raw.sha256,
        metadata=raw.metadata,
    )


RESTORERS: tuple[Architecture, ...] = (
    Architecture(
        name="GFPGANv1Clean",
        matches=lambda tensors: (
            "final_linear.weight" in tensors
            and "conv_body_down.0.conv1.weight" in tensors
            and "stylegan_decoder.constant_input.weight" in tensors
        ),
        build=_build_gfpgan,
    ),
)
