"""Start weights: from files of every kind, and the bilinear start of compact networks."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Finder
from networks import compact, rrdb
from realesr_train.discriminators.unet import UNetDiscriminator
from realesr_train.discriminators.vgg import VGGDiscriminator
from realesr_train.start import bilinear_start, load_start
from recording import Events
from torch import Tensor, nn
from torch.nn import functional as F

from realesr_cli.errors import CorruptWeights, ModelNotFound, UsageError
from realesr_cli.models.compact import SRVGGNetCompact
from realesr_cli.models.reading import safetensors_bytes
from realesr_cli.models.srresnet import MSRResNet


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """On a busy machine many threads for few pixels mostly wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def _equal(network: nn.Module, state: dict[str, Tensor]) -> bool:
    own = network.state_dict()
    return own.keys() == state.keys() and all(torch.equal(own[key], state[key]) for key in own)


def test_every_kind_of_file_starts_a_generator(tmp_path: Path) -> None:
    state = compact(seed=1).network.state_dict()
    other = compact(seed=2).network.state_dict()
    contents = {
        "upstream.pth": {"params": other, "params_ema": state},
        "net_g.pth": {"params": {f"module.{key}": value for key, value in state.items()}},
        "bare.pth": dict(state),
    }
    for name, content in contents.items():
        torch.save(content, tmp_path / name)
    (tmp_path / "ema.safetensors").write_bytes(safetensors_bytes(state, {}))
    for name in (*contents, "ema.safetensors"):
        network = compact(seed=3).network
        assert load_start(network, tmp_path / name) == ()
        assert _equal(network, state), name


def test_weights_are_put_into_the_parameters_that_an_optimizer_holds(tmp_path: Path) -> None:
    state = {key: value.half() for key, value in compact(seed=1).network.state_dict().items()}
    (tmp_path / "half.safetensors").write_bytes(safetensors_bytes(state, {}))
    network = SRVGGNetCompact(width=8, depth=3)
    held = dict(network.named_parameters())
    load_start(network, tmp_path / "half.safetensors")
    for key, parameter in network.named_parameters():
        assert parameter is held[key]
        assert parameter.requires_grad
        assert parameter.dtype == torch.float32
        assert torch.equal(parameter, state[key].float())


def test_older_spellings_of_rrdbnet_start_it_as_well(tmp_path: Path) -> None:
    state = rrdb(seed=1).network.state_dict()
    old = {}
    for key, value in state.items():
        name = key.replace("body.0.rdb", "RRDB_trunk.0.RDB").replace("conv_body", "trunk_conv")
        old[name.replace("conv_up", "upconv").replace("conv_hr", "HRconv")] = value
    assert old.keys() != state.keys()
    torch.save(old, tmp_path / "esrgan.pth")
    network = rrdb(seed=2).network
    load_start(network, tmp_path / "esrgan.pth")
    assert _equal(network, state)


def test_a_catalogue_name_starts_a_generator(stocked_cache: Path) -> None:
    network = SRVGGNetCompact(width=64, depth=32)
    load_start(network, "realesr-general-x4v3", offline=True)
    picture = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        difference = (network(picture) - F.interpolate(picture, scale_factor=4)).abs().mean()
    assert 0.01 < difference < 0.5, "the published network, not the random one"


def test_a_published_discriminator_starts_ours(golden: Finder, tmp_path: Path) -> None:
    with np.load(golden("networks/unet_disc_sn.npz")) as stored:
        state = {k.removeprefix("sd/"): torch.from_numpy(stored[k]) for k in stored.files if k.startswith("sd/")}
    assert {"conv0.weight", "conv1.weight_orig", "conv1.weight_u", "conv1.weight_v"} <= state.keys()
    torch.save({"params": state}, tmp_path / "netD.pth")
    width = state["conv0.weight"].shape[0]
    network = UNetDiscriminator(width=width)
    load_start(network, tmp_path / "netD.pth")
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())


