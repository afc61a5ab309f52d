"""Random numbers addressed by (key, position): no state, the same integers on every device, any order, any batch.

Two generators. `uniform` is SplitMix64, which walks through 64 bits from its key. The fields use the hash pcg4d: four
32-bit words in (column, line, two halves of the key), four out, in integer products that wrap; torch computes them five
times as fast as 64-bit ones. Its mixing stage is applied three times instead of the published two, because after two
the high bits of the line number do not reach the low bits of the result (found by the avalanche test).

Traps: torch's `>>` is arithmetic, so the sign is masked away. The integers agree everywhere; `log`, `cos` and `sin` of
the normal field may differ in their last bit between devices. One key is for one use: take another stream number for
another.

Source: M. Jarzynski and M. Olano, "Hash functions for GPU rendering", JCGT 9(3), 2020 (pcg4d). G. Steele, D. Lea and
C. Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014 (SplitMix64).
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)  # 2^64 divided by the golden ratio, as a signed number
_MULTIPLIER, _INCREMENT = 1664525, 1013904223  # of pcg4d
_STAGES = 3
_CPU_BLOCK = 1 << 15  # words per pass on a CPU: stays in the second-level cache, and torch starts no threads for it
_DEVICE_BLOCK = 1 << 24  # elsewhere: 64 MiB per buffer
_LARGEST_SIDE = (1 << 24) - 1
_LARGEST_CHANNELS = 1 << 10  # a line number is channel 2^22 + row // 4


def keys(seed: int, samples: Tensor, stream: int) -> Tensor:
    """(N,) int64 keys, one per (run seed, global sample number, stream number); different samples never share one.

    `samples` (N,) int64; the keys are on its device. `seed` and `stream` any integers, taken modulo 2^64.

    Raises:
        ValueError: `samples` of another shape or dtype, or empty.
    """
    if samples.dtype != torch.int64 or samples.ndim != 1 or samples.shape[0] == 0:
        raise ValueError(f"samples: {samples.dtype} {tuple(samples.shape)}; give int64 (N,) with N at least 1")
    origin = torch.tensor(_signed(seed), dtype=torch.int64)
    base = _mix(_mix(origin + _GOLDEN) + _signed(stream))
    return _mix(samples * _GOLDEN + base.to(samples.device, non_blocking=True))


def uniform(keys: Tensor, count: int) -> Tensor:
    """(N, count) float64 in [0, 1) with 53 bits, on the keys' device: number j of key i depends on key and j alone.

    Raises:
        ValueError: `keys` of another shape or dtype, or empty; `count` below 1.
    """
    _check_keys(keys)
    if count < 1:
        raise ValueError(f"count: {count}; draw at least 1")
    bits = _mix(keys[:, None] + torch.arange(1, count + 1, device=keys.device) * _GOLDEN)
    return ((bits >> 11) & ((1 << 53) - 1)).double() * 2.0**-53


def uniform_field(keys: Tensor, height: int, width: int, channels: int, device: torch.device | str) -> Tensor:
    """(N, channels, height, width) float32 in [0, 1), multiples of 2^-24, on `device`.

    The value at (c, y, x) depends on key, c, y and x alone, not on the canvas.

    Raises:
        ValueError: see `uniform`; a side outside 1 .. 2^24 - 1 or `channels` outside 1 .. 1024.
    """

    def convert(words: Words, out: Tensor) -> None:
        for k, word in enumerate(words):
            torch.mul((word >> 8).bitwise_and_(0xFFFFFF), 2.0**-24, out=out[:, k])

    lines = _lines(keys, height, width, channels, device, convert)
    return lines.view(keys.shape[0], channels, -1, width)[:, :, :height].contiguous()


def normal_field(keys: Tensor, height: int, width: int, channels: int, device: torch.device | str) -> Tensor:
    """(N, channels, height, width) float32, standard normal (largest magnitude 6.7), on `device`.

    The value at (c, y, x) depends on key, c, y and x alone, not on the canvas.

    Raises:
        ValueError: see `uniform_field`.

    Source: G. Box and M. Muller, "A note on the generation of random normal deviates", 1958; a pair of
    normals is at rows 2 k and 2 k + 1 of a column.
    """

    def convert(words: Words, out: Tensor) -> None:
        for k in (0, 2):
            # (integer + 1/2) / 2^31 is never 0, so that the logarithm is finite
            torch.add(words[k].bitwise_and_(0x7FFFFFFF) * 2.0**-31, 2.0**-32, out=out[:, k])
            torch.mul(words[k + 1], math.pi * 2.0**-31, out=out[:, k + 1])

    lines = _lines(keys, height, width, channels, device, convert)
    # torch starts its threads for each of these functions: large blocks, or a busy machine waits for threads
    for pairs in torch.split(lines.view(-1, 2, width), max(1, 64 * _block(lines.device) // width)):
        radius = pairs[:, 0].log().mul_(-2.0).sqrt_()
        sine = pairs[:, 1].sin()
        torch.mul(pairs[:, 1].cos(), radius, out=pairs[:, 0])
        torch.mul(sine, radius, out=pairs[:, 1])
    return lines.view(keys.shape[0], channels, -1, width)[:, :, :height].contiguous()


Words = tuple[Tensor, Tensor, Tensor, Tensor]


def _lines(
    keys: Tensor,
    height: int,
    width: int,
    channels: int,
    device: torch.device | str,
    convert: Callable[[Words, Tensor], None],
) -> Tensor:
    """(lines, 4, width) float32: `convert` writes a block of it from the four words per (line, column).

    A line is four rows of a channel of an image. A CPU works through the lines in blocks that stay in its cache.
    """
    _check_keys(keys)
    for name, value, limit in (
        ("height", height, _LARGEST_SIDE),
        ("width", width, _LARGEST_SIDE),
        ("channels", channels, _LARGEST_CHANNELS),
    ):
        if not 1 <= value <= limit:
            raise ValueError(f"{name}: {value}; give 1 to {limit}")
    device = torch.device(device)
    count, quads = keys.shape[0], (height + 3) // 4
    column = torch.arange(width, dtype=torch.int32, device=device)
    channel = torch.arange(channels, dtype=torch.int32, device=device)[:, None] << 22
    line = (channel + torch.arange(quads, dtype=torch.int32, device=device)).flatten().repeat(count)[:, None]
    halves = keys.to(device, non_blocking=True).view(torch.int32).view(count, 2)
    low, high = torch.split(halves.repeat_interleave(channels * quads, 0), 1, 1)
    out = torch.empty(line.shape[0], 4, width, device=device)
    step = max(1, _block(device) // width)
    for start in range(0, line.shape[0], step):
        block = slice(start, start + step)
        convert(_pcg4d(column, line[block], low[block], high[block]), out[block])
    return out


def _block(device: torch.device) -> int:
    return _CPU_BLOCK if device.type == "cpu" else _DEVICE_BLOCK


def _pcg4d(column: Tensor, line: Tensor, low: Tensor, high: Tensor) -> Words:
    """Four int32 words per (line, column): `column` (W,), the others (L, 1), all int32."""
    x, y, z, w = (word * _MULTIPLIER + _INCREMENT for word in (column, line, low, high))
    x = x + y * w
    y = torch.addcmul(y, z, x)
    z = torch.addcmul(z, x, y)
    w = torch.addcmul(w, y, z)
    for _ in range(_STAGES - 1):
        for word in (x, y, z, w):
            word.bitwise_xor_((word >> 16).bitwise_and_(0xFFFF))
        x.addcmul_(y, w)
        y.addcmul_(z, x)
        z.addcmul_(x, y)
        w.addcmul_(y, z)
    return x, y, z, w


def _mix(x: Tensor) -> Tensor:
    """SplitMix64's bijective mixer of int64 numbers."""
    x = (x ^ ((x >> 30) & ((1 << 34) - 1))) * _signed(0xBF58476D1CE4E5B9)
    x = (x ^ ((x >> 27) & ((1 << 37) - 1))) * _signed(0x94D049BB133111EB)
    return x ^ ((x >> 31) & ((1 << 33) - 1))


def _signed(number: int) -> int:
    """`number` modulo 2^64 as the int64 with the same bits."""
    return (number + (1 << 63)) % (1 << 64) - (1 << 63)


def _check_keys(keys: Tensor) -> None:
    if keys.dtype != torch.int64 or keys.ndim != 1 or keys.shape[0] == 0:
        raise ValueError(
            f"keys: {keys.dtype} {tuple(keys.shape)}; give int64 (N,) with N at least 1, from counter.keys"
        )
