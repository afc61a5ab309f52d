"""Counter-based random numbers: addressed by key and position, uniform, normal and independent."""

import math

import pytest
import torch
from torch import Tensor

from realesr_train.degradation import counter

_MASK_32, _MASK_64 = (1 << 32) - 1, (1 << 64) - 1


def _keys(count: int, *, seed: int = 1, stream: int = 0, first: int = 0) -> Tensor:
    return counter.keys(seed, torch.arange(first, first + count), stream)


def _mix(x: int) -> int:
    """SplitMix64's mixer on Python's integers."""
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & _MASK_64
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & _MASK_64
    return x ^ (x >> 31)


def _pcg4d(words: list[int]) -> list[int]:
    """The hash on Python's integers, its mixing stage three times."""
    v = [(word * 1664525 + 1013904223) & _MASK_32 for word in words]
    for stage in range(3):
        if stage:
            v = [word ^ (word >> 16) for word in v]
        for i, j, k in ((0, 1, 3), (1, 2, 0), (2, 0, 1), (3, 1, 2)):
            v[i] = (v[i] + v[j] * v[k]) & _MASK_32
    return v


def _distance_to_uniform(values: Tensor) -> float:
    """Kolmogorov-Smirnov statistic times sqrt(n); above 1.95 in one of a thousand samples."""
    ordered = values.flatten().double().sort().values
    n = ordered.numel()
    steps = torch.arange(n + 1, dtype=torch.float64) / n
    return float(torch.maximum((ordered - steps[:-1]).max(), (steps[1:] - ordered).max())) * math.sqrt(n)


def _correlation(a: Tensor, b: Tensor) -> float:
    """Pearson's correlation times sqrt(n): standard normal for independent numbers."""
    both = torch.stack((a.flatten(), b.flatten())).double()
    return float(torch.corrcoef(both)[0, 1]) * math.sqrt(both.shape[1])


def test_uniform_is_splitmix64() -> None:
    keys = _keys(4)
    values = counter.uniform(keys, 5)
    for row, key in zip(values.tolist(), keys.tolist(), strict=True):
        expected = [(_mix((key + (j + 1) * 0x9E3779B97F4A7C15) & _MASK_64) >> 11) / 2**53 for j in range(5)]
        assert row == expected


