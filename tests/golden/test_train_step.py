"""Three training steps against the original's: losses, outputs, gradients, and all weights at the end."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from realesr_cli.models.rrdb import RRDBNet
from realesr_train.discriminators.unet import UNetDiscriminator
from realesr_train.ema import Ema
from realesr_train.features import FeatureNetwork
from realesr_train.losses.perceptual import PerceptualLoss
from realesr_train.losses.pixel import l1
from realesr_train.optim import make_optimizer
from realesr_train.steps import Adversarial, Batch, Target, Term, Update, gan_step, generator_is_due, pixel_step

_NAMES = {
    "l_pix": "pixel",
    "l_g_pix": "pixel",
    "l_g_percep": "perceptual",
    "l_g_gan": "adversarial",
    "l_d_real": "d_real",
    "l_d_fake": "d_fake",
    "out_d_real": "logit_real",
    "out_d_fake": "logit_fake",
}


Arrays = dict[str, np.ndarray]


def _state(arrays: Arrays, prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): torch.from_numpy(arrays[key]) for key in arrays if key.startswith(prefix)}


def _perceptual(arrays: Arrays, weights: dict[str, float]) -> PerceptualLoss:
    names = {}
    number = 0
    for group, count in enumerate((2, 2, 4, 4, 4), 1):
        for i in range(1, count + 1):
            names[f"conv{group}_{i}"] = f"features.{number}"
            number += 2
        number += 1
    tensors = {}
    for key, value in _state(arrays, "vgg__").items():
        layer, part = key.split(".")
        tensors[f"{names[layer]}.{part}"] = value
    return PerceptualLoss(FeatureNetwork("vgg19", tensors, weights), weights)


def _unit(pictures: np.ndarray) -> Tensor:
    return torch.from_numpy(pictures.astype(np.float32) / np.float32(255))


class _Outputs:
    """What a network gave, in order."""

    def __init__(self, network: nn.Module) -> None:
        self.all: list[Tensor] = []
        network.register_forward_hook(lambda _, __, output: self.all.append(output.detach().clone()))


def _gradient_norms(network: nn.Module, names: list[str]) -> np.ndarray:
    gradients = {name: parameter.grad for name, parameter in network.named_parameters()}
    assert gradients.keys() == set(names)
    return np.array([float(g.double().norm()) for g in (gradients[name] for name in names) if g is not None])


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """So small networks only wait for a second one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def arrays(golden: Callable[[str], Path]) -> Arrays:
    with np.load(golden("train_step.npz"), allow_pickle=False) as file:
        return {key: file[key] for key in file.files}


@pytest.mark.parametrize("case", ["net", "gan", "ganp", "flags"])
def test_three_steps_equal_the_original(case: str, arrays: Arrays) -> None:
    config = json.loads(str(arrays[f"{case}__config"]))
    train = config["train"]
    networks = {"g": RRDBNet(width=8, blocks=1, growth=4), "d": UNetDiscriminator(width=4)}
    for letter, network in networks.items():
        network.load_state_dict(_state(arrays, f"init_{letter}__"))
    updates = {k: Update(optimizer=make_optimizer(n.parameters(), learning_rate=1e-3)) for k, n in networks.items()}
    ema = Ema(networks["g"], train["ema_decay"])
    outputs = _Outputs(networks["g"])

    def target(flag: str) -> Target:
        return "gt_usm" if config.get(flag, False) else "gt"

    terms = [Term(name="pixel", weight=1.0, loss=l1, target=target("l1_gt_usm"))]
    if "perceptual_opt" in train:
        loss = _perceptual(arrays, train["perceptual_opt"]["layer_weights"])
        terms.append(Term(name="perceptual", weight=1.0, loss=loss, target=target("percep_gt_usm")))
    game = Adversarial(weight=0.1, target=target("gan_gt_usm"))

    rows = {"g": 0, "d": 0}  # updates so far
    for t in range(3):
        lq, gt = _unit(arrays["lq_u8"][t]), _unit(arrays["gt_u8"][t])
        batch = Batch(lq=lq, gt=gt, gt_usm=torch.from_numpy(arrays["gt_usm"][t]))
        if case == "net":
            due = ["g"]
            losses = pixel_step(networks["g"], [batch], terms, updates["g"], ema=ema)
        else:
            g_is_due = generator_is_due(t + 1, every=train["net_d_iters"], after=train["net_d_init_iters"])
            due = ["g", "d"] if g_is_due else ["d"]
            losses = gan_step(
                networks["g"], networks["d"], [batch], terms, game, updates["g"], updates["d"],
                update_generator=g_is_due, ema=ema,
            )  # fmt: skip
        for name, expected in zip(arrays[f"{case}__loss_names"], arrays[f"{case}__losses"][t], strict=True):
            ours = losses[_NAMES[name]].item() if _NAMES[name] in losses else float("nan")
            assert ours == pytest.approx(expected, abs=1e-5, nan_ok=True), f"{name} in step {t + 1}"
        assert np.abs(outputs.all[-1].numpy() - arrays[f"{case}__output"][t]).max() <= 1e-6
        for letter in due:
            names = arrays[f"{case}__{letter}_param_names"].tolist()
            expected = arrays[f"{case}__gradnorm_{letter}_param64"][rows[letter]]
            np.testing.assert_allclose(_gradient_norms(networks[letter], names), expected, rtol=1e-4, atol=1e-5)
            total = arrays[f"{case}__gradnorm_{letter}_total"][rows[letter]]
            assert losses[f"gradient_norm_{letter}"].item() == pytest.approx(total, rel=1e-4)
            assert losses[f"skipped_{letter}"].item() == 0
            rows[letter] += 1

    ends: list[tuple[str, nn.Module, float]] = [("final_g", networks["g"], 5e-6), ("ema_g", ema.network, 5e-6)]
    if case != "net":
        ends.append(("final_d", networks["d"], 1e-4))
    for prefix, network, tolerance in ends:
        expected_state = _state(arrays, f"{case}__{prefix}__")
        state = network.state_dict()
        assert state.keys() == expected_state.keys()
        for key, value in expected_state.items():
            error = float((state[key] - value).abs().max())
            assert error <= tolerance, f"{prefix} {key}: {error:.1e}"
