"""Similarity transforms between pictures and upright faces of one size, and sampling along them without aliasing.

Points are (x, y) with whole numbers in the middle of pixels. So a picture n times as large has x' = n*x + (n - 1)/2:
whoever leaves the last term out shifts a pasted face by half a pixel.
"""

import math
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

Pixels = NDArray[Any]
Points = NDArray[np.float64]
"""(N, 2): x, y."""
Transform = NDArray[np.float64]
"""(2, 3): (x, y) -> matrix @ (x, y, 1)."""

TEMPLATE: Points = np.array(
    [
        [192.98138, 239.94708],
        [318.90277, 240.1936],
        [256.63416, 314.01935],
        [201.26117, 371.41043],
        [313.08905, 371.15118],
    ]
)
"""Eyes, nose and corners of the mouth, from left to right, in an aligned face of 512x512 pixels.

Source: FFHQ's alignment (Karras et al. 2019), as the landmarks' mean over it, which all published restorers use.
"""
_TEMPLATE_SIDE_PX = 512


def alignment(landmarks: Points, side: int) -> Transform:
    """From the picture in which the five `landmarks` are to its aligned face of `side` pixels: least squares.

    Source: Umeyama, "Least-squares estimation of transformation parameters between two point patterns" (1991); in the
    plane and without mirroring it is a division of complex numbers.
    """
    target = (TEMPLATE + 0.5) * (side / _TEMPLATE_SIDE_PX) - 0.5
    start, end = (points[:, 0] + 1j * points[:, 1] for points in (landmarks, target))
    centre = start.mean()
    turn = np.vdot(start - centre, end) / np.vdot(start - centre, start - centre)
    shift = end.mean() - turn * centre
    return np.array([[turn.real, -turn.imag, shift.real], [turn.imag, turn.real, shift.imag]])


def resizing(source: tuple[int, int], target: tuple[int, int]) -> Transform:
    """From a picture of `source` = (height, width) to the same one resized to `target`."""
    vertical, horizontal = (after / before for before, after in zip(source, target, strict=True))
    return np.array([[horizontal, 0, (horizontal - 1) / 2], [0, vertical, (vertical - 1) / 2]])


def inverse(transform: Transform) -> Transform:
    turn = np.linalg.inv(transform[:, :2])
    return np.hstack((turn, -turn @ transform[:, 2:]))


def chained(first: Transform, second: Transform) -> Transform:
    """`first`, then `second`."""
    return np.hstack((second[:, :2] @ first[:, :2], second[:, :2] @ first[:, 2:] + second[:, 2:]))


def moved(points: Points, transform: Transform) -> Points:
    """The points, transformed."""
    return points @ transform[:, :2].T + transform[:, 2]


def scale_of(transform: Transform) -> float:
    """How many times as long the transform makes things, on average over directions."""
    return math.sqrt(abs(float(np.linalg.det(transform[:, :2]))))


def cut(pixels: Pixels, transform: Transform, side: int) -> Pixels:
    """The aligned face (side, side, C) float32 to which `transform` leads, in the units of `pixels` (H, W, C).

    Large faces are reduced by area means first, so that nothing aliases. Outside of the picture its edge is repeated.
    """
    height, width = pixels.shape[:2]
    back = inverse(transform)
    corners = moved(np.array([(x, y) for x in (-0.5, side - 0.5) for y in (-0.5, side - 0.5)]), back)
    margin = 2 + 2 * max(1.0, scale_of(back))
    # at least one row and column, for a face may lie outside
    low = np.clip(np.floor(corners.min(0) - margin), 0, (width - 1, height - 1)).astype(int)
    high = np.clip(np.ceil(corners.max(0) + margin), low + 1, (width, height)).astype(int)
    (left, top), (right, bottom) = low, high
    part, to_part = reduced(pixels[top:bottom, left:right], scale_of(back))
    to_part = chained(np.array([[1.0, 0, -left], [0, 1, -top]]), to_part)
    return sample(part, chained(back, to_part), side, side)


def reduced(pixels: Pixels, factor: float) -> tuple[Pixels, Transform]:
    """The picture as float32, `factor` times smaller if that is more than 1, and the transform that leads to it."""
    height, width, channels = pixels.shape
    pixels = np.ascontiguousarray(pixels, np.float32)
    if factor <= 1:
        return pixels, np.eye(2, 3)
    size = (max(1, round(height / factor)), max(1, round(width / factor)))
    small = cv2.resize(pixels, (size[1], size[0]), interpolation=cv2.INTER_AREA).reshape(*size, channels)
    return small, resizing((height, width), size)


def sample(pixels: Pixels, transform: Transform, height: int, width: int) -> Pixels:
    """(height, width, C) float32, bilinear: pixel (x, y) of the result is that at `transform` (x, y) of `pixels`.

    `pixels` is (H, W, C) float32; beyond its edge the edge is repeated. OpenCV's warps round positions to 1/32 pixel.
    """
    source = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    rows, columns = np.arange(height)[:, None], np.arange(width)[None]
    grid = np.stack(
        [
            (2 * (row[0] * columns + row[1] * rows + row[2]) + 1) / side - 1
            for row, side in zip(transform, (pixels.shape[1], pixels.shape[0]), strict=True)
        ],
        axis=2,
    )
    with torch.inference_mode():
        result = F.grid_sample(
            source, torch.from_numpy(grid.astype(np.float32))[None], padding_mode="border", align_corners=False
        )
    return result[0].permute(1, 2, 0).numpy()
