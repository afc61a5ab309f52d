"""Teachers for distillation."""

from pathlib import Path
from typing import Any

import pytest
import torch
from networks import compact, rrdb
from realesr_train.teacher import make_teacher
from torch import Tensor, nn
from torch.nn import functional as F

from realesr_cli.errors import ModelNotFound, UsageError
from realesr_cli.models.reading import safetensors_bytes


def _file(network: nn.Module, path: Path) -> Path:
    path.write_bytes(safetensors_bytes(network.state_dict(), {}))
    return path


def _picture() -> Tensor:
    return torch.rand(2, 3, 8, 12, generator=torch.Generator().manual_seed(3))


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    return tuple(_file(compact(seed=seed).network, tmp_path / f"{seed}.safetensors") for seed in (1, 2))  # type: ignore[return-value]


def test_one_teacher_gives_what_its_network_gives_within_the_range_of_pictures(pair: tuple[Path, Path]) -> None:
    target = make_teacher([pair[0]], scale=4)(_picture())
    raw = compact(seed=1).network(_picture())
    assert raw.min() < 0 or raw.max() > 1, "or clamping could not be seen"
    assert torch.equal(target, raw.clamp(0, 1))
    assert target.dtype == torch.float32
    assert not torch.equal(target, target.mul(255).round() / 255), "not rounded"


def test_two_teachers_are_blended_by_their_weights(pair: tuple[Path, Path]) -> None:
    mixed = compact(seed=1).network
    other = compact(seed=2).network.state_dict()
    mixed.load_state_dict({key: 0.25 * value + 0.75 * other[key] for key, value in mixed.state_dict().items()})
    target = make_teacher(pair, scale=4, blend=0.25)(_picture())
    torch.testing.assert_close(target, mixed(_picture()).clamp(0, 1), rtol=0, atol=1e-6)


def test_or_by_their_outputs_which_is_something_else(pair: tuple[Path, Path]) -> None:
    first, second = (compact(seed=seed).network(_picture()) for seed in (1, 2))
    target = make_teacher(pair, scale=4, blend=0.25, mix="outputs")(_picture())
    torch.testing.assert_close(target, (0.25 * first + 0.75 * second).clamp(0, 1), rtol=0, atol=1e-6)
    assert (target - make_teacher(pair, scale=4, blend=0.25)(_picture())).abs().max() > 1e-3


def test_the_default_is_half_and_half_of_the_weights(pair: tuple[Path, Path]) -> None:
    default = make_teacher(pair, scale=4)(_picture())
    assert torch.equal(default, make_teacher(pair, scale=4, blend=0.5, mix="weights")(_picture()))
    torch.testing.assert_close(default, make_teacher(pair[::-1], scale=4)(_picture()))


def test_different_networks_can_be_mixed_by_outputs_only(pair: tuple[Path, Path], tmp_path: Path) -> None:
    other = _file(rrdb().network, tmp_path / "rrdb.safetensors")
    assert make_teacher([pair[0], other], scale=4, mix="outputs")(_picture()).shape == (2, 3, 32, 48)
    with pytest.raises(UsageError, match="different networks"):
        make_teacher([pair[0], other], scale=4)


def test_a_target_has_no_graph_and_can_be_trained_against(pair: tuple[Path, Path]) -> None:
    teacher = make_teacher([pair[0]], scale=4)
    lq = _picture().requires_grad_()
    target = teacher(lq)
    assert not target.requires_grad
    student = nn.Conv2d(3, 3, 1)
    F.mse_loss(student(F.interpolate(_picture(), scale_factor=4)) * target, target).backward()
    assert student.weight.grad is not None, "an inference tensor would have raised"


def test_low_precision_changes_little_and_gives_float32(pair: tuple[Path, Path]) -> None:
    exact = make_teacher([pair[0]], scale=4)(_picture())
    low = make_teacher([pair[0]], scale=4, autocast=torch.bfloat16)(_picture())
    assert low.dtype == torch.float32
    assert 0 < (low - exact).abs().max() < 0.05


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": 2}, "enlarges x4, the network x2"),
        ({"scale": 4, "blend": 1.5}, r"blend = 1\.5"),
        ({"scale": 4, "blend": float("nan")}, "blend = nan"),
    ],
)
def test_what_cannot_teach_is_named(pair: tuple[Path, Path], options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make_teacher(pair, **options)


def test_none_three_grey_and_absent_teachers_are_refused(pair: tuple[Path, Path], tmp_path: Path) -> None:
    for names in ([], [*pair, pair[0]]):
        with pytest.raises(UsageError, match="give one, or two to blend"):
            make_teacher(names, scale=4)
    grey = _file(compact(channels=1).network, tmp_path / "grey.safetensors")
    with pytest.raises(UsageError, match="not for RGB"):
        make_teacher([grey], scale=4)
    with pytest.raises(ModelNotFound):
        make_teacher([tmp_path / "absent.pth"], scale=4)


def test_a_patch_that_the_teacher_cannot_take_is_named(tmp_path: Path) -> None:
    teacher = make_teacher([_file(rrdb(unshuffle=2).network, tmp_path / "x2.safetensors")], scale=2)
    assert teacher(torch.zeros(1, 3, 6, 8)).shape == (1, 3, 12, 16)
    with pytest.raises(ValueError, match="multiples of 2"):
        teacher(torch.zeros(1, 3, 7, 8))


def test_the_official_mix_is_nearer_to_both_than_they_are_to_each_other(stocked_cache: Path) -> None:
    names = ("realesr-general-x4v3", "realesr-general-wdn-x4v3")
    lq = F.avg_pool2d(torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1)), 4)
    mixed, first, second = (make_teacher(chosen, scale=4, offline=True)(lq) for chosen in (names, names[:1], names[1:]))
    apart = (first - second).abs().mean()
    assert 0 < (mixed - first).abs().mean() < apart
    assert 0 < (mixed - second).abs().mean() < apart
    assert (mixed - F.interpolate(lq, scale_factor=4)).abs().mean() < 0.1
