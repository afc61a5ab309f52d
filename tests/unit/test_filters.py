"""Kernels, blur and sharpening: invariants, own borders, independence of the batch, gradients, errors."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from realesr_train.degradation import filters, kernels
from realesr_train.degradation.canvas import checked_sizes, pad, reflected

_CANVASES = ((64, 64), (128, 64), (64, 192), (7, 5), (1, 1))


def _parameters(count: int, *, family: str | None = None, seed: int = 0, largest: int = 21) -> dict[str, Tensor]:
    """Random parameters of the training ranges; of all families in turn if none is named."""
    generator = torch.Generator().manual_seed(seed)

    def between(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, generator=generator, dtype=torch.float64)

    index = torch.arange(count) % 8 if family is None else torch.full((count,), kernels.FAMILIES.index(family))
    return {
        "family": index,
        "size": torch.randint(3, (largest - 1) // 2 + 1, (count,), generator=generator) * 2 + 1,
        "sigma_x": between(0.2, 3),
        "sigma_y": between(0.2, 3),
        "theta": between(-math.pi, math.pi),
        "beta": between(0.5, 4),
        "omega": between(math.pi / 5, math.pi),
    }


def _ragged(seed: int, count: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Images of different sizes whose don't-care pixels are huge; the first fills the canvas."""
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.stack([torch.randint(1, side + 1, (count,), generator=generator) for side in (height, width)], 1)
    sizes[0] = torch.tensor((height, width))
    pixels = torch.rand(count, 3, height, width, generator=generator)
    for i, (h, w) in enumerate(sizes.tolist()):
        pixels[i, :, h:] = 1e30
        pixels[i, :, :, w:] = -1e30
    return pixels, sizes


def _blur(pixels: Tensor, sizes: Tensor | None, first: int) -> Tensor:
    weights = kernels.blur_kernels(**_parameters(8, seed=4))
    return filters.blur(pixels, weights[torch.arange(first, first + pixels.shape[0])], sizes)


def _sharpen(pixels: Tensor, sizes: Tensor | None, first: int) -> Tensor:
    return filters.sharpen(pixels, sizes)


Operator = Callable[[Tensor, Tensor | None, int], Tensor]


