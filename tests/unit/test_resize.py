"""Resampling: torch's own numbers, own borders, mixed batches, independence of the batch, gradients, errors."""

import math
import random

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from realesr_train.degradation import resize

_AREA, _BILINEAR, _BICUBIC = range(3)


def _torch_resize(pixels: Tensor, mode: int, **how: object) -> Tensor:
    corners = {} if mode == _AREA else {"align_corners": False}
    return F.interpolate(pixels, mode=resize.MODES[mode], **how, **corners)  # type: ignore[arg-type]


def _case(seed: int, count: int, height: int, width: int, factor: float) -> dict[str, Tensor]:
    """Images up to 63 pixels smaller than the canvas, random targets and modes; huge numbers outside the images."""
    generator = torch.Generator().manual_seed(seed)

    def side(low: int, high: int) -> Tensor:
        return torch.randint(low, high + 1, (count,), generator=generator)

    sizes = torch.stack([side(max(1, length - 63), length) for length in (height, width)], 1)
    targets = torch.stack([side(1, int(factor * length)) for length in (height, width)], 1)
    pixels = torch.rand(count, 3, height, width, generator=generator)
    for i, (h, w) in enumerate(sizes.tolist()):
        pixels[i, :, h:] = 1e30
        pixels[i, :, :, w:] = -1e30
    return {"pixels": pixels, "target_sizes": targets, "modes": side(0, 2), "sizes": sizes}


def _one(case: dict[str, Tensor], i: int) -> dict[str, Tensor]:
    return {name: value[i : i + 1] for name, value in case.items()}


@pytest.mark.parametrize("mode", range(3))
def test_resize_equals_torch_for_random_sizes(mode: int) -> None:
    chance = random.Random(mode)
    for _ in range(60):
        largest = chance.choice((6, 40, 600))
        height, width, *target = (chance.randint(1, largest) for _ in range(4))
        pixels = torch.rand(1, 3, height, width)
        found = resize.resize(pixels, torch.tensor([target]), torch.tensor([mode]))
        expected = _torch_resize(pixels, mode, size=tuple(target))
        assert float((found - expected).abs().max()) <= 5e-6, (height, width, target)


@pytest.mark.parametrize("mode", range(3))
def test_resize_with_steps_equals_torch_by_factor(mode: int) -> None:
    chance = random.Random(10 + mode)
    for _ in range(40):
        height, width = chance.randint(8, 500), chance.randint(8, 500)
        factor = chance.uniform(0.15, 1.5)
        pixels = torch.rand(1, 3, height, width)
        expected = _torch_resize(pixels, mode, scale_factor=factor)
        steps = torch.full((1, 2), 1 / factor, dtype=torch.float64)
        found = resize.resize(pixels, torch.tensor([expected.shape[2:]]), torch.tensor([mode]), steps=steps)
        assert float((found - expected).abs().max()) <= 5e-6, (height, width, factor)


def test_the_legacy_step_is_not_the_ratio_of_the_sizes() -> None:
    pixels = torch.rand(1, 3, 30, 30)
    steps = torch.full((1, 2), 1 / 0.35, dtype=torch.float64)
    target, mode = torch.tensor([[10, 10]]), torch.tensor([_BICUBIC])
    fixed = resize.resize(pixels, target, mode)
    assert float((resize.resize(pixels, target, mode, steps=steps) - fixed).abs().max()) > 0.1


def test_a_mixed_ragged_batch_equals_torch_on_each_image() -> None:
    case = _case(1, 9, 150, 100, 1.5)
    case["modes"] = torch.arange(9) % 3
    found = resize.resize(**case)
    assert found.shape[2:] == tuple(case["target_sizes"].amax(0).tolist())
    assert bool(torch.isfinite(found).all())
    for i in range(9):
        (h, w), (th, tw) = case["sizes"][i].tolist(), case["target_sizes"][i].tolist()
        expected = _torch_resize(case["pixels"][i : i + 1, :, :h, :w], int(case["modes"][i]), size=(th, tw))
        assert float((found[i : i + 1, :, :th, :tw] - expected).abs().max()) <= 5e-6


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("canvas", [(64, 64), (128, 192), (64, 448), (448, 384)])
def test_an_image_has_the_same_bits_alone_and_in_a_batch(canvas: tuple[int, int], threads: int) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        for seed in range(2):
            case = _case(seed, 5, *canvas, 2.0)
            # an extreme reduction beside the others makes their windows long
            case["target_sizes"][4] = torch.tensor((9, 5))
            large = (2 * canvas[0], 2 * canvas[1])
            together = resize.resize(**case, canvas=large)
            assert together.shape[2:] == large
            for i, (h, w) in enumerate(case["target_sizes"].tolist()):
                alone = resize.resize(**_one(case, i), canvas=large)
                assert torch.equal(alone[0, :, :h, :w], together[i, :, :h, :w])
    finally:
        torch.set_num_threads(before)


