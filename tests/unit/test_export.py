"""Exported files: every number kept, self-describing, the same bytes each time, whole or not at all.

Whether other programs compute the same with them is in tests/golden/test_exported.py.
"""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from safetensors import safe_open

from networks import compact, loaded, nearest, rrdb
from realesr_cli import weights
from realesr_cli.errors import OutputError, OutputExists, UnknownArchitecture, UsageError
from realesr_cli.models import export
from realesr_cli.models.architectures import LoadedModel, load_model
from realesr_cli.models.compact import SRVGGNetCompact
from realesr_cli.models.export import SUFFIXES, ExportFormat, describe, export_model
from realesr_cli.models.graph import INPUT, OUTPUT, Convolution, PReLU, graph_of
from realesr_cli.models.ncnn import parse_ncnn, read_ncnn
from realesr_cli.models.ncnn_writer import ncnn_files
from realesr_cli.models.onnx_writer import _message
from realesr_cli.models.rrdb import RRDBNet
from realesr_cli.models.srcnn import SRCNN
from realesr_cli.models.srresnet import MSRResNet, SRResNet

Finder = Callable[[str], Path]
FORMATS: tuple[ExportFormat, ...] = get_args(ExportFormat)


def leaky() -> LoadedModel:
    torch.manual_seed(1)
    return loaded(SRVGGNetCompact(width=8, depth=2, scale=2, activation="leakyrelu"), scale=2)


def msrresnet() -> LoadedModel:
    return loaded(MSRResNet(width=8, blocks=2))


def srresnet() -> LoadedModel:
    return loaded(SRResNet(width=8, blocks=2, signed_output=True))


def srcnn() -> LoadedModel:
    return loaded(SRCNN(widths=(8, 4), scale=3), scale=3)


ALL: tuple[Callable[[], LoadedModel], ...] = (
    compact,
    leaky,
    rrdb,
    lambda: rrdb(unshuffle=2),
    msrresnet,
    srresnet,
    srcnn,
)