def test_another_architecture_is_named_with_the_first_key_that_differs(tmp_path: Path) -> None:
    torch.save(rrdb().network.state_dict(), tmp_path / "rrdb.pth")
    network = compact().network
    before = {key: value.clone() for key, value in network.state_dict().items()}
    for match in ("all", "shape"):
        with pytest.raises(UsageError) as caught:
            load_start(network, tmp_path / "rrdb.pth", match=match)  # type: ignore[arg-type]
        assert "it holds RRDBNet, the network is SRVGGNetCompact" in caught.value.message
        assert "body.0.weight is missing in the file" in caught.value.message
        assert "\n" not in caught.value.message
        assert 'match = "shape"' not in str(caught.value.hint)
    assert _equal(network, before)


def test_tensors_that_fit_by_chance_do_not_make_it_the_same_architecture(tmp_path: Path) -> None:
    other = MSRResNet(width=8, blocks=1)
    network = rrdb().network
    shared = [
        key
        for key, value in other.state_dict().items()
        if value.shape == network.state_dict().get(key, value[:0]).shape
    ]
    assert shared
    torch.save(other.state_dict(), tmp_path / "msrresnet.pth")
    with pytest.raises(UsageError, match="holds MSRResNet, the network is RRDBNet"):
        load_start(network, tmp_path / "msrresnet.pth", match="shape")


@pytest.mark.parametrize("match", ["all", "shape"])
def test_a_discriminator_is_no_generator(tmp_path: Path, match: str) -> None:
    torch.save({"params": UNetDiscriminator(width=8).state_dict()}, tmp_path / "netD.pth")
    with pytest.raises(UsageError, match="holds UNetDiscriminator, the network is RRDBNet"):
        load_start(rrdb().network, tmp_path / "netD.pth", match=match)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="holds UNetDiscriminator, the network is VGGDiscriminator"):
        load_start(VGGDiscriminator(width=4), tmp_path / "netD.pth", match=match)  # type: ignore[arg-type]


def test_another_shape_is_named_with_both_shapes_and_the_way_out(tmp_path: Path) -> None:
    torch.save(rrdb().network.state_dict(), tmp_path / "x4.pth")
    with pytest.raises(UsageError) as caught:
        load_start(rrdb(unshuffle=2).network, tmp_path / "x4.pth")
    assert "conv_first.weight is [8, 3, 3, 3] in the file and [8, 12, 3, 3] in the network" in caught.value.message
    assert 'match = "shape"' in str(caught.value.hint)


def test_x2_starts_from_x4_but_for_its_first_convolution(tmp_path: Path, events: Events) -> None:
    x4 = rrdb(seed=1).network.state_dict()
    torch.save({"params_ema": x4}, tmp_path / "x4.pth")
    network = rrdb(unshuffle=2, seed=2).network
    first = network.state_dict()["conv_first.weight"].clone()
    assert load_start(network, tmp_path / "x4.pth", match="shape", reporter=events) == ("conv_first.weight",)
    own = network.state_dict()
    assert torch.equal(own.pop("conv_first.weight"), first)
    assert all(torch.equal(value, x4[key]) for key, value in own.items())
    (note,) = events.of("note")
    assert f"{len(own)} of {len(own) + 1} tensors taken; left as they were: conv_first.weight" in note["message"]


def test_a_file_with_more_blocks_is_refused_and_taken_in_part_when_told_to(tmp_path: Path, events: Events) -> None:
    torch.save(rrdb(blocks=2).network.state_dict(), tmp_path / "two.pth")
    with pytest.raises(UsageError, match=r"body\.1\.rdb1\.conv1\.weight is only in the file"):
        load_start(rrdb().network, tmp_path / "two.pth")
    assert load_start(rrdb().network, tmp_path / "two.pth", match="shape", reporter=events) == ()
    assert "not used: body.1.rdb1.conv1.weight" in events.of("note")[0]["message"]


def test_what_is_no_weights_file_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "page.pth").write_text("<!doctype html>")
    with pytest.raises(CorruptWeights):
        load_start(compact().network, tmp_path / "page.pth")
    with pytest.raises(ModelNotFound):
        load_start(compact().network, tmp_path / "absent.pth")


