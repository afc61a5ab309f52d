"""From a weights file to a network: which architectures can be loaded, and how each is recognised.

Every hyper-parameter is read off the tensors' shapes. The few that shapes cannot tell come from the file's metadata,
else from a default that is reported as a warning. Source of keys and rules: docs/architecture.md, "Key spellings".
"""

import dataclasses
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast, get_args

import torch
from torch import Tensor, nn

from realesr_cli import catalog, weights
from realesr_cli.errors import CorruptWeights, ModelNotFound, UnknownArchitecture, UsageError
from realesr_cli.models.compact import WINDOW_PX, Activation, SRVGGNetCompact
from realesr_cli.models.reading import RawWeights, blend, read_weights
from realesr_cli.models.rrdb import FAST_TAIL_PX, TAIL_PX, RRDBNet
from realesr_cli.models.srcnn import SRCNN
from realesr_cli.models.srresnet import MSRResNet, SRResNet
from realesr_cli.reporting import NULL, Reporter

Tensors = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadedModel:
    """A network in evaluation mode, float32 on the CPU, with all that the rest of the program may know of it."""

    network: nn.Module
    name: str
    architecture: str
    scale: int
    channels_in: int
    channels_out: int
    multiple_of: int = 1
    """Height and width of the input must be multiples of it."""
    side_px: int | None = None
    """The one height and width of the input that the network takes; None = any."""
    radius_px: int | None = None
    """How far an output pixel sees, in input pixels; None = not known. With so much context tiling is exact."""
    pad_px: int = 64
    """Context after which seams are invisible in 8 bits (docs/performance.md says how it was measured)."""
    supports_low_precision: bool = False
    values_per_px: int = 700
    """Peak number of activation values held at once, for each input pixel (measured, rounded up)."""
    float32_values_per_px: int | None = None
    """The same where a CPU computes in float32, if that was measured to be another number."""
    holds_result: bool = True
    """Whether a CPU holds the float32 result at the peak; others round it strip by strip, or take more earlier."""
    tail_values_per_px: int = 0
    """What comes on top for the pixels of one window, where layers go over windows of at most so many pixels:"""
    tail_px: int = 0
    fast_tail_px: int = 0
    """... and where the width of maps matters (windows.py)."""
    sha256: str = ""
    """Of the weights file that was read, or of the recipe of a blend."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """What the file says of itself (training, licence, ...); the catalogue's licence for its networks."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Architecture:
    """How to recognise a family of networks by its keys (`matches`), and to build one from its tensors."""

    name: str
    matches: Callable[[Tensors], bool]
    build: Callable[[RawWeights, Reporter], dict[str, Any]]
    """Returns the fields of `LoadedModel` that depend on the architecture; the network may still be on "meta"."""
    rename: Callable[[Tensors], Tensors] = dict
    """Brings other spellings of the keys to the one of the network; called before `matches`."""