def test_uniform_field_is_the_hash_of_column_line_and_key() -> None:
    keys = _keys(3)
    field = counter.uniform_field(keys, 10, 7, 2, "cpu")
    for i, c, y, x in ((0, 0, 0, 0), (0, 1, 3, 6), (1, 0, 9, 2), (2, 1, 8, 5), (2, 0, 4, 0)):
        key = keys[i].item()
        words = _pcg4d([x, (c << 22) + y // 4, int(key) & _MASK_32, (int(key) >> 32) & _MASK_32])
        assert field[i, c, y, x].item() == (words[y % 4] >> 8) / 2**24


def test_numbers_of_a_seed_stay_what_they_are() -> None:
    """A run that goes on after an update must draw as it did before; recorded from this program's first version."""
    keys = counter.keys(20261121, torch.tensor([0, 1, 10**12]), 7)
    assert keys.tolist() == [-7179180224618156162, -5455548202496833856, 3999966722060413343]
    assert counter.uniform(keys[:1], 2).tolist() == [[0.5488655663910478, 0.2989490920288611]]
    assert counter.uniform_field(keys[2:], 1, 2, 1, "cpu").flatten().tolist() == [
        0.16924339532852173,
        0.48182475566864014,
    ]
    normal = counter.normal_field(keys[2:], 2, 1, 1, "cpu").flatten()
    assert torch.allclose(normal, torch.tensor([-0.2435062, -1.4516351]), atol=1e-6, rtol=0)


def test_keys_differ_between_samples_streams_and_seeds() -> None:
    keys = torch.cat(
        [_keys(2000, seed=seed, stream=stream) for seed in (0, 1, -1, 2**40, 2**63) for stream in (0, 1, 2, 100)]
    )
    assert keys.unique().numel() == keys.numel()


def test_seed_and_stream_are_not_interchangeable() -> None:
    assert counter.keys(3, torch.tensor([5]), 9).item() != counter.keys(9, torch.tensor([5]), 3).item()
    assert counter.keys(3, torch.tensor([5]), 9).item() != counter.keys(3, torch.tensor([9]), 5).item()


@pytest.mark.parametrize("what", ["seed", "sample", "stream"])
def test_each_bit_of_the_address_turns_half_of_the_key(what: str) -> None:
    samples = torch.arange(4096) * 3
    base = counter.keys(8, samples, 2)
    for bit in (*range(20), 40, 62):
        step = {name: (1 << bit if name == what else 0) for name in ("seed", "sample", "stream")}
        flipped = counter.keys(8 ^ step["seed"], samples ^ step["sample"], 2 ^ step["stream"])
        changed = ((base ^ flipped)[:, None] >> torch.arange(64)) & 1
        # six standard errors of a fair coin, pairs counted once
        assert float((changed.double().mean(0) - 0.5).abs().max()) <= 6 * 0.5 / math.sqrt(4096 / 2), bit


def test_each_bit_of_the_position_turns_half_of_the_word() -> None:
    """With the published two mixing stages this fails: high bits of the line leave low bits of the words alone."""
    count = 1 << 12
    generator = torch.Generator().manual_seed(3)
    column = torch.arange(count, dtype=torch.int32)
    low, high, line = (
        torch.randint(-(2**31), 2**31, (1, 1), generator=generator).to(torch.int32) & mask
        for mask in (-1, -1, (1 << 24) - 1)
    )
    base = torch.cat(counter._pcg4d(column, line, low, high))

    def worst(other: tuple[Tensor, ...]) -> float:
        changed = ((base ^ torch.cat(other))[..., None] >> torch.arange(32, dtype=torch.int32)) & 1
        return float((changed.double().mean(1) - 0.5).abs().max())

    bound = 6 * 0.5 / math.sqrt(count / 2)
    for bit in range(32):
        assert worst(counter._pcg4d(column, line ^ _bit(bit), low, high)) <= bound, ("line", bit)
        assert worst(counter._pcg4d(column, line, low ^ _bit(bit), high)) <= bound, ("low half of the key", bit)
        assert worst(counter._pcg4d(column, line, low, high ^ _bit(bit))) <= bound, ("high half of the key", bit)
        if bit < 12:
            assert worst(counter._pcg4d(column ^ _bit(bit), line, low, high)) <= bound, ("column", bit)


def _bit(number: int) -> Tensor:
    return torch.tensor(1 << number, dtype=torch.int64).to(torch.int32)


def test_bytes_of_the_words_are_uniform() -> None:
    keys = _keys(4)
    words = torch.cat([(counter.uniform_field(keys, 256, 256, 3, "cpu") * 2**24).int().flatten()])
    for shift in (0, 8, 16):
        seen = torch.bincount((words >> shift) & 255, minlength=256).double()
        expected = words.numel() / 256
        chi_square = float(((seen - expected) ** 2 / expected).sum())
        assert abs(chi_square - 255) <= 4 * math.sqrt(2 * 255), shift


def test_uniforms_follow_their_distribution() -> None:
    assert _distance_to_uniform(counter.uniform(_keys(1000), 50)) < 1.95
    assert _distance_to_uniform(counter.uniform(_keys(20000), 1)) < 1.95
    field = counter.uniform_field(_keys(2), 150, 170, 3, "cpu")
    assert _distance_to_uniform(field) < 1.95
    assert field.dtype == torch.float32 and float(field.min()) >= 0 and float(field.max()) < 1
    assert torch.equal(field * 2**24, (field * 2**24).round())


def test_normals_follow_their_distribution() -> None:
    z = counter.normal_field(_keys(4), 200, 180, 3, "cpu").double()
    n = z.numel()
    assert _distance_to_uniform(torch.special.ndtr(z)) < 1.95
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs(float((z**power).mean()) - moment) <= 4 * math.sqrt(variance / n), power
    assert bool(torch.isfinite(z).all())
    assert 4 < float(z.abs().max()) < 6.7


@pytest.mark.parametrize("word", [0, -1, 2**31 - 1, -(2**31)])
def test_no_word_gives_an_infinite_normal(word: int, monkeypatch: pytest.MonkeyPatch) -> None:
    words = tuple(torch.full((2, 5), word, dtype=torch.int32) for _ in range(4))
    monkeypatch.setattr(counter, "_pcg4d", lambda *_: words)
    assert float(counter.normal_field(_keys(1), 8, 5, 1, "cpu").abs().max()) < 6.7


@pytest.mark.parametrize("draw", [counter.uniform_field, counter.normal_field])
def test_neighbours_in_a_field_are_independent(draw: object) -> None:
    assert callable(draw)
    field = draw(_keys(3), 128, 128, 3, "cpu")
    for values in (field, (field - field.mean()) ** 2):  # squares show what rows of one pair have in common
        for dy, dx in ((0, 1), (1, 0), (1, 1), (2, 0), (3, 0), (4, 0), (0, 2), (8, 0), (0, 64)):
            pair = values[:, :, dy:, dx:], values[:, :, : 128 - dy, : 128 - dx]
            assert abs(_correlation(*pair)) <= 4, (dy, dx)
        assert abs(_correlation(values[:, :2], values[:, 1:])) <= 4


def test_images_streams_and_seeds_are_independent() -> None:
    base = counter.normal_field(_keys(40), 64, 64, 1, "cpu")
    assert abs(_correlation(base[1:], base[:-1])) <= 4
    for other in (_keys(40, stream=1), _keys(40, seed=2)):
        assert abs(_correlation(base, counter.normal_field(other, 64, 64, 1, "cpu"))) <= 4
    parameters = counter.uniform(_keys(5000), 8)
    correlations = torch.corrcoef(parameters.T) - torch.eye(8)
    assert float(correlations.abs().max()) <= 4.5 / math.sqrt(5000)
    assert abs(_correlation(parameters[1:], parameters[:-1])) <= 4


def test_no_two_images_share_a_field() -> None:
    words = counter.uniform_field(_keys(300), 4, 4, 1, "cpu").view(300, 16)
    assert words.unique(dim=0).shape[0] == 300


@pytest.mark.parametrize("draw", [counter.uniform_field, counter.normal_field])
def test_a_value_depends_on_key_and_position_alone(draw: object) -> None:
    assert callable(draw)
    keys = _keys(5)
    large = draw(keys, 150, 1000, 3, "cpu")
    for height, width, channels in ((64, 64, 3), (1, 1, 1), (7, 333, 2), (130, 17, 3), (149, 999, 1)):
        expected = large[:, :channels, :height, :width]
        assert torch.equal(draw(keys, height, width, channels, "cpu"), expected)
        assert torch.equal(draw(keys[3:4], height, width, channels, "cpu"), expected[3:4])
        assert torch.equal(draw(keys.flip(0), height, width, channels, "cpu"), expected.flip(0))


def test_parameters_depend_on_key_and_number_alone() -> None:
    keys = _keys(6)
    assert torch.equal(counter.uniform(keys, 9)[2:4, :4], counter.uniform(keys[2:4], 4))


def test_the_number_of_threads_does_not_matter() -> None:
    threads = torch.get_num_threads()
    keys = _keys(3)
    try:
        torch.set_num_threads(1)
        one = counter.normal_field(keys, 300, 300, 3, "cpu")
        torch.set_num_threads(2)
        assert torch.equal(counter.normal_field(keys, 300, 300, 3, "cpu"), one)
    finally:
        torch.set_num_threads(threads)


def test_wrong_arguments_are_named() -> None:
    keys = _keys(2)
    for name, call in (
        ("samples", lambda: counter.keys(0, torch.arange(3.0), 0)),
        ("samples", lambda: counter.keys(0, torch.zeros(0, dtype=torch.int64), 0)),
        ("samples", lambda: counter.keys(0, torch.zeros(2, 2, dtype=torch.int64), 0)),
        ("keys", lambda: counter.uniform(keys.int(), 2)),
        ("count", lambda: counter.uniform(keys, 0)),
        ("keys", lambda: counter.normal_field(keys[:0], 4, 4, 3, "cpu")),
        ("height", lambda: counter.normal_field(keys, 0, 4, 3, "cpu")),
        ("width", lambda: counter.uniform_field(keys, 4, 1 << 24, 3, "cpu")),
        ("channels", lambda: counter.uniform_field(keys, 4, 4, 1025, "cpu")),
    ):
        with pytest.raises(ValueError, match=f"^{name}: "):
            call()


@pytest.mark.gpu
def test_a_cuda_device_draws_the_same_numbers_without_waiting() -> None:
    keys = _keys(3)
    torch.cuda.set_sync_debug_mode("error")
    try:
        uniform = counter.uniform_field(keys, 70, 65, 3, "cuda")
        normal = counter.normal_field(keys, 70, 65, 3, "cuda")
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(uniform.cpu(), counter.uniform_field(keys, 70, 65, 3, "cpu"))
    assert torch.allclose(normal.cpu(), counter.normal_field(keys, 70, 65, 3, "cpu"), rtol=0, atol=1e-5)
