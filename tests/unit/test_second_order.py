"""The chain: equal results in any batch, calls that do not grow with images, crops, and what is refused."""

import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from realesr_train.config import DegradationConfig, NoiseConfig, PassConfig, ResizeConfig, legacy, with_order
from realesr_train.config import DirectionWeights as Directions
from realesr_train.degradation.draws import Draws, draw
from realesr_train.degradation.filters import sharpen
from realesr_train.degradation.replay import from_json, to_json
from realesr_train.degradation.second_order import apply, fit_crop, paired_crop

CONFIG = DegradationConfig()


@pytest.fixture(autouse=True)
def one_thread(request: pytest.FixtureRequest) -> Iterator[None]:
    """Small pictures: a second thread costs more than it gives."""
    before = torch.get_num_threads()
    if "large" not in request.node.name:
        torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _photos(samples: list[int], height: int, width: int) -> Tensor:
    """A picture for each sample number, with edges, texture and flat parts."""
    pictures = []
    for sample in samples:
        generator = torch.Generator().manual_seed(sample)
        coarse = torch.rand(1, 3, 8, 8, generator=generator)
        picture = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic", align_corners=False)
        picture += 0.05 * torch.rand(1, 3, height, width, generator=generator)
        picture[..., : height // 3, : width // 4] = 0.2
        pictures.append(picture.clamp(0, 1))
    return torch.cat(pictures)


def _draw(samples: list[int], config: DegradationConfig = CONFIG, **options: Any) -> Draws:
    settings = {"scale": 4, "seed": 11, "height": 96, "width": 112, "crop_px": 64, **options}
    return draw(config, samples=torch.tensor(samples), **settings)


def _run(samples: list[int], config: DegradationConfig = CONFIG, **options: Any) -> Tensor:
    draws = _draw(samples, config, **options)
    return apply(_photos(samples, draws.height, draws.width), draws)


@pytest.mark.parametrize("config", [CONFIG, with_order(CONFIG, 1), with_order(CONFIG, 3)], ids=["2", "1", "3"])
def test_a_sample_gives_the_same_bytes_in_every_batch(config: DegradationConfig) -> None:
    samples = list(range(12))
    whole = _run(samples, config)
    for size in (1, 3, 5):
        parts = [_run(samples[start : start + size], config) for start in range(0, 12, size)]
        assert torch.equal(torch.cat(parts), whole)
    order = [7, 3, 11, 0, 3]
    assert torch.equal(_run(order, config), whole[order])


def test_large_crops_give_the_same_bytes_in_every_batch() -> None:
    """Sizes at which matrix products and convolutions choose other blocks."""
    whole = _run(list(range(6)), height=400, width=400)
    for sample in range(6):
        assert torch.equal(_run([sample], height=400, width=400), whole[sample : sample + 1])


def test_the_result_is_made_of_bytes_at_the_final_size() -> None:
    for scale, config in itertools.product((1, 2, 4), (CONFIG, legacy(CONFIG))):
        lq = _run([0, 1, 2], config, scale=scale)
        assert lq.shape == (3, 3, 96 // scale, 112 // scale) and lq.dtype == torch.float32
        assert torch.equal(lq, (lq * 255).round().clamp(0, 255) / 255)
        assert lq.std() > 0.02


def test_other_seeds_and_samples_give_other_pictures() -> None:
    picture = _photos([0], 96, 112)
    results = [apply(picture, _draw([n], seed=seed)) for seed in (0, 1) for n in range(4)]
    for a, b in itertools.combinations(results, 2):
        assert (a - b).abs().mean() > 1e-3


def test_a_sample_can_be_made_again_from_its_record() -> None:
    draws = _draw([4, 5])
    pictures = _photos([4, 5], 96, 112)
    again = from_json([to_json(draws, 1)])
    assert torch.equal(apply(pictures[1:], again), apply(pictures, draws)[1:])


def test_every_step_is_shown_by_name_with_its_own_size() -> None:
    draws = _draw(list(range(8)))
    shapes: dict[str, dict[int, tuple[int, ...]]] = {}

    def hook(step: str, images: dict[int, Tensor]) -> None:
        for i, image in images.items():
            assert i not in shapes.setdefault(step, {})
            assert image.isfinite().all()
            shapes[step][i] = tuple(image.shape)

    apply(_photos(list(range(8)), 96, 112), draws, on_step=hook)
    assert {*shapes} == {
        "usm",
        "blur1",
        "resize1",
        "noise1",
        "jpeg1",
        "blur2",
        "resize2",
        "noise2",
        "jpeg2",
        "resize3",
        "sinc",
    }
    first, second = (one.resize.target.tolist() for one in draws.passes)
    for i in range(8):
        assert shapes["blur1"][i] == (3, 96, 112)
        assert shapes["resize1"][i] == shapes["noise1"][i] == shapes["jpeg1"][i] == (3, *first[i])
        assert shapes["resize2"][i] == shapes["noise2"][i] == (3, *second[i])
        assert shapes["resize3"][i] == (3, 24, 28)
        assert shapes["jpeg2"][i] == ((3, 24, 28) if draws.final.jpeg_last[i] else (3, *second[i]))
    assert {*shapes["blur2"]} == {i for i in range(8) if draws.passes[1].blur.family[i] != 7}


def test_what_a_hook_writes_goes_on() -> None:
    def black(step: str, images: dict[int, Tensor]) -> None:
        if step == "sinc":
            images[1].zero_()

    draws = _draw([0, 1])
    draws = replace(draws, final=replace(draws.final, sinc=replace(draws.final.sinc, family=torch.tensor([6, 6]),
        size_px=torch.tensor([7, 7]), omega=torch.tensor([2.0, 2.0], dtype=torch.float64))))  # fmt: skip
    pictures = _photos([0, 1], 96, 112)
    plain, changed = apply(pictures, draws), apply(pictures, draws, on_step=black)
    assert torch.equal(plain[0], changed[0])
    assert changed[1].max() < 0.02 < plain[1].max()  # JPEG may come after it


def test_the_input_stays_as_it_is() -> None:
    for config in (CONFIG, replace(CONFIG, sharpen_input=False)):
        pictures = _photos([0, 1, 2], 96, 112)
        before = pictures.clone()
        lq = apply(pictures, _draw([0, 1, 2], config))
        lq.zero_()
        assert torch.equal(pictures, before)


@pytest.mark.parametrize("kind", ["gaussian", "poisson"])
def test_noise_is_new_in_every_pass_and_image_and_as_strong_as_drawn(kind: str) -> None:
    noise = NoiseConfig(
        gaussian_probability=float(kind == "gaussian"), sigma_range=(4, 8), poisson_scale_range=(0.5, 1)
    )
    still = PassConfig(
        blur_probability=0, resize=ResizeConfig(directions=Directions(up=0, down=0, keep=1)), noise=noise
    )
    config = DegradationConfig(sharpen_input=False, passes=(still, still))
    draws = _draw(list(range(6)), config, scale=1, height=128, width=128)
    steps: dict[str, Tensor] = {}
    pictures = torch.linspace(0.4, 0.6, 128).expand(6, 3, 128, 128).contiguous()

    def keep(step: str, images: dict[int, Tensor]) -> None:
        if len(images) == 6:
            steps[step] = torch.stack([*images.values()]).clone()

    apply(pictures, draws, on_step=keep)
    fields = [steps[f"noise{n}"] - steps[f"resize{n}"] for n in (1, 2)]
    correlation = torch.corrcoef(torch.cat(fields)[:, 0].flatten(1)) - torch.eye(12)
    assert correlation.abs().max() < 0.05
    for field, one in zip(fields, draws.passes, strict=True):
        for image, strength, grey in zip(field, one.noise.strength, one.noise.grey, strict=True):
            channels = torch.corrcoef(image.flatten(1))[0, 1]
            # a grey Poisson field is the luma's, the channels are alike here up to JPEG's colours
            assert channels > 0.99 if grey else channels.abs() < 0.05
            if kind == "gaussian":
                assert abs(image.std() * 255 / strength - 1) < 0.05


def test_grey_gaussian_noise_is_one_field_for_a_batch_where_the_original_is_followed() -> None:
    """Defect D3; and a record of one image still makes it alone."""
    noise = NoiseConfig(gaussian_probability=1, grey_probability=1, sigma_range=(10, 10))
    still = PassConfig(
        blur_probability=0, resize=ResizeConfig(directions=Directions(up=0, down=0, keep=1)), noise=noise
    )
    flat = torch.full((3, 3, 96, 112), 0.5)
    for mode, is_shared in (("per_batch", True), ("per_image", False)):
        config = DegradationConfig(sharpen_input=False, passes=(still,), draws=mode)  # type: ignore[arg-type]
        draws = _draw([3, 4, 5], config)
        fields: dict[int, Tensor] = {}

        def keep(step: str, images: dict[int, Tensor], fields: dict[int, Tensor] = fields) -> None:
            if step == "noise1":
                fields.update({i: image.clone() for i, image in images.items()})

        lq = apply(flat, draws, on_step=keep)
        assert torch.equal(fields[0], fields[1]) == torch.equal(fields[0], fields[2]) == is_shared
        assert abs(fields[1].std() * 255 - 10) < 0.5
        assert torch.equal(apply(flat[1:2], from_json([to_json(draws, 1)])), lq[1:2])


@pytest.mark.parametrize(("levels", "peak"), [("rule", 1), ("fixed", 256)])
def test_photons_follow_the_levels_of_the_picture_or_are_fixed(levels: Any, peak: int) -> None:
    """Defect D5: a flat picture has one level, and so one photon at white."""
    noise = NoiseConfig(
        gaussian_probability=0, grey_probability=0, poisson_scale_range=(0.1, 0.1), poisson_levels=levels
    )
    still = PassConfig(
        blur_probability=0, resize=ResizeConfig(directions=Directions(up=0, down=0, keep=1)), noise=noise
    )
    spread: list[float] = []

    def keep(step: str, images: dict[int, Tensor]) -> None:
        if step == "noise1":
            spread.append(float(images[0].std()))

    flat = torch.full((1, 3, 96, 112), 128 / 255)
    apply(flat, _draw([3], DegradationConfig(sharpen_input=False, passes=(still,))), on_step=keep)
    assert abs(spread[0] / (0.1 * (128 / 255 / peak) ** 0.5) - 1) < 0.05


def test_sharpening_the_input_can_be_left_to_the_caller() -> None:
    pictures = _photos([0, 1], 96, 112)
    draws = _draw([0, 1])
    assert torch.equal(apply(pictures, draws), apply(sharpen(pictures), replace(draws, sharpen_input=False)))


@pytest.mark.parametrize("size", [(4, 4), (8, 8), (4, 40), (12, 16), (24, 4)])
def test_small_crops_do_not_crash(size: tuple[int, int]) -> None:
    height, width = size
    for config in (CONFIG, legacy(CONFIG), with_order(CONFIG, 3)):
        lq = _run(list(range(8)), config, height=height, width=width, crop_px=None)
        assert lq.shape == (8, 3, height // 4, width // 4)


class _Calls(TorchDispatchMode):
    """Counts operator calls."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.counts[str(func)] += 1
        return func(*args, **(kwargs or {}))


def _calls(draws: Draws) -> int:
    """Operator calls of the chain, but for noise fields, which a CPU makes in blocks of a fixed number of pixels."""
    count = len(draws)
    pictures = _photos([0], draws.height, draws.width).repeat(count, 1, 1, 1)
    fields = {f"noise{n}": torch.zeros(count, 3, 1, 1) for n in (1, 2)}
    apply(pictures, draws, given=fields)  # first use of each operator may prepare tables
    with _Calls() as counted:
        apply(pictures, draws, given=fields)
    return counted.counts.total()


def test_the_number_of_calls_does_not_grow_with_images() -> None:
    base = _draw([0])
    few, many = (_calls(base[[0] * count]) for count in (2, 12))
    assert many == few > 100


def test_calls_follow_groups_of_sizes_not_images() -> None:
    """Sizes that round up to the same multiples of 64 share their calls."""
    base = _draw([0], height=256, width=256)

    def calls(sides: list[int]) -> int:
        some = base[[0] * len(sides)]
        sizes = torch.tensor(sides)[:, None].expand(-1, 2)
        one = replace(some.passes[0], resize=replace(some.passes[0].resize, target=sizes))
        return _calls(replace(some, passes=(one, some.passes[1])))

    together, apart = calls([130, 140, 150, 160, 170, 180, 190, 131]), calls([100, 180])
    assert together == calls([130, 190])
    assert apart > 1.2 * together


@pytest.fixture
def settings() -> Iterator[None]:
    cudnn = torch.backends.cudnn
    before = torch.get_float32_matmul_precision(), cudnn.allow_tf32, cudnn.benchmark
    yield
    torch.set_float32_matmul_precision(before[0])
    cudnn.allow_tf32, cudnn.benchmark = before[1:]


def test_arithmetic_is_plain_inside_and_as_before_outside(settings: None) -> None:
    cudnn = torch.backends.cudnn
    torch.set_float32_matmul_precision("medium")
    cudnn.allow_tf32 = cudnn.benchmark = True
    inside = []

    def look(step: str, images: dict[int, Tensor]) -> None:
        inside.append(
            (torch.get_float32_matmul_precision(), cudnn.allow_tf32, cudnn.benchmark, torch.is_grad_enabled())
        )

    pictures = _photos([0], 96, 112)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        lq = apply(pictures.requires_grad_(), _draw([0]), on_step=look)
    assert {*inside} == {("highest", False, False, False)}
    assert (torch.get_float32_matmul_precision(), cudnn.allow_tf32, cudnn.benchmark) == ("medium", True, True)
    assert not lq.requires_grad
    torch.set_float32_matmul_precision("highest")
    assert torch.equal(lq, apply(pictures, _draw([0])))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda hr: hr.double(), "float64"),
        (lambda hr: hr[:0], r"\(0, 3, 96, 112\)"),
        (lambda hr: hr[:, :1], r"\(2, 1, 96, 112\)"),
        (lambda hr: hr[0], r"\(3, 96, 112\)"),
        (lambda hr: hr[:1], r"the draws are for \(2, 3, 96, 112\)"),
        (lambda hr: hr[..., :108], r"the draws are for"),
        (lambda hr: hr * 255, r"lie in \[0, 1\]"),
        (lambda hr: hr - 0.5, r"lie in \[0, 1\]"),
        (lambda hr: hr * torch.nan, "nan"),
    ],
)
def test_a_wrong_batch_is_refused_by_name(change: Callable[[Tensor], Tensor], words: str) -> None:
    hr = change(_photos([0, 1], 96, 112))
    with pytest.raises(ValueError, match=f"^hr: .*{words}"):
        apply(hr, _draw([0, 1]))


def test_pairs_are_cut_at_the_same_place() -> None:
    """Each pixel of the large picture holds the number of the small one above it."""
    draws = _draw(list(range(20)))
    small = torch.arange(24.0 * 28).view(1, 1, 24, 28).expand(20, 3, -1, -1) + torch.arange(20).view(-1, 1, 1, 1) * 1000
    large = small.repeat_interleave(4, 2).repeat_interleave(4, 3)
    lq, gt = paired_crop(small, large, draws)
    assert lq.shape == (20, 3, 16, 16) and gt.shape == (20, 3, 64, 64)
    assert torch.equal(gt, lq.repeat_interleave(4, 2).repeat_interleave(4, 3))
    for i, (top, left) in enumerate(draws.crop.tolist()):
        assert lq[i, 0, 0, 0] == small[i, 0, top, left]
    assert len(draws.crop.unique(dim=0)) > 10


def test_without_a_drawn_crop_there_is_none() -> None:
    with pytest.raises(ValueError, match="crop_px is None"):
        paired_crop(torch.zeros(1, 3, 24, 28), torch.zeros(1, 3, 96, 112), _draw([0], crop_px=None))


@pytest.mark.parametrize("length", [1, 2, 3, 7, 40, 60])
def test_small_pictures_are_reflected_to_the_size_of_the_crop(length: int) -> None:
    picture = torch.rand(3, length, 50, generator=torch.Generator().manual_seed(1))
    fitted = fit_crop(picture, 40)
    assert fitted.shape == (3, max(length, 40), 50)
    expected = picture
    while expected.shape[1] < 40:  # one reflection after the other, as the original does
        missing = min(40 - expected.shape[1], max(expected.shape[1] - 1, 1))
        mirrored = expected.flip(1)[:, 1 : 1 + missing] if expected.shape[1] > 1 else expected
        expected = torch.cat((expected, mirrored), 1)
    assert torch.equal(fitted, expected)
    assert torch.equal(fit_crop(picture.mT, 40), fitted.mT)


def test_an_empty_picture_cannot_be_fitted() -> None:
    with pytest.raises(ValueError, match="empty"):
        fit_crop(torch.zeros(3, 0, 5), 4)


@pytest.mark.parametrize("config", [CONFIG, legacy(CONFIG)], ids=["fixed", "legacy"])
def test_no_decision_looks_at_a_devices_numbers(config: DegradationConfig) -> None:
    """The meta device has shapes but no numbers: whoever asked for one would fail, as it would wait on a GPU."""
    draws = _draw(list(range(12)), config, height=400, width=400)
    pictures = torch.empty(12, 3, 400, 400, device="meta")
    lq, gt = paired_crop(apply(pictures, draws), pictures, draws)
    assert (lq.shape, gt.shape, lq.device.type) == ((12, 3, 16, 16), (12, 3, 64, 64), "meta")


@pytest.mark.gpu
def test_nothing_waits_for_the_gpu() -> None:
    pictures = _photos(list(range(12)), 400, 400).cuda()
    apply(pictures, _draw(list(range(12)), height=400, width=400))  # first use of each operator may wait
    torch.cuda.synchronize()
    draws = _draw(list(range(12, 24)), height=400, width=400)
    torch.cuda.set_sync_debug_mode("error")
    try:
        lq = apply(pictures, draws)
        paired_crop(lq, pictures, draws)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
def test_a_gpu_gives_nearly_the_same_pictures() -> None:
    samples = list(range(12))
    draws = _draw(samples, height=400, width=400)
    pictures = _photos(samples, 400, 400)
    difference = (apply(pictures.cuda(), draws).cpu() - apply(pictures, draws)).abs() * 255
    assert difference.mean() < 0.1
    assert sum(bool(image.max() == 0) for image in difference) >= 3


def test_plain_pictures_are_only_reduced_and_the_others_are_as_without_them() -> None:
    samples = list(range(12))
    mixed = replace(CONFIG, plain_probability=0.4)
    draws = _draw(samples, mixed)
    plain = draws.plain
    assert 0 < plain.sum() < len(samples)
    result, usual = _run(samples, mixed), _run(samples)
    photos = _photos(samples, draws.height, draws.width)
    reduced = F.interpolate(photos, result.shape[2:], mode="bicubic", antialias=True)
    assert torch.equal(result[plain], (reduced[plain] * 255).round().clamp(0, 255) / 255)
    assert torch.equal(result[~plain], usual[~plain]) and not torch.equal(result[plain], usual[plain])
    assert torch.equal(_run(samples[3:4], mixed), result[3:4])
    assert from_json([to_json(draws, i) for i in range(len(draws))]).plain.tolist() == plain.tolist()
    only = apply(photos, _draw(samples, replace(CONFIG, plain_probability=1.0)))
    assert torch.equal(only[plain], result[plain])


def test_plain_pictures_are_as_frequent_as_asked() -> None:
    share = _draw(list(range(10_000)), replace(CONFIG, plain_probability=0.25)).plain.double().mean()
    assert abs(float(share) - 0.25) < 4 * (0.25 * 0.75 / 10_000) ** 0.5