def load_model(
    name_or_path: str | Path,
    *,
    strength: float | None = None,
    other: str | Path | None = None,
    share: float = 0.5,
    offline: bool = False,
    reporter: Reporter = NULL,
) -> LoadedModel:
    """The network of a catalogue name (fetched if it is not in the cache) or of a weights file.

    `other` is another training of the same network, of which `share` is blended in: (1 - share) this + share other.

    `strength` in [0, 1] blends a model with its weak-denoise companion (Real-ESRGAN's "denoise strength"): 1 is the
    model itself, 0 the companion, which keeps the grain.

    Raises: ModelNotFound, DownloadFailed, ChecksumMismatch, CorruptWeights, UnknownArchitecture, UsageError.
    """
    if strength is not None and not 0.0 <= strength <= 1.0:
        raise UsageError(f"the denoise strength must lie between 0 and 1, not {strength:g}")
    if strength is not None and other is not None:
        raise UsageError("a denoise strength and a blend exclude each other", hint="choose one of them")
    if not 0.0 <= share <= 1.0:
        raise UsageError(f"the share of a blend must lie between 0 and 1, not {share:g}")
    raw = read_weights(weights.resolve(name_or_path, offline=offline, reporter=reporter))
    entry = _catalogued(name_or_path)
    name = entry.name if entry is not None else _own_name(raw)
    if other is not None:
        second = read_weights(weights.resolve(other, offline=offline, reporter=reporter))
        raw = blend(respelled(raw), respelled(second), 1 - share)
        name = f"{name} + {share:g} {Path(other).stem}"
    if strength is not None and strength != 1.0:
        if entry is None or entry.companion is None:
            raise UsageError(
                f"{name} has no companion for a denoise strength",
                hint="--denoise needs -m realesr-general-x4v3; `realesr models interpolate` blends files of your own",
            )
        companion = read_weights(weights.resolve(entry.companion, offline=offline, reporter=reporter))
        raw = blend(raw, companion, strength)
    if entry is not None:
        raw = dataclasses.replace(raw, metadata={**raw.metadata, "licence": entry.licence})
    return build_model(raw, name, reporter=reporter)


def respelled(raw: RawWeights) -> RawWeights:
    """The same tensors under the key names of the network they are of; unchanged, if nobody knows it."""
    for architecture in ARCHITECTURES:
        try:
            tensors = architecture.rename(raw.tensors)
            if architecture.matches(tensors):
                return dataclasses.replace(raw, tensors=tensors)
        except (LookupError, ValueError):  # a damaged file: building it will say what is wrong
            continue
    return raw


def build_model(raw: RawWeights, name: str, *, reporter: Reporter = NULL) -> LoadedModel:
    """The network whose weights `raw` holds.

    Raises: UnknownArchitecture, CorruptWeights (the keys look right, but tensors are missing or of a wrong shape).
    """
    return build_known(raw, name, ARCHITECTURES, reporter) or _community_model(raw, name)


def build_known(
    raw: RawWeights, name: str, architectures: tuple[Architecture, ...], reporter: Reporter
) -> LoadedModel | None:
    """The network whose weights `raw` holds, if it is of one of these architectures. Raises: CorruptWeights."""
    odd = next((key for key, value in raw.tensors.items() if value.is_complex() or value.layout != torch.strided), None)
    if odd is not None:
        raise CorruptWeights(f"{raw.path} holds a tensor of an unusual kind: {odd}", path=raw.path)
    for architecture in architectures:
        try:
            tensors = architecture.rename(raw.tensors)
            if not architecture.matches(tensors):
                continue
            if any(0 in value.shape for value in tensors.values()):
                raise ValueError("one of them is empty")
            with torch.device("meta"):
                fields = architecture.build(dataclasses.replace(raw, tensors=tensors), reporter)
            # the reference pads pictures for every network of scale 2 and 1 so, needed or not; borders depend on it
            fields["multiple_of"] = math.lcm(fields.get("multiple_of", 1), {1: 4, 2: 2}.get(fields["scale"], 1))
            network: nn.Module = fields["network"]
            network.load_state_dict({key: _loaded(value) for key, value in tensors.items()}, strict=True, assign=True)
            network.eval().requires_grad_(False)
            _try_out(fields)
        except (RuntimeError, LookupError, ValueError, TypeError, ArithmeticError) as error:
            raise CorruptWeights(
                f"{raw.path} looks like {architecture.name}, but its tensors do not fit: {_first_line(error)}",
                hint="the file is damaged or of an unknown variant; fetch it again",
                path=raw.path,
            ) from error
        return LoadedModel(
            name=name, architecture=architecture.name, sha256=raw.sha256, metadata=raw.metadata, **fields
        )
    return None