def test_a_longer_sum_beside_it_does_not_change_an_image() -> None:
    """A matrix product of 448 terms, most of them zero, may round otherwise than the same one of 304."""
    pixels = torch.rand(2, 3, 64, 448, generator=torch.Generator().manual_seed(0))
    targets, modes, sizes = (
        torch.tensor([[14, 49], [43, 29]]),
        torch.zeros(2, dtype=torch.int64),
        [[34, 445], [31, 438]],
    )
    case = {"pixels": pixels, "target_sizes": targets, "modes": modes, "sizes": torch.tensor(sizes)}
    together = resize.resize(**case, canvas=(128, 896))
    alone = resize.resize(**_one(case, 0), canvas=(128, 896))
    assert torch.equal(alone[0, :, :14, :49], together[0, :, :14, :49])


def test_the_canvas_does_not_matter() -> None:
    case = _case(3, 5, 128, 64, 2.0)
    together = resize.resize(**case, canvas=(300, 301))
    for i, (h, w) in enumerate(case["target_sizes"].tolist()):
        one = _one(case, i)
        rows, columns = one["sizes"][0].tolist()
        tight = resize.resize(one["pixels"][:, :, :rows, :columns], one["target_sizes"], one["modes"])
        assert tight.shape[2:] == (h, w)
        assert float((tight[0] - together[i, :, :h, :w]).abs().max()) <= 1e-6


@pytest.mark.parametrize("mode", range(3))
def test_a_flat_picture_stays_flat_and_the_same_size_stays_the_same(mode: int) -> None:
    flat = torch.full((1, 3, 37, 23), 0.7)
    for target in ((5, 80), (37, 23), (1, 1), (100, 3)):
        found = resize.resize(flat, torch.tensor([target]), torch.tensor([mode]))
        assert found.shape[2:] == target
        assert float((found - 0.7).abs().max()) <= 1e-6
    pixels = torch.rand(1, 3, 37, 23)
    same = resize.resize(pixels, torch.tensor([[37, 23]]), torch.tensor([mode]))
    assert float((same - pixels).abs().max()) <= 1e-6


@pytest.mark.parametrize("mode", range(3))
def test_gradients_are_those_of_finite_differences_and_stay_inside_the_image(mode: int) -> None:
    case = _case(4, 2, 6, 5, 2.0) | {"modes": torch.full((2,), mode), "sizes": torch.tensor([[6, 5], [4, 3]])}
    x = case.pop("pixels").clamp(-1, 1).double().requires_grad_(True)
    assert torch.autograd.gradcheck(lambda value: resize.resize(value, **case), x)
    (gradient,) = torch.autograd.grad(resize.resize(x, **case).sum(), x)
    assert float(gradient[1, :, 4:].abs().max()) == 0 and float(gradient[1, :, :, 3:].abs().max()) == 0
    assert float(gradient.abs().max()) > 0


def test_imresize_of_the_same_size_returns_the_picture() -> None:
    pixels = torch.rand(2, 3, 13, 17)
    for how in ({"scale": 1.0}, {"size": (13, 17)}):
        assert float((resize.imresize(pixels, **how) - pixels).abs().max()) <= 1e-6


def test_imresize_rounds_the_size_up_and_keeps_a_flat_picture() -> None:
    for height, width, scale in ((10, 7, 0.33), (5, 9, 1.7), (3, 2, 0.1), (40, 41, 0.5)):
        found = resize.imresize(torch.full((1, 1, height, width), 0.3), scale=scale)
        assert found.shape == (1, 1, math.ceil(height * scale), math.ceil(width * scale))
        assert float((found - 0.3).abs().max()) <= 1e-6


