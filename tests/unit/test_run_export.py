"""The export of a run: one file that upscales pictures."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from networks import compact, rrdb
from realesr_cli import DeviceOptions, Upscaler
from realesr_cli.errors import OutputError, UnknownArchitecture, UsageError
from realesr_cli.models.architectures import load_model
from realesr_cli.models.compact import SRVGGNetCompact
from realesr_cli.models.rrdb import RRDBNet
from realesr_cli.models.srcnn import SRCNN
from realesr_cli.models.srresnet import MSRResNet, SRResNet
from realesr_train import export
from realesr_train.ema import Ema
from realesr_train.export import export_run, loaded_model, training_facts
from recording import Events


def _facts(**changes: Any) -> dict[str, str]:
    facts: dict[str, Any] = {
        "recipe": "realesrnet_x4", "steps": 5000, "pictures": 184, "metrics": {"psnr_y_db": 27.123456},
        "config": "[run]\nseed = 1\n", "licence": "MIT",
    }  # fmt: skip
    return training_facts(**{**facts, **changes})


def _exported(network: nn.Module, folder: Path, **options: Any) -> Path:
    return export_run(network, folder / "model.safetensors", name="mine", metadata=_facts(), **options)


def _picture(side: int = 24) -> Tensor:
    return torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(3))


def test_an_export_upscales_a_picture_as_the_network_does(tmp_path: Path) -> None:
    network = compact(scale=2).network
    path = _exported(network, tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    with Upscaler(path, device=DeviceOptions(device="cpu", precision="fp32")) as upscaler:
        result = upscaler(pixels)
    with torch.no_grad():
        expected = network(torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255)
    levels = expected.clamp(0, 1).mul(255).round().to(torch.uint8)[0].permute(1, 2, 0).numpy()
    assert result.shape == (40, 48, 3)
    assert np.abs(result.astype(int) - levels).max() <= 1
    assert (result != levels).mean() < 1e-3


def test_a_deep_network_with_large_results_is_written_whatever_its_layout(tmp_path: Path) -> None:
    """As trained, in channels_last, which rounds otherwise than what is read back."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = RRDBNet(width=16, growth=8, blocks=6)
    network.conv_last.weight.data.mul_(3000)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    read = load_model(_exported(network, tmp_path)).network
    with torch.no_grad():
        assert 1e-5 < (read(_picture()) - network(_picture())).abs().max() < 1e-3


@pytest.mark.parametrize(
    "network",
    [
        SRVGGNetCompact(width=8, depth=2, scale=3),
        SRVGGNetCompact(width=8, depth=2, scale=2, activation="relu"),
        SRVGGNetCompact(width=8, depth=2, scale=4, activation="leakyrelu"),
        RRDBNet(width=8, blocks=1, growth=4),
        RRDBNet(width=8, blocks=1, growth=4, unshuffle=2),
        MSRResNet(width=8, blocks=1, scale=3),
        SRResNet(width=8, blocks=1, up_steps=1, signed_output=True),
        SRCNN(channels=1, widths=(8, 4), scale=3),
    ],
    ids=lambda network: type(network).__name__,
)
def test_every_architecture_of_ours_comes_back_as_it_was_without_a_guess(
    network: nn.Module, tmp_path: Path, events: Events
) -> None:
    path = _exported(network, tmp_path)
    network.eval()
    read = load_model(path, reporter=events)
    assert not events.of("warning")
    with torch.no_grad():
        assert (read.network(_picture()) - network(_picture())).abs().max() < 1e-6
    assert read.architecture == type(network).__name__


