"""Every recipe of the family trains a little at tiny sizes, and what comes of it enlarges a picture."""

import math
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from realesr_cli import Upscaler
from realesr_cli.models.srcnn import SRCNN
from realesr_cli.reporting import NULL
from realesr_train.optim import make_optimizer, set_learning_rate
from realesr_train.parts import make_network
from realesr_train.recipes import find_recipe, load_stages
from realesr_train.train_config import TrainConfig
from training import FAMILY, columns, train, write_photos

_STEPS = 20


@pytest.fixture(scope="module")
def vgg19(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """VGG19 with four channels everywhere, and weights that nobody has trained."""
    path = tmp_path_factory.mktemp("vgg") / "vgg19.safetensors"
    generator = torch.Generator().manual_seed(0)
    tensors, before, number = {}, 3, 0
    for count in (2, 2, 4, 4, 4):
        for _ in range(count):
            weight = torch.randn(4, before, 3, 3, generator=generator) * math.sqrt(2 / (9 * before))
            tensors[f"features.{number}.weight"], tensors[f"features.{number}.bias"] = weight, torch.zeros(4)
            before, number = 4, number + 2
        number += 1
    save_file(tensors, path)
    return path


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photos(tmp_path_factory.mktemp("photos"), count=4, height=144, width=160)


@pytest.fixture(scope="module")
def pools(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two kernels for x4 and two patches of noise."""
    folders = {name: tmp_path_factory.mktemp(name) for name in ("kernels", "noise")}
    rng = np.random.default_rng(0)
    for number in range(2):
        np.savez(folders["kernels"] / f"{number}.npz", kernel=rng.random((9, 9)), scale=4)
        cv2.imwrite(str(folders["noise"] / f"{number}.png"), rng.integers(100, 120, (48, 48, 3)).astype(np.uint8))
    return folders


def _tiny(name: str, photos: Path, vgg19: Path, pools: dict[str, Path], run: Path) -> list[str]:
    stages = load_stages(find_recipe(name))
    kind = stages[-1].discriminator.kind if stages[-1].is_adversarial else ""
    side = 128 if kind == "vgg" else 32
    scale = stages[0].scale
    pairs = {
        "run.folder": f'"{run}"', "run.steps": _STEPS, "run.log_every": 1, "run.precision": '"fp32"', "run.threads": 1,
        "model.width": 8, "model.depth": 1, "model.blocks": 1, "model.growth": 4, "model.start_from": '""',
        "data.folders": f'["{photos}"]', "data.patch_px": side, "data.crop_px": side + 8 * scale, "data.batch": 2,
        "data.accumulate": 1, "data.workers": 1, "pool.size": 0, "schedule.kind": '"constant"', "optim.lr": 1e-3,
        "loss.perceptual.weights": f'"{vgg19}"', "discriminator.width": 4, "validation.every": 0,
        "checkpoint.every": 99, "schedule.milestones": [], "schedule.warmup": 0, "model.start_partly": "false",
    }  # fmt: skip
    if stages[0].degradation.kind == "realsr":
        pairs["degradation.noise"] = f'"{pools["noise"]}"'
        if name == "realsr_dped_x4":
            pairs["degradation.kernels"] = f'"{pools["kernels"]}"'
    return [f"{key}={value}" for key, value in pairs.items()]


@pytest.mark.parametrize("name", FAMILY)
def test_a_recipe_trains_with_finite_and_moving_losses_to_a_model_that_loads(
    name: str, photos: Path, vgg19: Path, pools: dict[str, Path], tmp_path: Path
) -> None:
    stages = load_stages(find_recipe(name), _tiny(name, photos, vgg19, pools, tmp_path / "run"))
    result = train(stages)
    folders = [tmp_path / "run"] if len(stages) == 1 else sorted((tmp_path / "run").glob("stage*"))
    assert len(folders) == len(stages)
    for config, folder in zip(stages, folders, strict=True):
        losses = columns(folder)
        wanted = {"loss.pixel"} if config.loss.pixel.weight else set()
        wanted |= {"loss.perceptual"} if config.loss.perceptual.used else set()
        wanted |= {"loss.adversarial", "loss.d_real", "loss.d_fake"} if config.is_adversarial else set()
        assert wanted <= set(losses)
        for key in wanted:
            values = list(losses[key].values())
            assert len(values) == _STEPS and all(map(math.isfinite, values)), key
            assert len({round(value, 9) for value in values}) > _STEPS // 2, key
    with Upscaler(result.model) as upscaler:
        picture = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
        assert upscaler(picture).shape == (24 * stages[0].scale, 32 * stages[0].scale, 3)


def test_the_recipes_of_the_family_have_their_papers_numbers() -> None:
    one, two = load_stages(find_recipe("esrgan_x4"))
    assert (one.optim.lr, two.optim.lr, two.schedule.milestones) == (2e-4, 1e-4, (50_000, 100_000, 200_000, 300_000))
    loss = two.loss
    assert (loss.pixel.weight, loss.perceptual.weight, loss.adversarial.weight) == (1e-2, 1.0, 5e-3)
    assert loss.adversarial.relativistic and loss.perceptual.layers == (("conv5_4", 1.0),)
    (psnr,) = load_stages(find_recipe("esrgan_psnr_x4"))
    assert (psnr.optim, psnr.schedule, psnr.run.steps) == (one.optim, one.schedule, one.run.steps)
    _, srgan = load_stages(find_recipe("srgan_x4"))
    assert (srgan.loss.pixel.weight, srgan.loss.adversarial.weight, srgan.loss.perceptual.distance) == (0, 1e-3, "mse")
    ((layer, weight),) = srgan.loss.perceptual.layers
    assert layer == "relu5_4" and weight == pytest.approx(1 / 12.75**2, rel=1e-6)
    assert (srgan.schedule.milestones, srgan.schedule.gamma) == ((100_000,), 0.1)
    for name, kind in (("realsr_x4", "vgg"), ("realsr_dped_x4", "patch")):
        (config,) = load_stages(find_recipe(name))
        assert (config.discriminator.kind, config.run.steps, config.schedule.milestones[0]) == (kind, 60_000, 5_000)
        assert config.loss.adversarial == loss.adversarial


def test_srcnn_by_sgd_goes_on_after_an_interruption_as_if_there_had_been_none(photos: Path, tmp_path: Path) -> None:
    def stages(folder: str, steps: int) -> tuple[TrainConfig, ...]:
        overrides = _tiny("srcnn_x4", photos, tmp_path / "none", {}, tmp_path / folder)
        more = ['optim.name="sgd"', 'model.init="gaussian"', f"run.steps={steps}", "optim.lr=0.1"]
        return load_stages(find_recipe("srcnn_x4"), [*overrides, *more])

    train(stages("whole", 8))
    train(stages("parts", 5))
    train(stages("parts", 8), allow_change=True)
    whole, parts = (columns(tmp_path / folder)["loss.pixel"] for folder in ("whole", "parts"))
    assert whole == parts and len(whole) == 8 and len(set(whole.values())) == 8


def test_the_last_layer_of_srcnn_learns_with_a_tenth_of_the_rate() -> None:
    (config,) = load_stages(find_recipe("srcnn_x4"))
    network = make_network(config, NULL)
    optimizer = make_optimizer(network.parameters(), learning_rate=1e-4, last=2, last_share=config.optim.last_share)
    set_learning_rate(optimizer, 2e-4)
    others, last = optimizer.param_groups
    assert (others["lr"], last["lr"]) == (2e-4, pytest.approx(2e-5))
    assert isinstance(network, SRCNN) and [id(one) for one in last["params"]] == [
        id(one) for one in network.conv3.parameters()
    ]


def test_paths_of_overrides_are_relative_to_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (config,) = load_stages(find_recipe("realsr_x4"), ['degradation.noise="noise"', 'model.start_from="bsrnet"'])
    assert config.degradation.noise == tmp_path / "noise" and config.model.start_from == "bsrnet"


def test_dense_blocks_start_at_a_tenth_of_hes_weights() -> None:
    (config,) = load_stages(find_recipe("esrgan_psnr_x4"), ["model.blocks=1"])
    weight = make_network(config, NULL).get_submodule("body.0.rdb2.conv3").get_parameter("weight")
    expected = 0.1 * math.sqrt(2 / weight[0].numel())
    assert float(weight.detach().std()) == pytest.approx(expected, rel=0.05)
