"""Training configurations: recipes, bases, stages, overrides, and what does not fit together."""

import ast
import dataclasses
from pathlib import Path
from typing import Any

import pytest

from realesr_cli.errors import ConfigError
from realesr_train import loss_config, train_config
from realesr_train.recipes import find_recipe, list_recipes, load_config, load_stages
from realesr_train.tables import dump
from realesr_train.train_checks import FREE_KEYS, check, differences
from realesr_train.train_config import TrainConfig

RECIPES = {
    "bsrgan_x4": (4, 2), "bsrnet_x4": (4, 1), "esrgan_psnr_x4": (4, 1), "esrgan_x4": (4, 2), "realsr_dped_x4": (4, 1),
    "realsr_x4": (4, 1), "srcnn_x4": (4, 1), "srgan_x4": (4, 2), "srresnet_x4": (4, 1),
    "compact_anime_x4": (4, 2), "compact_x4": (4, 2), "debug_cpu": (2, 1), "finetune_x4": (4, 1), "paired": (4, 1),
    "realesr_lite_x4": (4, 3),
    "realesrgan_x1": (1, 2), "realesrgan_x2": (2, 2), "realesrgan_x4": (4, 2), "realesrnet_x4": (4, 1),
}  # fmt: skip
"""Name -> scale and number of stages."""


def _file(folder: Path, text: str) -> Path:
    path = folder / "run.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_recipes_are_these_and_each_says_what_it_is_for() -> None:
    assert [recipe.name for recipe in list_recipes()] == sorted(RECIPES)
    assert all(len(recipe.about) > 20 for recipe in list_recipes())


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_loads_and_its_resolved_text_loads_to_the_same(name: str, tmp_path: Path) -> None:
    stages = load_stages(find_recipe(name))
    assert (stages[0].scale, len(stages)) == RECIPES[name]
    for config in stages:
        path = _file(tmp_path, dump(config))
        assert load_config(path) == config
        assert load_stages(path) == (config,)


def test_the_recipes_have_the_published_numbers() -> None:
    one, two = load_stages(find_recipe("realesrgan_x4"))
    assert (one.run.steps, one.optim.lr, one.data.sharpen_target) == (1_000_000, 2e-4, True)
    assert one.loss.targets() == {"gt"} and not one.is_adversarial
    assert (two.run.steps, two.optim.lr, two.discriminator.lr, two.data.sharpen_target) == (400_000, 1e-4, 1e-4, False)
    loss = two.loss
    assert (loss.pixel.weight, loss.perceptual.weight, loss.adversarial.weight) == (1.0, 1.0, 0.1)
    assert (loss.pixel.target, loss.perceptual.target, loss.adversarial.target) == ("gt_usm", "gt_usm", "gt")
    assert dict(loss.perceptual.layers) == {
        "conv1_2": 0.1, "conv2_2": 0.1, "conv3_4": 1.0, "conv4_4": 1.0, "conv5_4": 1.0,
    }  # fmt: skip
    for config in (one, two):
        assert (config.data.crop_px, config.data.patch_px, config.data.batch, config.pool.size) == (400, 256, 48, 180)
        assert (config.optim.betas, config.ema.decay, config.schedule.kind) == ((0.9, 0.99), 0.999, "constant")
        assert (config.model.width, config.model.blocks, config.model.growth) == (64, 23, 32)
    assert load_stages(find_recipe("realesrnet_x4"))[0].optim == one.optim


def test_a_file_replaces_a_recipe_key_by_key(tmp_path: Path) -> None:
    path = _file(tmp_path, 'base = "debug_cpu"\n[optim]\nlr = 2e-3\n[degradation.final]\nsinc_probability = 0.5\n')
    (config,), (recipe,) = load_stages(path), load_stages(find_recipe("debug_cpu"))
    changed = differences(recipe, config)
    assert changed == [("degradation.final.sinc_probability", 0.0, 0.5), ("optim.lr", 1e-3, 2e-3)]


def test_what_a_file_says_counts_more_than_the_stages_of_its_base(tmp_path: Path) -> None:
    one, two = load_stages(_file(tmp_path, 'base = "realesrgan_x4"\n[optim]\nlr = 3e-5\n[run]\nsteps = 7'))
    assert (one.optim.lr, two.optim.lr, one.run.steps, two.run.steps) == (3e-5, 3e-5, 7, 7)
    assert two.is_adversarial and not one.is_adversarial
    (only,) = load_stages(_file(tmp_path, 'base = "realesrgan_x4"\n[[stage]]\nrun.steps = 5'))
    assert only.run.steps == 5 and only.optim.lr == 1e-4