def test_imresize_to_a_size_equals_that_by_its_scale() -> None:
    pixels = torch.rand(1, 3, 24, 36)
    assert torch.equal(resize.imresize(pixels, size=(12, 18)), resize.imresize(pixels, scale=0.5))
    assert resize.imresize(pixels, size=(50, 7)).shape == (1, 3, 50, 7)


def test_antialiasing_removes_what_the_result_cannot_hold() -> None:
    stripes = (torch.arange(400) % 2).float().expand(1, 3, 64, 400)
    inner = (slice(None), slice(None), slice(None), slice(10, 90))
    assert float((resize.imresize(stripes, scale=0.25)[inner] - 0.5).abs().max()) <= 1e-3
    skewed = stripes[..., :399]
    assert float((resize.imresize(skewed, size=(16, 101), antialias=False)[inner] - 0.5).abs().max()) > 0.3


def test_imresize_handles_a_large_picture_in_memory_of_its_size() -> None:
    """A dense 2000 x 8000 matrix per axis would take 60 times the products of this banded one."""
    pixels = torch.rand(1, 1, 2000, 3000)
    found = resize.imresize(pixels, scale=0.25)
    assert found.shape == (1, 1, 500, 750)
    patch = resize.imresize(pixels[:, :, 800:880, 1600:1680], scale=0.25)
    assert float((found[:, :, 204:216, 404:416] - patch[:, :, 4:16, 4:16]).abs().max()) <= 1e-6


def test_gradients_of_imresize_are_those_of_finite_differences() -> None:
    x = torch.rand(1, 2, 7, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda value: resize.imresize(value, scale=0.6), x)
    assert torch.autograd.gradcheck(lambda value: resize.imresize(value, size=(9, 11)), x)


def test_wrong_arguments_are_named() -> None:
    pixels = torch.rand(2, 3, 8, 8)
    target, modes = torch.tensor([[4, 4], [5, 5]]), torch.tensor([0, 2])
    steps = torch.ones(2, 2, dtype=torch.float64)
    for name, call in (
        ("pixels", lambda: resize.resize(pixels.half(), target, modes)),
        ("pixels", lambda: resize.resize(pixels[:0], target[:0], modes[:0])),
        ("sizes", lambda: resize.resize(pixels, target, modes, torch.full((2, 2), 9))),
        ("target_sizes", lambda: resize.resize(pixels, target[:1], modes)),
        ("target_sizes", lambda: resize.resize(pixels, target * 0, modes)),
        ("target_sizes", lambda: resize.resize(pixels, target.float(), modes)),
        ("modes", lambda: resize.resize(pixels, target, modes + 1)),
        ("modes", lambda: resize.resize(pixels, target, modes[None])),
        ("steps", lambda: resize.resize(pixels, target, modes, steps=steps.float())),
        ("steps", lambda: resize.resize(pixels, target, modes, steps=steps * 0)),
        ("steps", lambda: resize.resize(pixels, target, modes, steps=steps * math.inf)),
        ("canvas", lambda: resize.resize(pixels, target, modes, canvas=(5, 4))),
        ("scale, size", lambda: resize.imresize(pixels)),
        ("scale, size", lambda: resize.imresize(pixels, scale=2.0, size=(3, 3))),
        ("scale", lambda: resize.imresize(pixels, scale=0.0)),
        ("size", lambda: resize.imresize(pixels, size=(0, 3))),
        ("pixels", lambda: resize.imresize(pixels[0], scale=2.0)),
    ):
        with pytest.raises(ValueError, match=f"^{name}: "):
            call()


@pytest.mark.gpu
def test_a_cuda_device_gives_the_same_without_waiting() -> None:
    case = _case(6, 5, 128, 64, 1.5)
    device_pixels = case["pixels"].cuda()
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = resize.resize(**case | {"pixels": device_pixels})
        small = resize.imresize(device_pixels[:1], scale=0.3)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    expected = resize.resize(**case)
    for i, (h, w) in enumerate(case["target_sizes"].tolist()):
        assert float((found[i, :, :h, :w].cpu() - expected[i, :, :h, :w]).abs().max()) <= 5e-6
    assert small.shape == (1, 3, 39, 20)
