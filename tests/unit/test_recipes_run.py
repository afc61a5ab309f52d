"""Recipes at their published size train: two steps of each stage on small patches, up to the model file."""

from collections.abc import Iterator
from pathlib import Path

import cv2
import pytest
import torch
from torch import Tensor

from realesr_cli.models.architectures import load_model
from realesr_cli.models.compact import SRVGGNetCompact
from realesr_cli.models.reading import safetensors_bytes
from realesr_cli.models.rrdb import RRDBNet
from realesr_train.recipes import find_recipe, list_recipes, load_stages
from realesr_train.train_config import TrainConfig
from recording import Events
from training import FAMILY, columns, train, write_photos

_STARTS_RANDOM = ("compact_x4", "compact_anime_x4", "debug_cpu", "realesr_lite_x4")
_VGG19 = ((64, 2), (128, 2), (256, 4), (512, 4), (512, 4))
"""Width and number of convolutions between two poolings. Source: Simonyan and Zisserman 2014, table 1, E."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos, pairs, and weights of the published shapes: none of the real ones is needed to run."""
    folder = tmp_path_factory.mktemp("recipes")
    for path in sorted(write_photos(folder / "photos", 12, 160, 176).iterdir()):
        small = cv2.resize(cv2.imread(str(path)), (44, 40), interpolation=cv2.INTER_AREA)
        (folder / "lr").mkdir(exist_ok=True)
        cv2.imwrite(str(folder / "lr" / path.name), small)
    generator = torch.Generator().manual_seed(0)
    tensors: dict[str, Tensor] = {}
    number, channels = 0, 3
    for width, count in _VGG19:
        for _ in range(count):
            scale = (2 / (9 * channels)) ** 0.5
            weight = torch.randn(width, channels, 3, 3, generator=generator) * scale
            tensors |= {
                f"features.{number}.weight": weight.half(),
                f"features.{number}.bias": torch.zeros(width).half(),
            }
            number, channels = number + 2, width
        number += 1
    (folder / "vgg19.safetensors").write_bytes(safetensors_bytes(tensors, {}))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        (folder / "x4.safetensors").write_bytes(safetensors_bytes(RRDBNet().state_dict(), {}))
        for name in ("teacher", "second"):
            teacher = SRVGGNetCompact(width=8, depth=2, scale=4)
            (folder / f"{name}.safetensors").write_bytes(safetensors_bytes(teacher.state_dict(), {}))
    return folder


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def stages_of(name: str, place: Path, run: Path) -> tuple[TrainConfig, ...]:
    """The recipe with all its sizes, batches of one picture a part, and two steps a stage."""
    recipe = find_recipe(name)
    published = load_stages(recipe, ["data.paired=true"] if name == "paired" else [])
    small = [
        f'data.folders=["{place / "photos"}"]', f'run.folder="{run}"', "run.steps=2", "run.log_every=1",
        "schedule.warmup=0", f"data.batch={published[0].data.accumulate}", "data.crop_px=128", "data.patch_px=32",
        "data.workers=1", "run.threads=1", "loss.adversarial.generator_after=0", "validation.crop_px=64",
        "validation.held_out=1", "pool.size=12", "pool.reuse=1",
    ]  # fmt: skip
    if name == "paired":
        small.append(f'data.lr_folders=["{place / "lr"}"]')
    if name not in _STARTS_RANDOM:
        first = "stage.0." if len(published) > 1 else ""
        small.append(f'{first}model.start_from="{place / "x4.safetensors"}"')
    if any(stage.loss.perceptual.used for stage in published):
        small.append(f'loss.perceptual.weights="{place / "vgg19.safetensors"}"')
    if published[0].loss.distill.teacher:
        small += [f'loss.distill.{role}="{place / role}.safetensors"' for role in ("teacher", "second")]
    stages = load_stages(recipe, small)
    for stage, real in zip(stages, published, strict=True):  # nothing else is another than published
        assert (stage.scale, stage.discriminator, stage.optim, stage.ema) == (
            real.scale, real.discriminator, real.optim, real.ema,
        )  # fmt: skip
        assert (stage.model.architecture, stage.model.width, stage.model.depth, stage.model.blocks) == (
            real.model.architecture, real.model.width, real.model.depth, real.model.blocks,
        )  # fmt: skip
    return stages


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(recipe.name, marks=pytest.mark.slow if recipe.name.startswith("realesr") else ())
        for recipe in list_recipes()
        if recipe.name not in FAMILY
    ],
)
def test_a_recipe_trains_and_its_model_loads(name: str, place: Path, tmp_path: Path) -> None:
    stages = stages_of(name, place, tmp_path / "run")
    events = Events()
    result = train(stages, events)
    assert result.steps == 2 * len(stages)
    model = load_model(result.model)
    assert model.scale == stages[0].scale and not events.of("warning")
    assert all(value.isfinite().all() for value in model.network.state_dict().values())
    for number, stage in enumerate(stages, 1):
        log = columns(tmp_path / "run" / f"stage{number}" if len(stages) > 1 else tmp_path / "run")
        loss = stage.loss
        used = {
            "pixel": loss.pixel.weight, "distill": loss.distill.weight, "perceptual": loss.perceptual.used,
            "adversarial": stage.is_adversarial, "d_real": stage.is_adversarial,
        }  # fmt: skip
        expected = {f"loss.{name}" for name, on in used.items() if on}
        assert expected <= set(log) and all(len(log[key]) == 2 for key in expected)
