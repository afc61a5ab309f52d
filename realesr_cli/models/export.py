"""A loaded network -> files for realesr and for other programs.

`safetensors` keeps every number and says what it is; `pth` is what the PyTorch programs around Real-ESRGAN read; `onnx`
and `ncnn` hold the network itself and need no code of ours. ncnn stores weights in float16.
"""

import io
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Literal, cast

import numpy as np
import torch
from torch import Tensor, nn

from realesr_cli.atomic import draw_number, replacing
from realesr_cli.errors import OutputError, OutputExists, UnknownArchitecture, UsageError
from realesr_cli.models.architectures import LoadedModel
from realesr_cli.models.compact import SRVGGNetCompact
from realesr_cli.models.graph import graph_of
from realesr_cli.models.ncnn_writer import ncnn_files, stored
from realesr_cli.models.onnx_writer import onnx_bytes
from realesr_cli.models.reading import read_weights, safetensors_bytes
from realesr_cli.models.rrdb import RRDB, RRDBNet
from realesr_cli.models.srcnn import SRCNN
from realesr_cli.models.srresnet import MSRResNet, SRResNet

ExportFormat = Literal["safetensors", "pth", "onnx", "ncnn"]

SUFFIXES: Mapping[ExportFormat, str] = {
    "safetensors": ".safetensors",
    "pth": ".pth",
    "onnx": ".onnx",
    "ncnn": ".param",
}
"""How the file of a format ends; ncnn's numbers are a second file, `.bin`."""


def export_model(model: LoadedModel, target: Path, format: ExportFormat, *, overwrite: bool = False) -> Path:
    """Writes `model` as `target`, whose folder exists and whose name ends as `SUFFIXES` says; gives `target`.

    For ncnn a `.bin` of the same name is written as well. What realesr reads itself (not ONNX, not ncnn files of the
    SRResNet family and SRCNN) is read back and compared before it gets its name.

    Raises: UnknownArchitecture (not one of realesr's own networks), UsageError, OutputExists, DiskFull, OutputError.
    """
    if target.suffix.lower() != SUFFIXES[format]:
        raise UsageError(f"{target} would be {format} by another name", hint=f"end its name in {SUFFIXES[format]}")
    contents = _contents(model, format)
    number = draw_number()
    with ExitStack() as stack:
        written = []
        for file, data in zip(files_of(target, format), contents, strict=True):
            if file.exists() and not overwrite:
                raise OutputExists(f"{file} exists", hint="choose another name, or give --overwrite", path=file)
            written.append(stack.enter_context(replacing(file, overwrite=overwrite, number=number)))
            written[-1].write_bytes(data)
        if not _reads_back(model, written[0], format):
            raise OutputError(
                f"what was written for {target} reads back differently", hint="check the disk, or try another with -o"
            )
    return target


def files_of(target: Path, format: ExportFormat) -> tuple[Path, ...]:
    """All files that `export_model` writes."""
    return (target, target.with_suffix(".bin")) if format == "ncnn" else (target,)


def describe(model: LoadedModel) -> dict[str, str]:
    """What a file says of its network: name, architecture, scale, hyper-parameters, the SHA-256 of the weights that it
    comes from, and all that those said of themselves (licence, training).

    Raises: UnknownArchitecture.
    """
    facts = {
        "name": model.name,
        "architecture": model.architecture,
        "scale": model.scale,
        "channels_in": model.channels_in,
        "channels_out": model.channels_out,
        "multiple_of": model.multiple_of,
        **_hyper_parameters(model),
    }
    if model.sha256:
        facts["source_sha256"] = model.sha256
    return {**model.metadata, **{key: str(value) for key, value in facts.items()}}


def _hyper_parameters(model: LoadedModel) -> dict[str, int | str]:
    match model.network:
        case RRDBNet() as network:
            return {
                "width": network.conv_first.out_channels,
                "blocks": len(network.body),
                "growth": cast(RRDB, network.body[0]).rdb1.conv1.out_channels,
                "unshuffle": network.unshuffle,
                "up_steps": len(network.up_names),
            }
        case SRVGGNetCompact() as network:
            activation = {nn.PReLU: "prelu", nn.ReLU: "relu", nn.LeakyReLU: "leakyrelu"}[type(network.body[1])]
            width = cast(nn.Conv2d, network.body[0]).out_channels
            return {"width": width, "depth": len(network.body) // 2 - 1, "activation": activation}
        case MSRResNet() as network:
            return {"width": network.conv_first.out_channels, "blocks": len(network.body)}
        case SRResNet() as network:
            return {
                "width": network.conv_first.out_channels,
                "blocks": len(network.body),
                "up_steps": len(network.up),
                "output_range": "-1..1" if network.signed_output else "0..1",
            }
        case SRCNN() as network:
            convolutions = (network.conv1, network.conv2, network.conv3)
            return {
                "widths": "-".join(str(conv.out_channels) for conv in convolutions[:2]),
                "kernels": "-".join(str(conv.kernel_size[0]) for conv in convolutions),
            }
    raise UnknownArchitecture(
        f"{model.name} cannot be exported: {model.architecture} is not one of realesr's own networks",
        hint="RRDBNet, SRVGGNetCompact, MSRResNet, SRResNet and SRCNN can",
    )


def _contents(model: LoadedModel, format: ExportFormat) -> tuple[bytes, ...]:
    """One for each of `files_of`."""
    metadata = describe(model)
    match format:
        case "safetensors":
            return (safetensors_bytes(model.network.state_dict(), metadata),)
        case "pth":
            buffer = io.BytesIO()  # into a file, torch would write that file's name as well
            torch.save({"params_ema": model.network.state_dict()}, buffer)
            return (buffer.getvalue(),)
        case "onnx":
            channels = (model.channels_in, model.channels_out)
            return (onnx_bytes(graph_of(model.network), name=model.name, channels=channels, metadata=metadata),)
        case "ncnn":
            text, numbers = ncnn_files(graph_of(model.network))
            return (text.encode("ascii"), numbers)


def _reads_back(model: LoadedModel, file: Path, format: ExportFormat) -> bool:
    """Whether realesr finds in `file` the tensors of `model`; True as well where it does not read such files."""
    if format == "onnx" or (format == "ncnn" and not isinstance(model.network, RRDBNet | SRVGGNetCompact)):
        return True
    read = read_weights(file).tensors
    expected: dict[str, Tensor] = model.network.state_dict()
    if read.keys() != expected.keys():
        return False
    # compared by numpy: on a busy machine torch's threads wait for each other a thousand times
    return all(
        np.array_equal(
            read[key].numpy(),
            stored(value) if format == "ncnn" and value.ndim == 4 else value.numpy(),
            equal_nan=value.is_floating_point(),
        )
        for key, value in expected.items()
    )
