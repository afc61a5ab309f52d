"""What JPEG promises of batches, gradients and arguments."""

import pytest
import torch

from realesr_train.degradation.jpeg import jpeg

MODES = pytest.mark.parametrize("legacy", [False, True])


def _pictures(count: int, height: int, width: int, seed: int = 7) -> torch.Tensor:
    """Smooth pictures with some noise, values a little beyond [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, max(height // 6, 2), max(width // 6, 2), generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bicubic")
    return smooth + 0.03 * torch.randn(smooth.shape, generator=generator)


def _ragged() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    sizes = torch.tensor([[40, 56], [41, 33], [8, 8], [17, 48], [1, 5], [39, 55]])
    return _pictures(6, 40 + 1, 56), torch.tensor([30.0, 95.0, 61.3, 10.0, 49.6, 80.0]), sizes


@MODES
@pytest.mark.parametrize("threads", [1, 2])
def test_a_picture_does_not_depend_on_its_batch_nor_on_its_canvas(legacy: bool, threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        pixels, quality, sizes = _ragged()
        together = jpeg(pixels, quality, sizes, legacy=legacy)
        for k, (height, width) in enumerate(sizes.tolist()):
            own = pixels[k : k + 1, :, :height, :width].clone()
            alone = jpeg(own, quality[k : k + 1], legacy=legacy)
            assert torch.equal(together[k, :, :height, :width], alone[0]), k
            wider = torch.full((1, 3, height + 37, width + 64), 0.9)
            wider[:, :, :height, :width] = own
            on_canvas = jpeg(wider, quality[k : k + 1], sizes[k : k + 1], legacy=legacy)
            assert torch.equal(on_canvas[0, :, :height, :width], alone[0]), k
    finally:
        torch.set_num_threads(before)


@MODES
def test_what_lies_outside_of_a_picture_does_not_leak_in(legacy: bool) -> None:
    pixels, quality, sizes = _ragged()
    once = jpeg(pixels, quality, sizes, legacy=legacy)
    for k, (height, width) in enumerate(sizes.tolist()):
        pixels[k, :, height:] = 1e6
        pixels[k, :, :, width:] = -1e6
    again = jpeg(pixels, quality, sizes, legacy=legacy)
    assert again.isfinite().all()
    for k, (height, width) in enumerate(sizes.tolist()):
        assert torch.equal(once[k, :, :height, :width], again[k, :, :height, :width])


@MODES
def test_the_memory_layout_of_the_batch_does_not_matter(legacy: bool) -> None:
    pixels, quality, sizes = _ragged()
    expected = jpeg(pixels, quality, sizes, legacy=legacy)
    shared = pixels[:1].expand(6, -1, -1, -1)
    for other in (pixels.contiguous(memory_format=torch.channels_last), pixels.mT.contiguous().mT):
        result = jpeg(other, quality, sizes, legacy=legacy)
        for k, (height, width) in enumerate(sizes.tolist()):
            assert torch.equal(result[k, :, :height, :width], expected[k, :, :height, :width])
    assert torch.equal(jpeg(shared, quality, legacy=legacy), jpeg(shared.clone(), quality, legacy=legacy))


@MODES
def test_the_arguments_stay_as_they_were_and_no_gradient_is_kept(legacy: bool) -> None:
    pixels, quality, sizes = _ragged()
    before = pixels.clone(), quality.clone(), sizes.clone()
    result = jpeg(pixels.requires_grad_(), quality, sizes, legacy=legacy)
    assert not result.requires_grad
    assert all(torch.equal(a, b) for a, b in zip((pixels, quality, sizes), before, strict=True))
    assert result.shape == pixels.shape and result.dtype == torch.float32 and result.is_contiguous()


def test_the_result_has_eight_bits_by_default_and_more_in_legacy() -> None:
    pixels, quality, _ = _ragged()
    result = jpeg(pixels, quality)
    assert torch.equal(result, (result * 255).round() / 255)
    assert result.min() >= 0 and result.max() <= 1
    legacy = jpeg(pixels, quality, legacy=True)
    assert ((legacy * 255 - (legacy * 255).round()).abs() > 0.01).float().mean() > 0.5


@MODES
def test_values_beyond_black_and_white_count_as_these(legacy: bool) -> None:
    pixels, quality, _ = _ragged()
    pixels = 3 * pixels - 1
    assert torch.equal(jpeg(pixels, quality, legacy=legacy), jpeg(pixels.clamp(0, 1), quality, legacy=legacy))


def test_the_default_rounds_the_quality_and_legacy_does_not() -> None:
    pixels = _pictures(1, 32, 32)
    near, exact, far = torch.tensor([60.4]), torch.tensor([60.0]), torch.tensor([60.6])
    assert torch.equal(jpeg(pixels, near), jpeg(pixels, exact))
    assert not torch.equal(jpeg(pixels, far), jpeg(pixels, exact))
    assert not torch.equal(jpeg(pixels, near, legacy=True), jpeg(pixels, exact, legacy=True))


def test_fine_stripes_are_lost_in_the_direction_of_the_standard_and_in_the_other_one_in_legacy() -> None:
    # Frequency 5 is quantised by 40 across and by 24 down (quality 50); a coefficient of 16 lies between their halves.
    amplitude = 16 / (8 / 2**0.5)
    wave = torch.cos((torch.arange(16) % 8 + 0.5) * (5 * torch.pi / 8)) * (amplitude / 255) + 0.5
    stripes = wave.expand(1, 3, 16, 16).contiguous()
    for pixels, legacy, kept in (
        (stripes, False, False),
        (stripes.mT.contiguous(), False, True),
        (stripes, True, True),
        (stripes.mT.contiguous(), True, False),
    ):
        assert (jpeg(pixels, torch.tensor([50.0]), legacy=legacy).std() > 1e-3) == kept


def test_lower_quality_is_further_from_the_picture() -> None:
    pixels = _pictures(1, 64, 64).clamp(0, 1).expand(4, -1, -1, -1)
    error = (jpeg(pixels, torch.tensor([5.0, 30.0, 70.0, 98.0])) - pixels).abs().mean((1, 2, 3))
    assert (error.diff() < 0).all()


@MODES
def test_differentiable_gives_a_gradient_that_points_where_a_smoothed_loss_rises(legacy: bool) -> None:
    """Rounding makes steps, so the loss is averaged over a small random offset of the picture."""
    torch.manual_seed(3)
    pixels = 0.2 + 0.6 * _pictures(1, 32, 32).clamp(0, 1)
    target = pixels + 0.1 * _pictures(1, 32, 32, seed=8)
    copies, offset = 256, 0.06
    quality = torch.full((copies,), 60.0)
    noise = offset * torch.randn(copies, 3, 32, 32)

    def loss(of: torch.Tensor, differentiable: bool) -> torch.Tensor:
        return (jpeg(of + noise, quality, legacy=legacy, differentiable=differentiable) - target).square().mean()

    moving = pixels.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(moving, True), moving)
    assert gradient.isfinite().all() and (gradient != 0).float().mean() > 0.9
    direction = gradient / gradient.norm()
    step = 0.5
    slope = (loss(pixels + step * direction, False) - loss(pixels - step * direction, False)) / (2 * step)
    assert slope > 0.2 * gradient.norm()


def test_differentiable_does_not_change_the_value_by_default() -> None:
    pixels, quality, sizes = _ragged()
    with_gradient = jpeg(pixels.clone().requires_grad_(), quality, sizes, differentiable=True)
    assert with_gradient.requires_grad
    assert torch.equal(with_gradient.detach(), jpeg(pixels, quality, sizes))


@MODES
def test_the_gradient_of_a_coefficient_is_that_of_the_cubic(legacy: bool) -> None:
    """A grey one level above the middle has the luma coefficient 8 and no other; one at the middle has none at all."""
    for level, quality, table in ((129, 60.0, 12.8 if legacy else 13.0), (128, 60.0, 13.0)):
        pixels = torch.full((1, 3, 16, 16), level / 255).requires_grad_()
        jpeg(pixels, torch.tensor([quality]), legacy=legacy, differentiable=True).mean().backward()
        assert pixels.grad is not None
        quotient = 8 * (level - 128) / table
        slope = 3 * (quotient - round(quotient)) ** 2
        assert float(pixels.grad.sum()) == pytest.approx(slope, abs=1e-5)


@MODES
def test_gradients_stay_inside_the_picture(legacy: bool) -> None:
    pixels, quality, sizes = _ragged()
    pixels = pixels.clamp(0.1, 0.9).requires_grad_()
    result = jpeg(pixels, quality, sizes, legacy=legacy, differentiable=True)
    inside = torch.zeros(pixels.shape, dtype=torch.bool)
    for k, (height, width) in enumerate(sizes.tolist()):
        inside[k, :, :height, :width] = True
    (result * inside).square().sum().backward()
    assert pixels.grad is not None
    assert not pixels.grad[~inside].any() and pixels.grad[inside].any()


_GOOD = torch.zeros(2, 3, 16, 16), torch.tensor([50.0, 60.0]), torch.tensor([[16, 16], [8, 9]])


@pytest.mark.parametrize(
    ("argument", "position", "value"),
    [
        ("pixels", 0, torch.zeros(2, 1, 16, 16)),
        ("pixels", 0, torch.zeros(3, 16, 16)),
        ("pixels", 0, torch.zeros(2, 3, 16, 16, dtype=torch.float64)),
        ("pixels", 0, torch.zeros(2, 3, 0, 16)),
        ("quality", 1, torch.tensor([50.0])),
        ("quality", 1, torch.tensor([50, 60])),
        ("quality", 1, torch.tensor([50.0, 0.0])),
        ("quality", 1, torch.tensor([50.0, 100.5])),
        ("quality", 1, torch.tensor([50.0, float("nan")])),
        ("sizes", 2, torch.tensor([[16, 16]])),
        ("sizes", 2, torch.tensor([[16, 16], [17, 9]])),
        ("sizes", 2, torch.tensor([[16, 16], [0, 9]])),
        ("sizes", 2, torch.tensor([[16.0, 16.0], [8.0, 9.0]])),
    ],
)
def test_a_wrong_argument_is_named(argument: str, position: int, value: torch.Tensor) -> None:
    arguments = [*_GOOD]
    arguments[position] = value
    with pytest.raises(ValueError, match=f"^{argument}: "):
        jpeg(*arguments)


def test_legacy_refuses_quality_100_at_which_its_table_is_zero() -> None:
    with pytest.raises(ValueError, match=r"^quality: .* below 100"):
        jpeg(_GOOD[0], torch.tensor([50.0, 100.0]), legacy=True)
    jpeg(_GOOD[0], torch.tensor([50.0, 100.0]))


@pytest.mark.gpu
@MODES
def test_a_gpu_gives_the_same_pictures_without_waiting(legacy: bool) -> None:
    pixels, quality, sizes = _ragged()
    expected = jpeg(pixels, quality, sizes, legacy=legacy)
    on_gpu = pixels.cuda(), quality.cuda()
    torch.cuda.set_sync_debug_mode("error")
    try:
        result = jpeg(*on_gpu, sizes, legacy=legacy)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for k, (height, width) in enumerate(sizes.tolist()):
        difference = (result[k, :, :height, :width].cpu() - expected[k, :, :height, :width]).abs()
        assert difference.max() <= (1e-5 if legacy else 0), k
