"""SRCNN, SRResNet, SRGAN and network interpolation against reference numbers, through our own steps."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from realesr_cli.models.architectures import build_model, load_model
from realesr_cli.models.reading import blend, read_weights
from realesr_cli.models.srcnn import SRCNN
from realesr_cli.models.srresnet import SRResNet
from realesr_train.discriminators.vgg import SRGANDiscriminator
from realesr_train.losses.pixel import mse
from realesr_train.optim import make_optimizer, set_learning_rate
from realesr_train.steps import Adversarial, Batch, Term, Update, gan_step, pixel_step

Golden = Callable[[str], Path]
Arrays = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def classic(golden: Golden) -> Arrays:
    with np.load(golden("classic.npz"), allow_pickle=False) as file:
        return {key: file[key] for key in file.files}


def _state(arrays: Arrays, prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): torch.from_numpy(arrays[key].copy()) for key in arrays if key.startswith(prefix)}


def _load(arrays: Arrays, prefix: str, folder: Path) -> SRResNet:
    """The reference's state in its own spelling, read from a file."""
    path = folder / f"{prefix}safetensors"
    save_file(_state(arrays, prefix), path, {"output_range": "0..1"})
    network = load_model(path).network
    assert isinstance(network, SRResNet)
    return network


def _batch(arrays: Arrays, step: int) -> Batch:
    lr, hr = (torch.from_numpy(arrays[f"{name}{step}_u8"]).permute(0, 3, 1, 2).float() / 255 for name in ("lr", "hr"))
    return Batch(lq=lr, gt=2 * hr - 1)


def _update(network: nn.Module) -> Update:
    return Update(optimizer=make_optimizer(network.parameters(), learning_rate=1e-3, betas=(0.9, 0.999)))


def _near(ours: Tensor, theirs: np.ndarray, relative: float, what: str) -> None:
    error, size = float(np.abs(ours.detach().numpy() - theirs).max()), float(np.abs(theirs).max())
    assert error <= relative * size + 1e-6, f"{what}: {error:.1e} of {size:.1e}"


def test_srresnet_and_srgan_train_as_the_reference(classic: Arrays, tmp_path: Path) -> None:
    network = _load(classic, "G0.", tmp_path).requires_grad_(True).train()
    discriminator = SRGANDiscriminator(width=4, dense=12).train()
    discriminator.load_state_dict(_state(classic, "D0."))
    features = _state(classic, "V.")
    first, second = (key for key in features if key.endswith("weight"))

    def content(output: Tensor, target: Tensor) -> Tensor:
        def seen(x: Tensor) -> Tensor:
            x = F.max_pool2d(F.relu(F.conv2d(x, features[first], features[first[:-6] + "bias"], padding=1)), 2)
            return F.relu(F.conv2d(x, features[second], features[second[:-6] + "bias"], padding=1)) / 12.75

        return mse(seen(output), seen(target))

    update = _update(network)
    for step in range(2):
        losses = pixel_step(network, [_batch(classic, step)], [Term(name="pixel", weight=1.0, loss=mse)], update)
        assert losses["pixel"].item() == pytest.approx(classic["losses"][step, 0], rel=1e-4)
    update, of_discriminator = _update(network), _update(discriminator)
    game = Adversarial(weight=1e-3)
    for step in range(2, 5):
        losses = gan_step(
            network,
            discriminator,
            [_batch(classic, step)],
            [Term(name="content", weight=1.0, loss=content)],
            game,
            update,
            of_discriminator,
        )
        _, expected_content, adversarial, total, of_d = classic["losses"][step]
        assert losses["content"].item() == pytest.approx(expected_content, rel=1e-4)
        assert losses["adversarial"].item() == pytest.approx(1e-3 * adversarial, rel=1e-4)
        assert float(losses["content"] + losses["adversarial"]) == pytest.approx(total, rel=1e-4)
        assert float(losses["d_real"] + losses["d_fake"]) == pytest.approx(of_d, rel=1e-4)
    for key, value in discriminator.state_dict().items():
        # biases before batch normalisation have no gradient but rounding, of which Adam makes steps; so here and there
        # has a weight, and running means follow the biases
        if not key.startswith("convs") or key.endswith("weight"):
            error = np.abs(value.detach().numpy() - classic[f"D_end.{key}"]).mean()
            assert error <= (5e-3 if key.endswith("mean") else 1e-4 * max(1, np.abs(classic[f"D_end.{key}"]).max())), (
                key
            )
    lr = torch.from_numpy(classic["lr0_u8"]).permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        _near(network.eval()(lr), classic["eval_out"], 5e-3, "picture")
        _near(_load(classic, "G_end.", tmp_path)(lr), classic["eval_out"], 1e-5, "picture of the reference's weights")


@pytest.mark.parametrize("name", ["srcnn915", "srcnn955"])
def test_srcnn_trains_as_the_reference(name: str, classic: Arrays) -> None:
    weights = [torch.from_numpy(classic[f"{name}_w{number}"].copy()) for number in range(3)]
    sides = (weights[0].shape[2], weights[1].shape[2], weights[2].shape[2])
    network = SRCNN(widths=(weights[0].shape[0], weights[1].shape[0]), kernels=sides)
    for number, weight in enumerate(weights, 1):
        network.get_submodule(f"conv{number}").load_state_dict({"weight": weight, "bias": torch.zeros(len(weight))})
    if name == "srcnn955":  # trained without padding
        for layer in network.children():
            if isinstance(layer, nn.Conv2d):
                layer.padding = (0, 0)
    given, target = (torch.from_numpy(classic[f"{name}_{key}"]) for key in ("in", "target"))
    optimizer = make_optimizer(
        network.parameters(), learning_rate=0.1, name="sgd", betas=(0.9, 0), last=2, last_share=0.1
    )
    set_learning_rate(optimizer, 0.1)
    _near(network.refine(given), classic[f"{name}_out"], 1e-5, "output")
    for step in range(3):
        loss = mse(network.refine(given), target)
        assert loss.item() == pytest.approx(classic[f"{name}_losses"][step], rel=1e-4)
        if step < 2:
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    for number in range(3):
        ours = network.get_submodule(f"conv{number + 1}").get_parameter("weight")
        _near(ours, classic[f"{name}_w{number}_after2"], 1e-4, f"weights {number}")


def test_interpolated_networks_equal_the_reference_and_not_interpolated_pictures(
    golden: Golden, tmp_path: Path
) -> None:
    with np.load(golden("interpolation.npz"), allow_pickle=False) as file:
        arrays = {key: file[key] for key in file.files}
    raws = []
    for side in ("A", "B"):
        save_file(_state(arrays, f"{side}."), tmp_path / f"{side}.safetensors")
        raws.append(read_weights(tmp_path / f"{side}.safetensors"))
    picture = torch.from_numpy(arrays["input"])
    for number, alpha in enumerate(arrays["alphas"]):
        if not 0 <= alpha <= 1:
            continue
        model = build_model(blend(*raws, 1 - alpha), "blend")
        with torch.no_grad():
            output = model.network(picture)
        _near(output, arrays[f"out{number}"], 1e-5, f"alpha {alpha}")
        if 0 < alpha < 1:
            assert float(np.abs(output.numpy() - arrays[f"image_interp{number}"]).max()) > 1e-3