def test_the_file_says_what_it_is_and_where_it_comes_from(tmp_path: Path) -> None:
    metadata = _facts(start="realesr-animevideov3", teachers=["realesr-general-x4v3", "realesr-general-wdn-x4v3"])
    path = export_run(compact(scale=2).network, tmp_path / "m.safetensors", name="mine", metadata=metadata)
    read = load_model(path)
    assert (read.name, read.scale) == ("mine", 2)
    said = read.metadata
    assert (said["architecture"], said["scale"], said["licence"]) == ("SRVGGNetCompact", "2", "MIT")
    assert (said["recipe"], said["steps"], said["pictures"]) == ("realesrnet_x4", "5000", "184")
    assert json.loads(said["metrics"]) == {"psnr_y_db": 27.1235}
    assert said["config_sha256"] == hashlib.sha256(b"[run]\nseed = 1\n").hexdigest()
    assert said["teachers"] == "realesr-general-x4v3, realesr-general-wdn-x4v3"
    assert said["start"] == "realesr-animevideov3"


def test_the_average_is_exported_and_left_as_it_is(tmp_path: Path) -> None:
    network = SRVGGNetCompact(width=8, depth=2)
    ema = Ema(network, 0.5)
    with torch.no_grad():
        network.body[0].weight.add_(1)
    ema.update(network)
    before = {key: value.clone() for key, value in ema.state_dict().items()}
    _exported(ema.network, tmp_path, half=True)
    assert all(value.dtype == torch.float32 for value in ema.state_dict().values())
    assert all(torch.equal(value, before[key]) for key, value in ema.state_dict().items())
    network.train()
    path = _exported(network, tmp_path)
    assert network.training
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert torch.equal(load_model(path).network.state_dict()["body.0.weight"], network.body[0].weight)


def test_float16_halves_the_file_and_keeps_the_picture(tmp_path: Path) -> None:
    network = SRVGGNetCompact(width=64, depth=16)
    sizes, pictures = [], []
    for half in (False, True):
        path = _exported(network, tmp_path, half=half)
        sizes.append(path.stat().st_size)
        with torch.no_grad():
            pictures.append(load_model(path).network(_picture()))
    assert sizes[1] < 1.26e6
    assert 1.99 < sizes[0] / sizes[1] < 2.01
    assert 0 < (pictures[0] - pictures[1]).abs().max() < 2e-3


def test_weights_too_large_for_float16_are_named_and_nothing_is_written(tmp_path: Path) -> None:
    network = compact().network
    network.body[2].weight.data[0, 0, 0, 0] = 1e6
    with pytest.raises(UsageError, match=r"body\.2\.weight is too large for float16"):
        _exported(network, tmp_path, half=True)
    assert list(tmp_path.iterdir()) == []


def test_a_network_of_nan_is_not_exported_and_the_older_file_stays(tmp_path: Path) -> None:
    network = compact().network
    path = _exported(network, tmp_path)
    before = path.read_bytes()
    network.body[0].bias.data.fill_(float("nan"))
    with pytest.raises(OutputError, match="gives another picture"):
        _exported(network, tmp_path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_reads_back_as_another_network_never_gets_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def changed(path: Path) -> Any:
        model = load_model(path)
        model.network.body[-1].bias.data[0] += 1e-5
        return model

    monkeypatch.setattr(export, "load_model", changed)
    with pytest.raises(OutputError, match=r"model\.safetensors gives another picture"):
        _exported(compact().network, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_export_replaces_the_older_one(tmp_path: Path) -> None:
    _exported(compact(seed=1).network, tmp_path)
    path = _exported(compact(seed=2).network, tmp_path)
    assert torch.equal(
        load_model(path).network.state_dict()["body.0.weight"], compact(seed=2).network.state_dict()["body.0.weight"]
    )


def test_a_network_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnknownArchitecture):
        _exported(nn.Conv2d(3, 3, 3), tmp_path)


def test_a_loaded_model_around_a_network_knows_its_geometry() -> None:
    network = rrdb(unshuffle=2).network
    model = loaded_model(network, "now")
    assert model.network is network
    assert (model.scale, model.channels_in, model.multiple_of, model.radius_px) == (2, 3, 2, 38)
