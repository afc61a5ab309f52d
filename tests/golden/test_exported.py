"""Exported networks give the numbers of the original in the engines of other programs: ONNX Runtime, OpenCV, ncnn."""

import importlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from networks import compact, loaded, rrdb
from realesr_cli.models.architectures import LoadedModel, load_model
from realesr_cli.models.export import export_model
from realesr_cli.models.srcnn import SRCNN
from realesr_cli.models.srresnet import SRResNet
from test_networks import _EXPECTED, load_golden

Finder = Callable[[str], Path]
Array = np.ndarray[Any, np.dtype[np.float32]]

_OFFICIAL = {
    "animevideov3": "realesr-animevideov3.pth",
    "general-x4v3": "ncnn/realesr-general-x4v3.param",
    "general-wdn-x4v3": "ncnn/realesr-general-wdn-x4v3.param",
    "x4plus-anime": "ncnn/realesrgan-x4plus-anime.param",
}


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """These networks are tiny: on a busy machine threads that wait for each other take nearly all of the time."""
    before = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    yield
    torch.set_num_threads(before[0])
    cv2.setNumThreads(before[1])


def _package(name: str) -> Any:
    """An engine; absent it is a reason to skip, but not in a full check."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        message = f"the package {name} is absent ({error}); the extra `dev` has it"
        if os.environ.get("REALESR_REQUIRE_GOLDEN") == "1":
            pytest.fail(message)
        pytest.skip(message)


def _by_torch(model: LoadedModel, x: Array) -> Array:
    with torch.inference_mode():
        return model.network(torch.from_numpy(x)).numpy()


def _session(file: Path) -> Any:
    onnxruntime = _package("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


def _by_onnxruntime(file: Path, x: Array) -> Array:
    return _session(file).run(["output"], {"input": x})[0]


def _by_opencv(file: Path, x: Array) -> Array:
    net = cv2.dnn.readNetFromONNX(str(file))
    net.setInput(x)
    return net.forward()


def _by_ncnn(param: Path, x: Array) -> Array:
    """In float32, the weights as they are stored."""
    ncnn = _package("ncnn")
    net = ncnn.Net()
    net.opt.use_vulkan_compute, net.opt.num_threads = False, 1
    for option in ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_storage"):
        setattr(net.opt, f"use_{option}", False)
    assert net.load_param(str(param)) == 0
    assert net.load_model(str(param.with_suffix(".bin"))) == 0
    results = []
    for picture in x:
        extractor = net.create_extractor()
        assert extractor.input("data", ncnn.Mat(np.ascontiguousarray(picture))) == 0
        status, mat = extractor.extract("output")
        assert status == 0
        results.append(np.array(mat))
    return np.stack(results)


def _noise(model: LoadedModel, *, height: int = 20, width: int = 28, count: int = 2) -> Array:
    """Pictures as the engine gives them to the network: odd sides only where it takes them."""
    odd = 1 if model.multiple_of == 1 else 0
    shape = (count, model.channels_in, height - odd, width - odd)
    return np.random.default_rng(7).random(shape, dtype=np.float32)


def _largest(a: Array, b: Array) -> float:
    assert a.shape == b.shape
    return float(np.abs(a - b).max())


def _srcnn(channels: int, scale: int) -> LoadedModel:
    network = SRCNN(channels=channels, widths=(16, 8), scale=scale)
    for parameter in network.parameters():
        parameter.data *= 2  # the initialisation gives an almost flat grey
    return loaded(network, scale=scale)


def _signed_srresnet() -> LoadedModel:
    network = SRResNet(width=8, blocks=2, up_steps=1, signed_output=True)
    for buffer in network.buffers():
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 1.5)
    return loaded(network, scale=2)


# what the golden data lack: other channels, scales and activations
_MADE: dict[str, Callable[[], LoadedModel]] = {
    "compact_x3_1ch": lambda: compact(scale=3, channels=1),
    "rrdb_x2": lambda: rrdb(unshuffle=2),
    "rrdb_x1": lambda: rrdb(unshuffle=4),
    "srcnn_y_x4": lambda: _srcnn(1, 4),
    "srcnn_rgb_x3": lambda: _srcnn(3, 3),
    "srresnet_signed": _signed_srresnet,
}


@pytest.fixture(params=[*_EXPECTED, *_MADE])
def model(request: pytest.FixtureRequest, golden: Finder, tmp_path: Path) -> LoadedModel:
    """Every network of the golden data, and a few more."""
    torch.manual_seed(3)
    if request.param in _MADE:
        return _MADE[request.param]()
    return load_golden(golden(f"networks/{request.param}.npz"), tmp_path)[0]


@pytest.mark.parametrize("engine", [_by_onnxruntime, _by_opencv])
def test_onnx_gives_what_torch_gives(
    model: LoadedModel, engine: Callable[[Path, Array], Array], tmp_path: Path
) -> None:
    x = _noise(model)
    expected = _by_torch(model, x)
    assert expected.std() > 0.02, "a flat result proves nothing"
    file = export_model(model, tmp_path / "net.onnx", "onnx")
    assert _largest(engine(file, x), expected) <= 1e-5


def test_ncnn_gives_what_torch_gives_with_weights_in_half_precision(model: LoadedModel, tmp_path: Path) -> None:
    x = _noise(model)
    param = export_model(model, tmp_path / "net.param", "ncnn")
    found = _by_ncnn(param, x)
    assert _largest(found, _by_torch(model, x)) <= 1 / 255
    if model.architecture in ("RRDBNet", "SRVGGNetCompact", "MSRResNet"):  # nothing folded into their weights
        for parameter in model.network.parameters():
            if parameter.ndim == 4:
                parameter.data = parameter.data.half().float()
        assert _largest(found, _by_torch(model, x)) <= 2e-5


def test_one_onnx_file_takes_every_size_and_count(tmp_path: Path) -> None:
    model = rrdb()
    session = _session(export_model(model, tmp_path / "net.onnx", "onnx"))
    for shape in ((1, 3, 1, 1), (3, 3, 8, 21), (1, 3, 40, 5)):
        x = np.random.default_rng(0).random(shape, dtype=np.float32)
        assert _largest(session.run(None, {"input": x})[0], _by_torch(model, x)) <= 1e-5


def test_an_onnx_file_says_what_it_is(weights_file: Finder, tmp_path: Path) -> None:
    model = load_model(weights_file("realesr-animevideov3.pth"))
    session = _session(export_model(model, tmp_path / "net.onnx", "onnx"))
    (source,), (result,) = session.get_inputs(), session.get_outputs()
    assert (source.name, source.type, source.shape) == ("input", "tensor(float)", ["batch", 3, "height", "width"])
    assert (result.name, result.shape) == ("output", ["batch", 3, "height_out", "width_out"])
    said = session.get_modelmeta().custom_metadata_map
    assert {key: said[key] for key in ("name", "architecture", "scale", "width", "depth", "source_sha256")} == {
        "name": "realesr-animevideov3", "architecture": "SRVGGNetCompact", "scale": "4", "width": "64", "depth": "16",
        "source_sha256": model.sha256,
    }  # fmt: skip


@pytest.mark.parametrize("name", _OFFICIAL)
def test_official_networks_are_the_same_in_every_format(name: str, weights_file: Finder, tmp_path: Path) -> None:
    source = weights_file(_OFFICIAL[name])
    model = load_model(source)
    x = _noise(model, height=16, width=20, count=1)
    expected = _by_torch(model, x)
    onnx = export_model(model, tmp_path / "net.onnx", "onnx")
    assert _largest(_by_onnxruntime(onnx, x), expected) <= 1e-4
    ncnn = export_model(model, tmp_path / "net.param", "ncnn")
    # the published general networks react to noise with results up to 20
    assert _largest(_by_ncnn(ncnn, x), expected) <= (1e-4 if source.suffix == ".param" else 1 / 255)
    for suffix in ("pth", "safetensors"):
        again = load_model(export_model(model, tmp_path / f"net.{suffix}", suffix))  # type: ignore[arg-type]
        assert np.array_equal(_by_torch(again, x), expected)


@pytest.mark.parametrize(
    "file",
    ["ncnn/realesr-general-x4v3", "ncnn/realesr-general-wdn-x4v3", "ncnn/realesrgan-x4plus-anime", "realesrgan-x4plus"],
)
def test_a_published_ncnn_network_is_written_with_the_bytes_that_it_was_read_from(
    file: str, weights_file: Finder, tmp_path: Path
) -> None:
    published = weights_file(f"{file}.param")
    written = export_model(load_model(published), tmp_path / "net.param", "ncnn")
    assert written.with_suffix(".bin").read_bytes() == published.with_suffix(".bin").read_bytes()
    # as many layers and blobs
    assert written.read_text("ascii").split("\n")[:2] == published.read_text("ascii").replace("\r", "").split("\n")[:2]


def test_written_and_published_ncnn_files_give_equal_pictures(weights_file: Finder, tmp_path: Path) -> None:
    published = weights_file("ncnn/realesrgan-x4plus-anime.param")
    model = load_model(published)
    x = _noise(model, height=24, width=24, count=1)
    assert _largest(_by_ncnn(export_model(model, tmp_path / "net.param", "ncnn"), x), _by_ncnn(published, x)) == 0