# --- bilinear start ---------------------------------------------------------------------------------------------------


def _picture(channels: int = 3) -> Tensor:
    return torch.rand(2, channels, 9, 11, generator=torch.Generator().manual_seed(4))


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
@pytest.mark.parametrize("activation", ["prelu", "relu", "leakyrelu"])
def test_the_bilinear_start_is_bilinear_interpolation(scale: int, activation: str) -> None:
    network = SRVGGNetCompact(width=8, depth=5, scale=scale, activation=activation)  # type: ignore[arg-type]
    bilinear_start(network, generator=torch.Generator().manual_seed(0))
    picture = _picture()
    expected = F.interpolate(picture, scale_factor=scale, mode="bilinear", align_corners=False)
    border = slice(scale // 2, -(scale // 2) or None)  # half an input pixel, where convolutions see black
    difference = (network(picture) - expected)[..., border, border].abs().max()
    assert difference < 1e-5


def test_the_bilinear_start_carries_grey_and_needs_a_channel_of_its_own_for_each_colour() -> None:
    network = SRVGGNetCompact(channels=1, width=1, depth=2, scale=2)
    bilinear_start(network)
    picture = _picture(1)
    expected = F.interpolate(picture, scale_factor=2, mode="bilinear", align_corners=False)
    assert (network(picture) - expected)[..., 1:-1, 1:-1].abs().max() < 1e-5
    with pytest.raises(UsageError, match="width 2 cannot carry 3 channels"):
        bilinear_start(SRVGGNetCompact(width=2, depth=2))


def test_every_layer_has_a_gradient_at_the_start_and_every_weight_one_step_later() -> None:
    torch.manual_seed(0)
    network = SRVGGNetCompact(width=8, depth=4, scale=2)
    bilinear_start(network, generator=torch.Generator().manual_seed(0))
    assert network.body[0].weight[3:].abs().min() > 0
    target = torch.rand(2, 3, 18, 22, generator=torch.Generator().manual_seed(5))
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    for step in range(2):
        optimizer.zero_grad()
        (network(_picture()) - target).abs().mean().backward()
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None
            is_slope_of_carried = name.endswith("weight") and parameter.ndim == 1
            if step == 0 and is_slope_of_carried:
                continue  # the slope for negative values of channels that carry a picture is never asked for
            assert parameter.grad.abs().max() > 0, (step, name)
        optimizer.step()
    assert network.body[2].weight.grad.abs().amax((1, 2, 3)).min() > 0, "of the random features too"


def test_the_bilinear_start_is_the_same_for_the_same_generator_and_leaves_the_global_one_alone() -> None:
    first, second, third = (SRVGGNetCompact(width=8, depth=2) for _ in range(3))
    state = torch.get_rng_state()
    for network, seed in ((first, 1), (second, 1), (third, 2)):
        bilinear_start(network, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(torch.get_rng_state(), state)
    assert _equal(first, second.state_dict())
    assert not _equal(first, third.state_dict())


def test_the_bilinear_start_learns_where_the_usual_one_stays() -> None:
    rng = torch.Generator().manual_seed(0)
    smooth = F.interpolate(torch.rand(4, 3, 6, 6, generator=rng), size=(32, 32), mode="bicubic").clamp(0, 1)
    lq = F.avg_pool2d(smooth, 2)
    nearest = (F.interpolate(lq, scale_factor=2) - smooth).abs().mean()
    losses = []
    for start in (True, False):
        torch.manual_seed(1)
        network = SRVGGNetCompact(width=8, depth=8, scale=2)
        if start:
            bilinear_start(network, generator=torch.Generator().manual_seed(1))
        optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
        for _ in range(20):
            optimizer.zero_grad()
            loss = (network(lq) - smooth).abs().mean()
            loss.backward()
            optimizer.step()
        losses.append(float((loss / nearest).detach()))
    assert losses[0] < 0.6
    assert losses[1] > 0.9