def test_overrides_go_into_every_stage_or_into_one() -> None:
    path = find_recipe("realesrgan_x4")
    one, two = load_stages(path, ["optim.lr=5e-5", "run.seed=9"])
    assert (one.optim.lr, two.optim.lr, one.run.seed, two.run.seed) == (5e-5, 5e-5, 9, 9)
    one, two = load_stages(path, ["stage.1.optim.lr=5e-5"])
    assert (one.optim.lr, two.optim.lr) == (2e-4, 5e-5)


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "w.pth").touch()
    text = """
    [run]
    folder = "out"
    [data]
    folders = ["photos", "/abs"]
    [model]
    start_from = "w.pth"
    [discriminator]
    start_from = "some-name"
    """
    (config,) = load_stages(_file(tmp_path, text))
    assert config.run.folder == tmp_path / "out"
    assert config.data.folders == (tmp_path / "photos", Path("/abs"))
    assert config.model.start_from == str(tmp_path / "w.pth")
    assert config.discriminator.start_from == "some-name"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[optim]\nlearningrate = 1", ["unknown key optim.learningrate"]),
        ("[optim]\nbeta = 1", ["unknown key optim.beta", "did you mean betas?"]),
        ("[los]", ["unknown key los", "did you mean loss?"]),
        ("[[stage]]\noptim.lr2 = 1", ["unknown key optim.lr2", "did you mean lr?"]),
        ("stage = 3", ["stage must be one or more tables"]),
        ('base = "realesrgan_x3"', ["no recipe is called realesrgan_x3", "did you mean realesrgan_x"]),
        ("base = 4", ["base = 4"]),
        ("[optim]\nlr = -1", ["optim.lr = -1"]),
        ("[data]\nworkers = 0", ["data.workers = 0 must be from 1 to 256"]),
        ("[data]\npatch_px = 250", ["data.patch_px = 250 must be a multiple of the scale 4", "for example 248"]),
        ("[data]\ncrop_px = 128", ["data.patch_px = 256 does not fit into data.crop_px = 128"]),
        ("[data]\ncrop_px = 48\npatch_px = 32", ["passes[0] shrinks it to 7 px, below 8", "at least 56 px"]),
        ("[data]\nbatch = 10\naccumulate = 4", ["data.batch = 10 must be a multiple of accumulate = 4"]),
        ("[pool]\nreuse = 5", ["data.batch = 48 must be a multiple of pool.reuse = 5"]),
        ("[pool]\nreuse = 4\nsize = 40", ["needs a pool of at least one batch, 48"]),
        ('[pool]\nreuse = 4\n[data]\nlr_folders = ["a"]', ["pool.reuse = 4: pairs that exist"]),
        ("[degradation]\nplain_probability = 2", ["plain_probability = 2"]),
        ("scale = 3", ["is for scales 1, 2, 4 and 8", "compact"]),
        ("scale = 1\n[data]\npatch_px = 254\n", ["data.patch_px = 254", "multiple of 4"]),
        ('[discriminator]\nkind = "vgg"\n[loss.adversarial]\nweight = 1\n[data]\npatch_px = 64', ["128 or 256"]),
        ("[data]\npatch_px = 252\n[loss.adversarial]\nweight = 1", ["data.patch_px = 252", "a multiple of 8"]),
        (
            '[schedule]\nkind = "multistep"\nmilestones = [100]\n[run]\nsteps = 100',
            ["100 never acts in run.steps = 100"],
        ),
        ('[schedule]\nkind = "multistep"', ["schedule.milestones = []"]),
        ("[schedule]\nwarmup = 11\n[run]\nsteps = 10", ["schedule.warmup = 11 is longer"]),
        ("[loss.pixel]\nweight = 0", ["all losses have the weight 0"]),
        ('[loss.pixel]\ntarget = "teacher"', ['loss.pixel.target = "teacher" needs distill.teacher']),
        ("[loss.distill]\nweight = 1", ["loss.distill.teacher is missing"]),
        ('[loss.perceptual]\nlayers = [["conv1_2", "a"]]', ["loss.perceptual.layers[0][1]"]),
        ('[model]\ninit = "bilinear"', ['model.init = "bilinear" is for architecture = "compact"']),
        ('[data]\nsharpen_target = true\n[loss.pixel]\ntarget = "gt_usm"', ["would sharpen twice"]),
        ('[run]\nname = "a/b"', ["run.name = 'a/b' must be a name"]),
        ("[[stage]]\nscale = 2\n[[stage]]", ["stages of one run must have one scale"]),
        ("[[stage]]\n[[stage]]\n[stage.data]\npatch_px = 6000", ["data.patch_px = 6000"]),
        ("[[stage]]\n[[stage]]\n[stage.data]\npatch_px = 250", ["stage 2: data.patch_px = 250"]),
    ],
)
def test_what_cannot_be_is_refused_by_name(text: str, words: list[str], tmp_path: Path) -> None:
    path = _file(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load_stages(path)
    said = f"{caught.value.message}\n{caught.value.hint}"
    for word in [str(path), *words]:
        assert word in said
    assert "\n" not in caught.value.message


def test_paired_data_needs_no_crop(tmp_path: Path) -> None:
    (config,) = load_stages(_file(tmp_path, '[data]\nlr_folders = ["lr"]\ncrop_px = 33\npatch_px = 64'))
    assert config.is_paired


def test_differences_name_what_changes_the_result_and_nothing_else(tmp_path: Path) -> None:
    old, new = load_stages(_file(tmp_path, "")), load_stages(_file(tmp_path, "[data]\nworkers = 9\nflips = false"))
    assert differences(old[0], new[0]) == [("data.flips", True, False)]
    assert differences(old[0], old[0]) == []


def test_every_free_key_exists() -> None:
    for key in FREE_KEYS:
        place: Any = TrainConfig()
        for part in key.split("."):
            place = getattr(place, part)


def test_every_key_is_explained() -> None:
    files = (Path(module.__file__ or "") for module in (train_config, loss_config))
    records = [node for file in files for node in ast.parse(file.read_text(encoding="utf-8")).body]
    sections = {field.name for field in dataclasses.fields(TrainConfig)} | {
        "pixel",
        "perceptual",
        "adversarial",
        "distill",
    }
    for record in (node for node in records if isinstance(node, ast.ClassDef)):
        for node, after in zip(record.body, [*record.body[1:], None], strict=True):
            if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
                continue
            explained = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
            assert explained or node.target.id in sections, f"{record.name}.{node.target.id} has no docstring"


def test_the_defaults_fit_together() -> None:
    check(TrainConfig())
