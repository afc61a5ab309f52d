"""KernelGAN for many pictures at once: a linear network learns to halve a picture so that its patches look the same.

Every weight has the number of the picture as its first axis, and all pictures take their steps together. What the
network does is one correlation: its layers are composed into a 13x13 kernel from the last one backwards, which costs a
hundredth of running them. The discriminator is always in training mode, so no running statistics are kept.

Departures from the published method, each of which was measured to be a defect of it: the target of the similarity loss
is that of each channel by itself; noise is added to copies of the crops; and the kernel that the first part pulls to is
an argument (a bicubic one in the paper), because starting from the Gaussian of spectrum.py keeps the orientation.

Source: Bell-Kligler, Shocher and Irani 2019, "Blind Super-Resolution Kernel Estimation using an Internal-GAN"
(arXiv:1909.06581); family specification, section 5.1. Written from the formulas.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from realesr_train.kernel_forms import KERNEL_PX

SIDES = (7, 5, 3, 1, 1, 1)
"""Of the layers' kernels."""
INPUT_PX, OUTPUT_PX = 64, 26
_EPSILON = 1e-12
_RATE = 2e-4

Tensors = list[Tensor]


@dataclass(slots=True)
class Critic:
    """The discriminators: six layers each, all under spectral normalisation; the first axis is the picture."""

    weights: Tensors
    """(B, out, in * side * side) of each layer."""
    biases: Tensors
    """(B, out) of each layer."""
    gains: Tensors
    """(B, width): scale of the batch normalisation after each layer between."""
    offsets: Tensors
    """(B, width)."""
    u: Tensors
    """(B, out): left singular vectors, estimated."""
    v: Tensors = field(default_factory=list)

    def parameters(self) -> Tensors:
        return [*self.weights, *self.biases, *self.gains, *self.offsets]

    def __call__(self, x: Tensor) -> Tensor:
        """(B, N, 3, h, w) in [-1, 1] -> (B, N, h - 6, w - 6), 1 where a patch looks real."""
        count, crops, channels, height, width = x.shape
        side = math.isqrt(self.weights[0].shape[2] // channels)
        patches = F.unfold(x.flatten(0, 1), side).view(count, crops, -1, (height - side + 1) * (width - side + 1))
        x = patches.transpose(1, 2).flatten(2)
        for number in range(len(self.weights)):
            x = torch.baddbmm(self.biases[number][:, :, None], self._normalised(number), x)
            if 0 < number < len(self.weights) - 1:
                x = F.relu(self._standardised(x, number - 1))
        return torch.sigmoid(x).view(count, crops, height - side + 1, width - side + 1)

    def _normalised(self, number: int) -> Tensor:
        """Source: Miyato et al. 2018 (arXiv:1802.05957), algorithm 1, one power iteration."""
        weight = self.weights[number]
        with torch.no_grad():
            v = F.normalize(torch.einsum("boi,bo->bi", weight, self.u[number]), dim=1, eps=_EPSILON)
            u = F.normalize(torch.einsum("boi,bi->bo", weight, v), dim=1, eps=_EPSILON)
            self.u[number] = u
            if self.v:
                self.v[number] = v
        return weight / torch.einsum("bo,boi,bi->b", u, weight, v)[:, None, None]

    def _standardised(self, x: Tensor, number: int) -> Tensor:
        rows = x.reshape(1, -1, x.shape[2])
        gain, offset = self.gains[number].flatten(), self.offsets[number].flatten()
        return F.batch_norm(rows, None, None, gain, offset, training=True).view_as(x)


def new_generator(count: int, generator: torch.Generator, *, width: int = 64) -> Tensors:
    """The layers of `count` pictures, (B, out, in, side, side) each, Xavier normal with a gain of 0.1 as published."""
    widths = (1, *[width] * (len(SIDES) - 1), 1)
    layers = []
    for side, before, after in zip(SIDES, widths, widths[1:], strict=False):
        deviation = math.sqrt(2 / ((before + after) * side * side))
        layers.append(deviation * torch.randn(count, after, before, side, side, generator=generator))
    return layers


def new_critic(count: int, generator: torch.Generator, *, width: int = 64, layers: int = 7, side: int = 7) -> Critic:
    """Discriminators with random weights."""
    inputs = (3 * side * side, *[width] * (layers - 1))
    outputs = (*[width] * (layers - 1), 1)
    weights = [
        math.sqrt(1 / before) * torch.randn(count, after, before, generator=generator)
        for before, after in zip(inputs, outputs, strict=True)
    ]
    return Critic(
        weights=weights,
        biases=[torch.zeros(count, after) for after in outputs],
        gains=[torch.ones(count, width) for _ in range(layers - 2)],
        offsets=[torch.zeros(count, width) for _ in range(layers - 2)],
        u=[F.normalize(torch.randn(count, after, generator=generator), dim=1) for after in outputs],
    )


def compose(layers: Sequence[Tensor]) -> Tensor:
    """(B, 13, 13): the kernel of which one correlation is what the layers do one after the other."""
    count = len(layers[0])
    kernel = layers[-1].flatten(0, 2)[None]  # (1, B * width, 1, 1)
    for layer in reversed(layers[:-1]):
        kernel = F.conv_transpose2d(kernel, layer.flatten(0, 1), groups=count)
    return kernel[0]


def halve(pictures: Tensor, kernels: Tensor) -> Tensor:
    """(B, N, C, h, w) correlated with each picture's kernel (B, k, k), every second pixel, without a border."""
    count, crops, channels, height, width = pictures.shape
    planes = pictures.transpose(0, 1).reshape(crops, count * channels, height, width)
    weight = kernels.repeat_interleave(channels, 0)[:, None]
    out = F.conv2d(planes, weight, stride=2, groups=count * channels)
    return out.view(crops, count, channels, *out.shape[2:]).transpose(0, 1)


def bicubic_kernel() -> Tensor:
    """(8, 8), sum 1: antialiased cubic convolution (a = -0.5) for a half."""
    half = torch.tensor([-0.01171875, -0.03515625, 0.11328125, 0.43359375])
    row = torch.cat((half, half.flip(0)))
    return torch.outer(row, row)


def similarity_loss(outputs: Tensor, crops: Tensor, towards: Tensor) -> Tensor:
    """(B,): mean squared difference of `outputs` (B, N, 3, m, m) to the crops halved by `towards` (B, k, k).

    A kernel of 8x8 stands where that of 13x13 does with 3 pixels more around it.
    """
    if towards.shape[1] == 8:
        towards = F.pad(towards, (3, 2, 3, 2))
    return (outputs - halve(crops, towards)).square().mean((1, 2, 3, 4))


def constraint_losses(kernels: Tensor) -> dict[str, Tensor]:
    """(B,) each for kernels (B, 13, 13): sum, boundaries, centralised and sparse."""
    side = kernels.shape[1]
    place = torch.arange(side, device=kernels.device, dtype=kernels.dtype)
    centre = side // 2 + 0.5 * (2 - side % 2)
    total = kernels.sum((1, 2))
    rows = (kernels.sum(2) * place).sum(1) / total
    columns = (kernels.sum(1) * place).sum(1) / total
    return {
        "sum": (1 - total).abs(),
        "boundaries": (kernels * border_mask(side).to(kernels)).abs().mean((1, 2)),
        "centralised": ((rows - centre).square() + (columns - centre).square()) / 2,
        "sparse": kernels.abs().clamp(min=1e-8).pow(0.2).mean((1, 2)),  # at 0 its slope is infinite
    }


def border_mask(side: int) -> Tensor:
    """(side, side) float64: what a value near the border costs; nothing where it is 2 or more pixels away from it."""
    offset = torch.arange(side, dtype=torch.float64) - (side - 1) / 2
    row = torch.exp(-(offset**2) / (2 * side**2))
    gaussian = torch.outer(row, row)
    mask = 30 * (1 - gaussian / gaussian.max())
    mask[2:-2, 2:-2] = 0
    return mask


class Schedule:
    """The weights of the losses of each picture, which follow its own similarity loss."""

    def __init__(self, count: int, device: torch.device | str = "cpu") -> None:
        self.similarity = torch.full((count,), 5.0, device=device, dtype=torch.float64)
        self.constraints = torch.zeros(count, device=device, dtype=torch.float64)
        """1 once centralised and sparse count."""
        self.sparse = 5.0
        """Weight of sparse beside centralised."""
        self._good = torch.zeros(count, dtype=torch.int64, device=device)
        self._similar = torch.zeros(count, dtype=torch.bool, device=device)

    def update(self, iteration: int, loss: Tensor) -> None:
        """After iteration 0, 1, ..., whose similarity losses were `loss` (B,)."""
        self._good = torch.where(loss < 0.4, self._good + 1, 0)
        if iteration == 0:
            return
        self._similar |= self._good >= 3
        if iteration % 200 == 0:
            lower = self._similar & (self.similarity > 5e-6)
            self.similarity = torch.where(lower, (self.similarity / 100).clamp(min=5e-6), self.similarity)
            self.constraints = torch.where(self.similarity < 5e-3, 1.0, self.constraints)


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """What one step was made of; (B,) each, but the kernels (B, 13, 13) from before the generators' update."""

    losses: dict[str, Tensor]
    kernels: Tensor


def step(
    layers: Sequence[Tensor],
    critic: Critic,
    crops: Tensor,
    real: Tensor,
    schedule: Schedule,
    optimizers: tuple[torch.optim.Optimizer, torch.optim.Optimizer],
    *,
    towards: Tensor,
    noise: Callable[[Tensor], Tensor],
    base: Tensor | float = 0.0,
) -> Step:
    """One update of all generators, then one of all discriminators.

    `crops` (B, N, 3, 64, 64) and `real` (B, N, 3, 26, 26) are in [-1, 1]; `real` has its noise already. `noise` gives
    what is added to the generators' pictures for the discriminators. `towards` (B, k, k) is the kernel of the
    similarity loss, `base` (B, 13, 13) what the layers' kernel is added to.
    """
    of_generator, of_critic = optimizers
    kernels = base + compose(layers)
    fake = halve(crops, kernels)
    losses = {
        "gan": (critic(fake) - 1).abs().mean((1, 2, 3)),
        "similarity": similarity_loss(fake, crops, towards),
        **constraint_losses(kernels),
    }
    total = (
        losses["gan"]
        + schedule.similarity * losses["similarity"]
        + 0.5 * (losses["sum"] + losses["boundaries"])
        + schedule.constraints * (losses["centralised"] + schedule.sparse * losses["sparse"])
    )
    of_generator.zero_grad(set_to_none=True)
    total.sum().backward(inputs=list(layers))  # type: ignore[no-untyped-call]
    of_generator.step()
    with torch.no_grad():
        fake = halve(crops, base + compose(layers))
    d_real = (critic(real) - 1).abs().mean((1, 2, 3))
    d_fake = critic(fake + noise(fake)).abs().mean((1, 2, 3))
    of_critic.zero_grad(set_to_none=True)
    (0.5 * (d_real + d_fake)).sum().backward()  # type: ignore[no-untyped-call]
    of_critic.step()
    losses |= {"total": total, "d_fake": d_fake, "d_real": d_real, "d_total": 0.5 * (d_real + d_fake)}
    return Step(losses={name: value.detach() for name, value in losses.items()}, kernels=kernels.detach())


def adam(parameters: Sequence[Tensor], rate: float) -> torch.optim.Adam:
    """The optimizer of either side."""
    return torch.optim.Adam(parameters, lr=rate, betas=(0.5, 0.999))


def crops_at(pictures: Sequence[Tensor], corners: Tensor, side: int) -> Tensor:
    """(B, N, 3, side, side), copies: of picture b those at corners[b] (N, 2)."""
    return torch.stack(
        [
            torch.stack([picture[:, top : top + side, left : left + side] for top, left in places])
            for picture, places in zip(pictures, corners.tolist(), strict=True)
        ]
    )


@torch.enable_grad()
def learn(
    pictures: Sequence[Tensor],
    start: Tensor | None,
    *,
    iterations: int,
    device: torch.device,
    seed: int = 0,
    advance: Callable[[int], None] = lambda done: None,
) -> Tensor:
    """(B, 13, 13) on the CPU: the kernels of `pictures`, (3, H, W) in [-1, 1] on `device` with sides from 80 on, which
    are left as they are. All pictures take one step in each iteration.

    With `start` (B, 13, 13) each begins there: a network that gives nothing yet is added to it, all constraints but
    sparse are in force, staying near it has the weight 20, and the rate falls after half of the iterations; the
    result is the mean of the kernels of the second half. Without, all is as published: the network begins at random,
    is drawn to the bicubic kernel at first, and follows the schedule; that is made for 3000 iterations.
    """
    generator = torch.Generator().manual_seed(seed)
    layers = new_generator(len(pictures), generator)
    critic = new_critic(len(pictures), generator)
    schedule = Schedule(len(pictures), device)
    rate, drops, base, towards = (
        2e-4,
        {750, 1500, 2250},
        torch.zeros(()),
        bicubic_kernel().expand(len(pictures), -1, -1),
    )
    if start is not None:
        layers[-1].zero_()
        schedule.similarity.fill_(20.0)
        schedule.constraints.fill_(1.0)
        schedule.sparse = 0.0
        rate, drops, base, towards = 5e-4, {iterations // 2}, start, start
    base, towards = base.to(device), towards.to(device)
    layers = [layer.to(device).requires_grad_(True) for layer in layers]
    for name in ("weights", "biases", "gains", "offsets", "u"):
        setattr(critic, name, [one.to(device) for one in getattr(critic, name)])
    optimizers = adam(layers, rate), adam([one.requires_grad_(True) for one in critic.parameters()], 2e-4)
    places = [
        torch.stack([draw_corners(picture, side, iterations, generator) for picture in pictures])
        for side in (INPUT_PX, OUTPUT_PX)
    ]
    noises = torch.Generator(device).manual_seed(seed)

    def noise(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=noises, device=device) / 255

    total = torch.zeros(len(pictures), KERNEL_PX, KERNEL_PX, device=device)
    for iteration in range(iterations):
        crops, real = (
            crops_at(pictures, one[:, iteration : iteration + 1], side)
            for one, side in zip(places, (INPUT_PX, OUTPUT_PX), strict=True)
        )
        real = real + 2 * noise(real)
        done = step(layers, critic, crops, real, schedule, optimizers, towards=towards, noise=noise, base=base)
        if start is None:
            schedule.update(iteration, done.losses["similarity"])
        elif iteration >= iterations // 2:
            total += done.kernels / (iterations - iterations // 2)
        if iteration in drops:
            for optimizer in optimizers:
                optimizer.param_groups[0]["lr"] /= 10
        advance(1)
    return (compose(layers).detach() if start is None else total).cpu()


def draw_corners(picture: Tensor, side: int, count: int, generator: torch.Generator) -> Tensor:
    """(count, 2) int64 even places of crops (top, left) of a picture (3, H, W), drawn where its edges are."""
    grey = torch.tensordot(torch.tensor([0.299, 0.587, 0.114], device=picture.device), picture, 1).cpu()
    if side == INPUT_PX:  # what a half-size copy still has
        even = grey[: len(grey) // 2 * 2, : grey.shape[1] // 2 * 2]
        small = _edges(F.avg_pool2d(even[None, None], 2)[0, 0])
        edges = small.repeat_interleave(2, 0).repeat_interleave(2, 1)
        edges = F.pad(edges, (0, grey.shape[1] - edges.shape[1], 0, len(grey) - len(edges)))
    else:
        edges = _edges(grey)
    box, margin = side // 2, side // 2
    weights = F.avg_pool2d(edges[None, None], box + 1 - box % 2, 1, box // 2, count_include_pad=False)[0, 0]
    inside = torch.zeros_like(weights)
    inside[margin : len(weights) - margin + 1, margin : weights.shape[1] - margin + 1] = 1
    weights = (weights + 1e-3 * weights.mean() + 1e-9) * inside
    chosen = torch.multinomial(weights.flatten().double(), count, replacement=True, generator=generator)
    corners = torch.stack((chosen // grey.shape[1], chosen % grey.shape[1]), 1) - side // 2
    room = torch.tensor([len(grey) - side, grey.shape[1] - side])
    return torch.minimum(corners.clamp(min=0), room) // 2 * 2


def _edges(grey: Tensor) -> Tensor:
    """(H, W): how many of the two gradients and their magnitude are among the strongest 3 % there, smoothed."""
    down, right = torch.gradient(grey)
    total = torch.zeros_like(grey)
    for strength in (down.abs(), right.abs(), torch.hypot(down, right)):
        inner = torch.zeros_like(strength)
        inner[5:-5, 5:-5] = strength[5:-5, 5:-5]
        limit = inner.flatten().kthvalue(max(1, int(0.97 * inner.numel()))).values
        found = (inner > limit).float()
        total += found / found.sum().clamp(min=1)
    return F.avg_pool2d(total[None, None], 5, 1, 2, count_include_pad=False)[0, 0]