def _try_out(fields: dict[str, Any]) -> None:
    """Runs the network on a few pixels: what is wrong with it shows now, not after a picture has been read."""
    if not 1 <= fields["scale"] <= 64:
        raise ValueError(f"its scale would be {fields['scale']}")
    side = fields.get("side_px") or 4 * fields["multiple_of"]
    with torch.inference_mode():
        result = fields["network"](torch.zeros(1, fields["channels_in"], side, side))
    expected = (1, fields["channels_out"], side * fields["scale"], side * fields["scale"])
    if tuple(result.shape) != expected:
        raise ValueError(f"its result has the shape {tuple(result.shape)} instead of {expected}")


def _loaded(value: Tensor) -> Tensor:
    return value.float() if value.is_floating_point() else value


def _catalogued(name_or_path: str | Path) -> catalog.CatalogEntry | None:
    if weights.is_file(name_or_path):
        return None
    try:
        return catalog.find(str(name_or_path))
    except ModelNotFound:
        return None


def _own_name(raw: RawWeights) -> str:
    """The name in the file's metadata, if it is one that a file could have; else the file's own."""
    name = raw.metadata.get("name", "")
    return name if re.fullmatch(r"\w[\w.+ -]{0,99}", name) else raw.path.stem


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # torch's load_state_dict puts a headline above the line that says what is wrong
    return lines[1] if len(lines) > 1 else lines[0] if lines else type(error).__name__


# --- RRDBNet ----------------------------------------------------------------------------------------------------------


def _rename_rrdb(tensors: Tensors) -> Tensors:
    """Spellings B (ESRGAN, RealSR, BSRGAN) and C (first ESRGAN release, KAIR) become A (BasicSR)."""
    if "model.0.weight" in tensors and "model.1.sub.0.RDB1.conv1.0.weight" in tensors:
        tensors = _rename_sequential(tensors)
    return {_rename_trunk(key): value for key, value in tensors.items()}


def _rename_sequential(tensors: Tensors) -> Tensors:
    blocks = count_layers(tensors, r"model\.1\.sub\.(\d+)\.RDB")
    ends = sorted({int(m[1]) for key in tensors if (m := re.match(r"model\.(\d+)\.(?:weight|bias)$", key))} - {0})
    *ups, hr, last = ends
    parts = {"0": "conv_first", str(hr): "HRconv", str(last): "conv_last"}
    parts |= {str(index): f"upconv{step}" for step, index in enumerate(ups, 1)}
    renamed = {}
    for key, value in tensors.items():
        if match := re.match(r"model\.1\.sub\.(\d+)\.(RDB[123]\.conv[1-5])(?:\.0)?\.(weight|bias)$", key):
            renamed[f"RRDB_trunk.{match[1]}.{match[2]}.{match[3]}"] = value
        elif match := re.match(rf"model\.1\.sub\.{blocks}\.(weight|bias)$", key):
            renamed[f"trunk_conv.{match[1]}"] = value
        elif (match := re.match(r"model\.(\d+)\.(weight|bias)$", key)) and match[1] in parts:
            renamed[f"{parts[match[1]]}.{match[2]}"] = value
        else:
            renamed[key] = value
    return renamed


def _rename_trunk(key: str) -> str:
    key = re.sub(r"^RRDB_trunk\.(\d+)\.RDB([123])\.", r"body.\1.rdb\2.", key)
    key = re.sub(r"^trunk_conv\.", "conv_body.", key)
    key = re.sub(r"^upconv(\d)\.", r"conv_up\1.", key)
    return re.sub(r"^HRconv\.", "conv_hr.", key)