def test_kernels_sum_to_one_inside_their_size_and_are_symmetric_about_the_centre() -> None:
    parameters = _parameters(400)
    found = kernels.blur_kernels(**parameters)
    assert found.shape == (400, 21, 21) and found.dtype == torch.float32
    assert float((found.sum((1, 2)) - 1).abs().max()) <= 2e-6
    assert float((found - found.flip(1, 2)).abs().max()) <= 1e-7
    distance = (torch.arange(21) - 10).abs()
    reach = torch.maximum(distance[:, None], distance[None])
    for kernel, size in zip(found, parameters["size"].tolist(), strict=True):
        assert float(kernel[reach > size // 2].abs().sum()) == 0


def test_isotropic_families_ignore_sigma_y_and_theta() -> None:
    for family in ("iso", "generalized_iso", "plateau_iso"):
        parameters = _parameters(20, family=family)
        other = {**parameters, "sigma_y": parameters["sigma_y"] * 0 - 1, "theta": parameters["theta"] + 1}
        found = kernels.blur_kernels(**parameters)
        assert torch.equal(kernels.blur_kernels(**other), found)
        assert float((found - found.transpose(1, 2)).abs().max()) <= 1e-7


def test_a_kernel_is_elongated_along_its_angle() -> None:
    """sigma_x lies along theta, which turns from x (columns) towards y (rows, downwards)."""
    parameters = _parameters(30, family="aniso") | {"size": torch.full((30,), 21)}
    parameters |= {"sigma_x": torch.full((30,), 2.0), "sigma_y": torch.full((30,), 0.8)}
    found = kernels.blur_kernels(**parameters).double()
    offset = torch.arange(21.0, dtype=torch.float64) - 10
    xx, yy = (found * offset**2).sum((1, 2)), (found * offset[:, None] ** 2).sum((1, 2))
    xy = (found * offset * offset[:, None]).sum((1, 2))
    angle = torch.atan2(2 * xy, xx - yy) / 2
    turns = (angle - parameters["theta"]) / math.pi
    assert float((turns - turns.round()).abs().max()) <= 1e-3


def test_an_impulse_is_one_pixel_and_blurs_nothing() -> None:
    weights = kernels.blur_kernels(**_parameters(2, family="impulse") | {"sigma_x": torch.full((2,), math.nan)})
    assert float(weights.sum()) == 2 and float(weights[:, 10, 10].sum()) == 2
    pixels, sizes = _ragged(1, 2, 30, 20)
    out = filters.blur(pixels, weights, sizes)
    for i, (h, w) in enumerate(sizes.tolist()):
        assert torch.equal(out[i, :, :h, :w], pixels[i, :, :h, :w])


def test_a_kernel_is_the_same_in_any_batch_and_width() -> None:
    parameters = _parameters(36, largest=15)
    together = kernels.blur_kernels(**parameters)
    for i in range(36):
        alone = kernels.blur_kernels(**{name: value[i : i + 1] for name, value in parameters.items()})
        assert torch.equal(alone[0], together[i])
    narrow = kernels.blur_kernels(**parameters, width=15)
    assert float((narrow - together[:, 3:-3, 3:-3]).abs().max()) <= 1e-7


def test_extreme_parameters_give_finite_kernels() -> None:
    parameters = _parameters(8) | {"sigma_x": torch.full((8,), 1e-3), "sigma_y": torch.full((8,), 1e3)}
    parameters["beta"] = torch.full((8,), 60.0)
    found = kernels.blur_kernels(**parameters)
    assert bool(torch.isfinite(found).all())
    assert float((found.sum((1, 2)) - 1).abs().max()) <= 2e-6


@pytest.mark.parametrize(
    ("name", "value"),
    [("family", 8), ("size", 8), ("size", 23), ("sigma_x", 0.0), ("sigma_y", -1.0), ("beta", 0.0), ("omega", math.nan)],
)
def test_kernel_parameters_out_of_range_are_named(name: str, value: float) -> None:
    parameters = _parameters(8)
    for family in (1, 3, 6):  # where the parameter counts
        parameters[name][family] = value
    with pytest.raises(ValueError, match=f"^{name}: {value} "):
        kernels.blur_kernels(**parameters)


def test_kernel_parameters_of_wrong_shape_are_named() -> None:
    parameters = _parameters(4)
    for name in parameters:
        with pytest.raises(ValueError, match=r"^\w+: "):
            kernels.blur_kernels(**{**parameters, name: parameters[name][:2, None]})
    with pytest.raises(ValueError, match=r"^width: 20 "):
        kernels.blur_kernels(**parameters, width=20)


@pytest.mark.parametrize("length", [1, 2, 3, 5, 30])
def test_reflection_goes_to_and_fro_without_repeating_the_edge(length: int) -> None:
    index = reflected(torch.tensor([length]), length, 40)[0].tolist()
    walk, step = [0], 1
    while len(walk) < length + 40:  # a ball between two walls
        if not 0 <= walk[-1] + step < length:
            step = -step
        walk.append(walk[-1] + step if length > 1 else 0)
    assert index[40:] == walk
    assert index[:41] == walk[40::-1]


def test_padding_of_a_full_canvas_equals_that_by_indices() -> None:
    pixels = torch.rand(2, 3, 30, 26)
    larger = torch.nn.functional.pad(pixels, (0, 9, 0, 7), value=math.inf)
    sizes = torch.tensor([[30, 26], [30, 26]])
    fast = pad(pixels, checked_sizes(pixels, None), 10)
    assert torch.equal(pad(larger, sizes, 10)[:, :, :50, :46], fast)
    assert torch.equal(fast, torch.nn.functional.pad(pixels, (10,) * 4, mode="reflect"))


def test_blur_is_the_sum_over_the_kernel() -> None:
    generator = torch.Generator().manual_seed(0)
    pixels, weights = torch.rand(2, 3, 6, 5, generator=generator), torch.rand(2, 9, 9, generator=generator)
    sizes = torch.tensor([[6, 5], [3, 4]])
    found = filters.blur(pixels, weights, sizes)
    for i, (h, w) in enumerate(sizes.tolist()):
        rows = reflected(torch.tensor([h]), h, 4)[0]
        columns = reflected(torch.tensor([w]), w, 4)[0]
        for y in range(h):
            for x in range(w):
                window = pixels[i][:, rows[y : y + 9]][:, :, columns[x : x + 9]]
                assert torch.allclose(found[i, :, y, x], (window * weights[i]).sum((1, 2)), atol=1e-5)


def test_sharpening_equals_its_definition_in_float64() -> None:
    pixels, sizes = _ragged(3, 4, 40, 90)
    found = filters.sharpen(pixels, sizes)
    offset = torch.arange(-25.0, 26.0, dtype=torch.float64)
    line = torch.exp(-(offset**2) / 128)
    weights = (line[:, None] * line / line.sum() ** 2)[None]
    for i, (h, w) in enumerate(sizes.tolist()):
        x = pixels[i : i + 1, :, :h, :w].double()
        difference = x - filters.blur(x, weights)
        soft = filters.blur((difference.abs() * 255 > 10).double(), weights)
        expected = soft * (x + 0.5 * difference).clamp(0, 1) + (1 - soft) * x
        assert float((found[i : i + 1, :, :h, :w] - expected).abs().max()) <= 3e-6


def test_a_difference_of_exactly_the_threshold_is_not_sharpened() -> None:
    """A blur of one tap changes nothing: the difference is 0, and what is sharpened would be clamped to 1."""
    pixels = torch.full((1, 3, 4, 4), 1.5)
    assert torch.equal(filters.sharpen(pixels, threshold=0.0, radius=1), pixels)
    assert torch.equal(filters.sharpen(pixels, threshold=-1e-6, radius=1), pixels * 0 + 1)


@pytest.mark.parametrize("operator", [_blur, _sharpen])
@pytest.mark.parametrize("canvas", _CANVASES)
@pytest.mark.parametrize("threads", [1, 2])
def test_an_image_has_the_same_bits_alone_and_in_a_batch(
    operator: Operator, canvas: tuple[int, int], threads: int
) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        pixels, sizes = _ragged(7, 5, *canvas)
        together = operator(pixels, sizes, 0)
        assert together.shape == pixels.shape
        for i, (h, w) in enumerate(sizes.tolist()):
            alone = operator(pixels[i : i + 1], sizes[i : i + 1], i)
            assert bool(torch.isfinite(alone[..., :h, :w]).all())
            assert torch.equal(alone[0, :, :h, :w], together[i, :, :h, :w])
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("operator", [_blur, _sharpen])
def test_neither_the_canvas_nor_what_lies_outside_an_image_matters(operator: Operator) -> None:
    pixels, sizes = _ragged(8, 5, 128, 64)
    together = operator(pixels, sizes, 0)
    for i, (h, w) in enumerate(sizes.tolist()):
        tight = operator(pixels[i : i + 1, :, :h, :w], None, i)
        assert float((tight[0] - together[i, :, :h, :w]).abs().max()) <= 1e-6


@pytest.mark.parametrize("operator", [_blur, _sharpen])
def test_gradients_are_those_of_finite_differences_and_stay_inside_the_image(operator: Operator) -> None:
    pixels, sizes = _ragged(9, 2, 6, 5)
    sizes[1] = torch.tensor((4, 3))
    x = (pixels.clamp(0, 1).double() * 0.4 + 0.3).requires_grad_(True)
    inside = torch.zeros_like(x)
    for i, (h, w) in enumerate(sizes.tolist()):
        inside[i, :, :h, :w] = 1
    assert torch.autograd.gradcheck(lambda value: operator(value, sizes, 0) * inside, x, eps=1e-6, atol=1e-6)
    (gradient,) = torch.autograd.grad((operator(x, sizes, 0) * inside).sum(), x)
    assert float((gradient * (1 - inside)).abs().max()) == 0
    assert float(gradient.abs().max()) > 0.1


def test_gradients_of_the_kernels_reach_their_caller() -> None:
    pixels = torch.rand(2, 3, 5, 4, dtype=torch.float64)
    weights = torch.rand(2, 3, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda value: filters.blur(pixels, value), weights)


def test_wrong_arguments_are_named() -> None:
    pixels, weights = torch.rand(2, 3, 8, 8), torch.ones(2, 3, 3) / 9
    sizes = torch.tensor([[8, 8], [4, 4]])
    for name, call in (
        ("pixels", lambda: filters.blur((pixels * 255).to(torch.uint8), weights)),
        ("pixels", lambda: filters.blur(pixels[0], weights)),
        ("pixels", lambda: filters.sharpen(pixels[:0])),
        ("sizes", lambda: filters.sharpen(pixels, sizes[:1])),
        ("sizes", lambda: filters.sharpen(pixels, sizes.int())),
        ("sizes", lambda: filters.sharpen(pixels, sizes + torch.tensor((1, 0)))),
        ("sizes", lambda: filters.sharpen(pixels, sizes + torch.tensor((0, 1)))),
        ("sizes", lambda: filters.sharpen(pixels, sizes - 4)),
        ("kernels", lambda: filters.blur(pixels, torch.ones(2, 4, 4))),
        ("kernels", lambda: filters.blur(pixels, torch.ones(3, 3, 3))),
        ("kernels", lambda: filters.blur(pixels, torch.ones(2, 3, 5))),
        ("radius", lambda: filters.sharpen(pixels, radius=0)),
    ):
        with pytest.raises(ValueError, match=f"^{name}: "):
            call()


@pytest.mark.gpu
def test_a_cuda_device_gives_the_same_without_waiting() -> None:
    pixels, sizes = _ragged(7, 5, 128, 64)
    device_pixels = pixels.cuda()
    parameters = {name: value.cuda() for name, value in _parameters(5).items()}
    filters.sharpen(device_pixels, sizes)  # makes the constant matrix
    torch.cuda.set_sync_debug_mode("error")
    try:
        with torch.backends.cudnn.flags(allow_tf32=False):
            blurred = filters.blur(device_pixels, kernels.blur_kernels(**parameters), sizes)
        sharp = filters.sharpen(device_pixels, sizes)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    expected = filters.blur(pixels, kernels.blur_kernels(**_parameters(5)), sizes), filters.sharpen(pixels, sizes)
    for found, reference in zip((blurred, sharp), expected, strict=True):
        for i, (h, w) in enumerate(sizes.tolist()):
            assert float((found[i, :, :h, :w].cpu() - reference[i, :, :h, :w]).abs().mean()) <= 2e-6