def result(model: LoadedModel) -> torch.Tensor:
    x = torch.rand(1, model.channels_in, 12, 16, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        return model.network(x)


@pytest.mark.parametrize("make", ALL)
def test_safetensors_come_back_as_the_same_network_without_a_warning(
    make: Callable[[], LoadedModel], tmp_path: Path, events: Any
) -> None:
    model = make()
    again = load_model(export_model(model, tmp_path / "x.safetensors", "safetensors"), reporter=events)
    assert again.scale == model.scale
    assert torch.equal(result(again), result(model))
    assert events.of("warning") == []


@pytest.mark.parametrize("make", ALL)
def test_pth_is_a_plain_state_dict_under_params_ema(make: Callable[[], LoadedModel], tmp_path: Path) -> None:
    model = make()
    content = torch.load(export_model(model, tmp_path / "x.pth", "pth"), weights_only=True)
    state = model.network.state_dict()
    assert list(content) == ["params_ema"]
    assert list(content["params_ema"]) == list(state)
    assert all(torch.equal(content["params_ema"][key], value) for key, value in state.items())


def test_pth_has_the_keys_of_the_published_checkpoint(weights_file: Finder, tmp_path: Path) -> None:
    published = weights_file("realesr-animevideov3.pth")
    expected = torch.load(published, map_location="cpu", weights_only=True)["params"]
    written = export_model(load_model(published), tmp_path / "x.pth", "pth")
    found = torch.load(written, weights_only=True)["params_ema"]
    assert list(found) == list(expected)
    assert all(torch.equal(found[key], value) for key, value in expected.items())


@pytest.mark.parametrize("format", FORMATS)
def test_the_same_network_gives_the_same_bytes_under_any_name(format: ExportFormat, tmp_path: Path) -> None:
    model = rrdb()
    files = [export_model(model, tmp_path / f"{name}{SUFFIXES[format]}", format) for name in ("a", "somewhere else")]
    assert files[0].read_bytes() == files[1].read_bytes()
    if format == "ncnn":
        assert files[0].with_suffix(".bin").read_bytes() == files[1].with_suffix(".bin").read_bytes()


def test_the_metadata_describe_the_network(tmp_path: Path) -> None:
    model = loaded(
        rrdb(unshuffle=2).network, name="mine", architecture="RRDBNet", scale=2, multiple_of=2, sha256="ab" * 32,
        metadata={"licence": "CC0-1.0", "training": "{}", "scale": "stale"},
    )  # fmt: skip
    with safe_open(export_model(model, tmp_path / "x.safetensors", "safetensors"), "pt") as file:
        assert file.metadata() == {
            "name": "mine", "architecture": "RRDBNet", "scale": "2", "channels_in": "3", "channels_out": "3",
            "multiple_of": "2", "width": "8", "blocks": "1", "growth": "4", "unshuffle": "2", "up_steps": "2",
            "source_sha256": "ab" * 32, "licence": "CC0-1.0", "training": "{}",
        }  # fmt: skip


def test_name_and_licence_travel_with_a_safetensors_file(cache: Path, weights_file: Finder, tmp_path: Path) -> None:
    weights.add(weights_file("realesr-animevideov3.pth"))
    model = load_model("realesr-animevideov3", offline=True)
    assert model.metadata["licence"] == "BSD-3-Clause"
    again = load_model(export_model(model, tmp_path / "renamed.safetensors", "safetensors"))
    assert again.name == "realesr-animevideov3"
    assert again.metadata["licence"] == "BSD-3-Clause"
    assert again.metadata["source_sha256"] == model.sha256
    assert {**describe(again), "source_sha256": model.sha256} == describe(model)


@pytest.mark.parametrize("name", ["", "../up", "a/b", "line\nbreak", "\x1b[31m", "x" * 200, ".hidden"])
def test_a_name_that_is_no_file_name_is_not_believed(name: str, tmp_path: Path) -> None:
    model = loaded(compact().network, name=name)
    assert load_model(export_model(model, tmp_path / "plain.safetensors", "safetensors")).name == "plain"


@pytest.mark.parametrize("make", [compact, leaky, rrdb, lambda: rrdb(unshuffle=2), lambda: rrdb(unshuffle=4)])
def test_ncnn_files_are_read_back_with_weights_rounded_to_float16(
    make: Callable[[], LoadedModel], tmp_path: Path
) -> None:
    model = make()
    read = read_ncnn(export_model(model, tmp_path / "x.param", "ncnn"))
    state = model.network.state_dict()
    assert list(read) == list(state)
    for key, value in state.items():
        expected = value.numpy().astype(np.float16) if value.ndim == 4 else value.numpy()
        assert read[key].dtype == expected.dtype
        assert np.array_equal(read[key], expected), key


@pytest.mark.parametrize("make", ALL)
def test_in_ncnn_every_blob_is_made_once_and_used_once(make: Callable[[], LoadedModel]) -> None:
    lines = ncnn_files(graph_of(make().network))[0].splitlines()
    made: list[str] = []
    used: list[str] = []
    for line in lines[2:]:
        _, _, inputs, outputs, *rest = line.split()
        blobs = rest[: int(inputs) + int(outputs)]
        assert set(blobs[: int(inputs)]) <= set(made), "used before it is made"
        used += blobs[: int(inputs)]
        made += blobs[int(inputs) :]
    assert lines[0] == "7767517"
    assert lines[1].split() == [str(len(lines) - 2), str(len(made))]
    assert lines[2].split() == ["Input", "input_0", "0", "1", "data"]
    assert set(Counter(made).values()) == set(Counter(used).values()) == {1}
    assert set(made) - set(used) == {"output"}


def test_in_ncnn_a_weight_beyond_float16_makes_its_layer_float32() -> None:
    network = compact().network
    network.body[0].weight.data[0, 0, 0, 0] = 1e6
    text, numbers = ncnn_files(graph_of(network))
    read = parse_ncnn(text, numbers, "x")
    assert read["body.0.weight"].dtype == np.float32
    assert read["body.0.weight"].flat[0] == 1e6
    assert read["body.2.weight"].dtype == np.float16


def test_in_ncnn_an_odd_number_of_weights_is_padded() -> None:
    network = SRVGGNetCompact(channels=1, width=3, depth=1, scale=1)
    text, numbers = ncnn_files(graph_of(network))
    assert network.body[0].weight.numel() == 27
    assert np.array_equal(parse_ncnn(text, numbers, "x")["body.0.bias"], network.body[0].bias.detach())


@pytest.mark.parametrize("make", ALL)
def test_a_graph_computes_in_order_and_holds_the_layers_of_the_network_in_theirs(
    make: Callable[[], LoadedModel],
) -> None:
    network = make().network
    known = {INPUT}
    nodes = graph_of(network)
    for node in nodes:
        assert set(node.inputs) <= known
        assert node.output not in known
        known.add(node.output)
    assert nodes[-1].output == OUTPUT
    if not isinstance(network, SRResNet | SRCNN):  # which have other layers folded in
        held = [node.operation for node in nodes if isinstance(node.operation, Convolution | PReLU)]
        tensors = [t for op in held for t in ((op.slopes,) if isinstance(op, PReLU) else (op.weight, op.bias))]
        assert [id_of(t) for t in tensors] == [id_of(t) for t in network.state_dict().values()]


def id_of(tensor: torch.Tensor) -> tuple[int, ...]:
    return (tensor.data_ptr(), *tensor.shape)


def test_protobuf_fields_are_those_of_its_documentation() -> None:
    # protobuf.dev, "Encoding": 150 in field 1, "testing" in field 2, a message inside field 3
    assert _message((1, 150)).hex() == "089601"
    assert _message((2, "testing")).hex() == "120774657374696e67"
    assert _message((3, _message((1, 150)))).hex() == "1a03089601"
    assert _message((5, 1.0)).hex() == "2d0000803f"
    assert _message((14, 0), (1, 127), (1, 128)).hex() == "7000" + "087f" + "088001"


@pytest.mark.parametrize("format", FORMATS)
def test_nothing_is_replaced_unasked(format: ExportFormat, tmp_path: Path) -> None:
    target = tmp_path / f"x{SUFFIXES[format]}"
    for file in export.files_of(target, format):
        file.write_text("mine")
        with pytest.raises(OutputExists, match=file.name):
            export_model(compact(), target, format)
        assert [path.read_text() for path in tmp_path.iterdir()] == ["mine"]
        export_model(compact(), target, format, overwrite=True)
        assert file.read_bytes() != b"mine"
        for path in tmp_path.iterdir():
            path.unlink()


@pytest.mark.parametrize("format", FORMATS)
def test_what_cannot_be_written_leaves_nothing(format: ExportFormat, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="by another name"):
        export_model(compact(), tmp_path / "x.bin", format)
    with pytest.raises(OutputError, match="cannot write"):
        export_model(compact(), tmp_path / "none" / f"x{SUFFIXES[format]}", format)
    with pytest.raises(UnknownArchitecture, match="cannot be exported"):
        export_model(nearest(), tmp_path / f"x{SUFFIXES[format]}", format)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("format", ["safetensors", "pth", "ncnn"])
def test_a_file_that_reads_back_differently_gets_no_name(
    format: ExportFormat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = export._contents(compact(seed=5), format)
    monkeypatch.setattr(export, "_contents", lambda model, format: other)
    with pytest.raises(OutputError, match="reads back differently"):
        export_model(compact(), tmp_path / f"x{SUFFIXES[format]}", format)
    assert list(tmp_path.iterdir()) == []


def test_spandrel_reads_the_pth(tmp_path: Path) -> None:
    spandrel = pytest.importorskip("spandrel", reason="the extra `community` is not installed", exc_type=ImportError)
    usual = RRDBNet(width=8, blocks=1)  # spandrel reads the width off the tensors, but not the growth
    doubling = RRDBNet(width=8, blocks=1, unshuffle=2)
    for model in (loaded(usual), loaded(doubling, scale=2), compact()):
        found = spandrel.ModelLoader("cpu").load_from_file(
            str(export_model(model, tmp_path / "x.pth", "pth", overwrite=True))
        )
        x = torch.rand(1, 3, 12, 16)
        assert found.scale == model.scale
        with torch.inference_mode():
            assert float((found.model(x) - model.network(x)).abs().max()) <= 1e-5