def _build_rrdb(raw: RawWeights, reporter: Reporter) -> dict[str, Any]:
    tensors = raw.tensors
    width, first_in = tensors["conv_first.weight"].shape[:2]
    channels_out = tensors["conv_last.weight"].shape[0]
    blocks = count_layers(tensors, r"body\.(\d+)\.rdb1\.")
    ups = count_layers(tensors, r"conv_up(\d+)\.", first=1)
    # 4 and 16 times the output's channels can only be 2x2 and 4x4 pixels folded into channels
    unshuffle = {4: 2, 16: 4}.get(first_in // channels_out, 1) if first_in % channels_out == 0 else 1
    trunk_pad = 64 if blocks <= 6 else 96
    radius = 15 * blocks + 4
    return {
        "network": RRDBNet(
            channels_in=first_in // unshuffle**2,
            channels_out=channels_out,
            width=width,
            blocks=blocks,
            growth=tensors["body.0.rdb1.conv1.weight"].shape[0],
            unshuffle=unshuffle,
            up_steps=ups,
        ),
        "scale": 2**ups // unshuffle,
        "channels_in": first_in // unshuffle**2,
        "channels_out": channels_out,
        "multiple_of": unshuffle,
        "radius_px": unshuffle * radius,
        "pad_px": unshuffle * min(radius, trunk_pad),
        "supports_low_precision": True,
        "values_per_px": math.ceil(8 * width / unshuffle**2),
        "float32_values_per_px": math.ceil(7 * width / 2 / unshuffle**2),
        "tail_values_per_px": 3 * width * 4**ups // unshuffle**2,
        "tail_px": TAIL_PX * unshuffle**2,
        "fast_tail_px": FAST_TAIL_PX // 4**ups * unshuffle**2,
        "holds_result": False,
    }


# --- the other families -----------------------------------------------------------------------------------------------


def _build_compact(raw: RawWeights, reporter: Reporter) -> dict[str, Any]:
    tensors = raw.tensors
    width, channels = tensors["body.0.weight"].shape[:2]
    depth = count_layers(tensors, r"body\.(\d*[02468])\.weight$", step=2) - 2
    last = 2 * depth + 2
    scale = math.isqrt(tensors[f"body.{last}.weight"].shape[0] // channels)
    activation = "prelu" if "body.1.weight" in tensors else _metadata(raw, "activation", "relu", reporter)
    if activation not in get_args(Activation):
        raise ValueError(f"its metadata names the activation {activation}")
    return {
        "network": SRVGGNetCompact(
            channels=channels, width=width, depth=depth, scale=scale, activation=cast(Activation, activation)
        ),
        "scale": scale,
        "channels_in": channels,
        "channels_out": channels,
        "radius_px": depth + 2,
        "pad_px": depth + 2,
        "supports_low_precision": True,
        # two maps in float32 around the first activation, or the result beside the last map (measured)
        "values_per_px": max(7 * width // 2, 4 * channels * scale**2),
        "tail_values_per_px": 5 * width // 4,
        "fast_tail_px": WINDOW_PX // 2,
        "holds_result": False,
    }


def _rename_msrresnet(tensors: Tensors) -> Tensors:
    return {
        re.sub(r"^HRconv\.", "conv_hr.", re.sub(r"^recon_trunk\.", "body.", key)): value
        for key, value in tensors.items()
    }


def _build_msrresnet(raw: RawWeights, reporter: Reporter) -> dict[str, Any]:
    tensors = raw.tensors
    width, channels_in = tensors["conv_first.weight"].shape[:2]
    blocks = count_layers(tensors, r"body\.(\d+)\.conv1\.")
    scale = 4 if "upconv2.weight" in tensors else math.isqrt(tensors["upconv1.weight"].shape[0] // width)
    channels_out = tensors["conv_last.weight"].shape[0]
    return {
        "network": MSRResNet(
            channels_in=channels_in, channels_out=channels_out, width=width, blocks=blocks, scale=scale
        ),
        "scale": scale,
        "channels_in": channels_in,
        "channels_out": channels_out,
        "radius_px": 2 * blocks + 3,
        "pad_px": 2 * blocks + 3,
        "values_per_px": 3 * width * scale**2,
    }


def _rename_srresnet(tensors: Tensors) -> Tensors:
    """The spelling with a head, a fusion and a tail becomes our own."""
    if "head.weight" not in tensors or "fuse.weight" not in tensors:
        return tensors
    parts = {
        "head": "conv_first", "head_act": "prelu_first", "fuse": "conv_body", "fuse_bn": "bn_body", "tail": "conv_last",
    }  # fmt: skip
    renamed = {}
    for key, value in tensors.items():
        first, _, rest = key.partition(".")
        if match := re.match(r"up(_act)?\.(\d+)\.(\w+)$", key):
            renamed[f"up.{match[2]}.{'prelu' if match[1] else 'conv'}.{match[3]}"] = value
        elif match := re.match(r"(body\.\d+)\.act\.(\w+)$", key):
            renamed[f"{match[1]}.prelu.{match[2]}"] = value
        else:
            renamed[f"{parts.get(first, first)}.{rest}"] = value
    return renamed


def _build_srresnet(raw: RawWeights, reporter: Reporter) -> dict[str, Any]:
    tensors = raw.tensors
    width, channels_in = tensors["conv_first.weight"].shape[:2]
    blocks = count_layers(tensors, r"body\.(\d+)\.conv1\.")
    ups = count_layers(tensors, r"up\.(\d+)\.conv\.")
    channels_out = tensors["conv_last.weight"].shape[0]
    return {
        "network": SRResNet(
            channels_in=channels_in,
            channels_out=channels_out,
            width=width,
            blocks=blocks,
            up_steps=ups,
            signed_output=_metadata(raw, "output_range", "0..1", reporter) == "-1..1",
        ),
        "scale": 2**ups,
        "channels_in": channels_in,
        "channels_out": channels_out,
        "radius_px": 2 * blocks + 8,
        "pad_px": 2 * blocks + 8,
        "values_per_px": 3 * width * 4**ups,
    }


def _build_srcnn(raw: RawWeights, reporter: Reporter) -> dict[str, Any]:
    convolutions = [raw.tensors[f"conv{index}.weight"] for index in (1, 2, 3)]
    kernels = [conv.shape[2] for conv in convolutions]
    channels = convolutions[0].shape[1]
    scale = int(_metadata(raw, "scale", "4", reporter))
    radius = math.ceil(sum(kernel // 2 for kernel in kernels) / scale) + 2  # 2: reach of the bicubic enlargement
    return {
        "network": SRCNN(
            channels=channels,
            widths=(convolutions[0].shape[0], convolutions[1].shape[0]),
            kernels=(kernels[0], kernels[1], kernels[2]),
            scale=scale,
        ),
        "scale": scale,
        # a network for luma alone takes RGB all the same, see srcnn.py
        "channels_in": 3,
        "channels_out": 3,
        "radius_px": radius,
        "pad_px": radius,
        "values_per_px": (convolutions[0].shape[0] * 2 + 8) * scale**2,
    }


class _Described(nn.Module):
    """A network of spandrel, called as its descriptor wants it (minimum size, squares, extra arguments)."""

    def __init__(self, descriptor: Any) -> None:
        super().__init__()
        self.model: nn.Module = descriptor.model
        self._descriptor = descriptor

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self._descriptor(x))


def _community_model(raw: RawWeights, name: str) -> LoadedModel:
    """Any other network, through the optional package spandrel."""
    unknown = _explain_unknown(raw)
    if unknown.hint is not None:
        raise unknown
    found = find_in_spandrel(raw)
    if found.purpose == "FaceSR":
        raise UnknownArchitecture(f"{raw.path} is {found.architecture.name}", hint=_RESTORER_HINT, path=raw.path)
    return LoadedModel(
        network=_Described(found).eval().requires_grad_(False),
        name=name,
        architecture=found.architecture.name,
        scale=found.scale,
        channels_in=found.input_channels,
        channels_out=found.output_channels,
        multiple_of=max(1, found.size_requirements.multiple_of),
        values_per_px=4000,
        sha256=raw.sha256,
        metadata=raw.metadata,
    )


def find_in_spandrel(raw: RawWeights) -> Any:
    """The ImageModelDescriptor that the optional package spandrel makes of the tensors. Raises: UnknownArchitecture."""
    unknown = _explain_unknown(raw)
    try:
        import spandrel
    except (ImportError, RuntimeError, OSError) as error:  # its torchvision may not fit this torch
        installed = "" if isinstance(error, ModuleNotFoundError) and error.name == "spandrel" else f" ({error})"
        raise UnknownArchitecture(
            unknown.message,
            hint=f"for other architectures install the extra: pip install 'realesr-cli[community]'{installed}",
            path=raw.path,
        ) from error
    try:
        found = spandrel.ModelLoader(device="cpu").load_from_state_dict(raw.tensors)
    except Exception as error:
        raise UnknownArchitecture(unknown.message, hint="spandrel does not know it either", path=raw.path) from error
    if not isinstance(found, spandrel.ImageModelDescriptor):
        raise UnknownArchitecture(f"{raw.path} needs a mask as well as a picture", path=raw.path)
    return found


_RESTORER_HINT = "this is a face restorer; it is used with --face-enhance --face-model, not as -m"


def _explain_unknown(raw: RawWeights) -> UnknownArchitecture:
    keys = list(raw.tensors)
    hint = None
    if any("stylegan_decoder" in key for key in keys):
        hint = _RESTORER_HINT
    elif any(".weight_orig" in key or "parametrizations.weight" in key for key in keys) or "linear2.weight" in keys:
        hint = "this is a discriminator, which only training needs; choose the generator (often *_netG or no suffix)"
    listed = ", ".join(keys[:3])
    return UnknownArchitecture(
        f"{raw.path} holds {len(keys)} tensors of no network that realesr knows ({listed}, ...)",
        hint=hint,
        path=raw.path,
    )


def count_layers(keys: Iterable[str], pattern: str, *, first: int = 0, step: int = 1) -> int:
    """How many numbers `pattern` captures in the keys; they must be first, first + step, ... without a gap."""
    numbers = sorted({int(match[1]) for key in keys if (match := re.match(pattern, key))})
    if numbers != [first + step * index for index in range(len(numbers))]:
        raise ValueError(f"its layers are numbered {str(numbers)[:60]}")
    return len(numbers)


def _metadata(raw: RawWeights, key: str, default: str, reporter: Reporter) -> str:
    """What the file says of `key`, which no shape tells; else `default`, with a warning."""
    if key not in raw.metadata:
        reporter.emit(
            "warning",
            code="assumed",
            message=f"{raw.path.name} does not say its {key}; {default} is assumed",
            hint=f"store {key} in the metadata of a .safetensors file",
        )
    return raw.metadata.get(key, default)


def _has(*keys: str) -> Callable[[Tensors], bool]:
    return lambda tensors: all(key in tensors for key in keys)


ARCHITECTURES: tuple[Architecture, ...] = (
    Architecture(
        name="RRDBNet",
        rename=_rename_rrdb,
        matches=_has("conv_first.weight", "body.0.rdb1.conv1.weight", "conv_body.weight"),
        build=_build_rrdb,
    ),
    Architecture(
        name="SRResNet",
        rename=_rename_srresnet,
        matches=_has("conv_first.weight", "body.0.bn1.weight", "up.0.conv.weight"),
        build=_build_srresnet,
    ),
    Architecture(
        name="MSRResNet",
        rename=_rename_msrresnet,
        matches=_has("conv_first.weight", "body.0.conv1.weight", "upconv1.weight"),
        build=_build_msrresnet,
    ),
    Architecture(
        name="SRVGGNetCompact",
        matches=lambda tensors: (
            "body.0.weight" in tensors and all(re.match(r"body\.\d+\.(weight|bias)$", key) for key in tensors)
        ),
        build=_build_compact,
    ),
    Architecture(
        name="SRCNN",
        matches=lambda tensors: (
            {key.split(".")[0] for key in tensors} == {"conv1", "conv2", "conv3"} and tensors["conv1.weight"].ndim == 4
        ),
        build=_build_srcnn,
    ),
)
"""In the order of detection: the first whose keys match is taken."""
