"""Where to cut a picture. Pure geometry: no torch, no numpy."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Box:
    """Half-open rectangle (top, left, bottom, right) in pixels."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def height(self) -> int:
        return self.bottom - self.top

    @property
    def width(self) -> int:
        return self.right - self.left

    @property
    def area(self) -> int:
        return self.height * self.width

    def times(self, factor: int) -> "Box":
        return Box(self.top * factor, self.left * factor, self.bottom * factor, self.right * factor)

    def within(self, other: "Box") -> "Box":
        """The same place, counted from the corner of `other`."""
        return Box(self.top - other.top, self.left - other.left, self.bottom - other.top, self.right - other.left)


@dataclass(frozen=True, slots=True)
class Tile:
    """`kept` is the part of the picture that this tile contributes, `source` that part with its context."""

    source: Box
    kept: Box


def plan_tiles(height: int, width: int, *, size: int | tuple[int, int], pad: int, align: int = 1) -> tuple[Tile, ...]:
    """Cuts a picture into even tiles whose `kept` parts cover it exactly once, row by row.

    `size` bounds the sides of a kept part (one number, or height and width), apart from tiles at the border, which may
    keep up to `pad` more because they need no context there. All `source` boxes have one shape, so that they can run
    as a batch; they start at multiples of `align`, lie inside the picture and reach `pad` pixels beyond `kept`, or to
    the picture's border. With `pad` at least the network's radius, tiling changes nothing. Height and width must be
    multiples of `align`.
    """
    high, wide = (size, size) if isinstance(size, int) else size
    rows = _plan_axis(height, high, pad, align)
    columns = _plan_axis(width, wide, pad, align)
    return tuple(
        Tile(source=Box(top, left, bottom, right), kept=Box(kept_top, kept_left, kept_bottom, kept_right))
        for (top, bottom), (kept_top, kept_bottom) in rows
        for (left, right), (kept_left, kept_right) in columns
    )


def split_tile(tile: Tile, height: int, width: int, *, pad: int, align: int = 1) -> tuple[Tile, Tile]:
    """The two halves of a tile, cut across the longer side of its kept part, each with `pad` of context of its own."""
    kept = tile.kept
    if kept.height >= kept.width:
        middle = kept.top + _aligned(kept.height // 2, align)
        halves = Box(kept.top, kept.left, middle, kept.right), Box(middle, kept.left, kept.bottom, kept.right)
    else:
        middle = kept.left + _aligned(kept.width // 2, align)
        halves = Box(kept.top, kept.left, kept.bottom, middle), Box(kept.top, middle, kept.bottom, kept.right)
    pad = _aligned(pad, align)
    first, second = (
        Tile(
            source=Box(
                max(0, half.top - pad),
                max(0, half.left - pad),
                min(height, half.bottom + pad),
                min(width, half.right + pad),
            ),
            kept=half,
        )
        for half in halves
    )
    return first, second


def _plan_axis(length: int, size: int, pad: int, align: int) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """((source start, stop), (kept start, stop)) of each tile along one axis."""
    size, pad = max(align, size // align * align), _aligned(pad, align)
    if length <= size + 2 * pad:
        return [((0, length), (0, length))]
    count = -(-(length - 2 * pad) // size)
    window = _aligned(-(-(length - 2 * pad) // count), align) + 2 * pad
    plan, done = [], 0
    for index in range(count):
        start = min(index * (window - 2 * pad), length - window)
        stop = start + window
        kept_stop = length if index == count - 1 else stop - pad
        plan.append(((start, stop), (done, kept_stop)))
        done = kept_stop
    return plan


def _aligned(value: int, align: int) -> int:
    return -(-value // align) * align
