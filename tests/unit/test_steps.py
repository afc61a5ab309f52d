"""Training steps: what reaches whom, accumulation, skipped steps, precision, resuming."""

import copy
import inspect
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from realesr_train.discriminators.spectral import SpectralConv2d
from realesr_train.discriminators.unet import UNetDiscriminator
from realesr_train.discriminators.vgg import SRGANDiscriminator
from realesr_train.ema import Ema
from realesr_train.losses.pixel import l1
from realesr_train.optim import make_optimizer, set_learning_rate
from realesr_train.steps import (
    Adversarial,
    Batch,
    Term,
    Update,
    discriminator_losses,
    gan_step,
    generator_is_due,
    generator_losses,
    pixel_step,
)

PIXEL = (Term(name="pixel", weight=1.0, loss=l1),)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """So small networks only wait for a second one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Doubler(nn.Module):
    """A tiny generator of scale 2 without normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1)
        self.conv2 = nn.Conv2d(8, 12, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        base = F.interpolate(x, scale_factor=2, mode="nearest")
        return base + F.pixel_shuffle(self.conv2(F.leaky_relu(self.conv1(x), 0.2)), 2)


def batch(count: int = 4, *, seed: int = 0, side: int = 8) -> Batch:
    """Smooth pictures, their reduction, and a "sharpened" and a "teacher's" one that differ from them."""
    generator = torch.Generator().manual_seed(seed)
    gt = F.interpolate(torch.rand(count, 3, 5, 5, generator=generator), size=2 * side, mode="bicubic").clamp(0, 1)
    noise = torch.randn(count, 3, 2 * side, 2 * side, generator=generator)
    return Batch(lq=F.avg_pool2d(gt, 2), gt=gt, gt_usm=gt + 0.05 * noise, teacher=gt - 0.05 * noise)


def split(whole: Batch, sizes: Sequence[int]) -> list[Batch]:
    assert whole.gt_usm is not None and whole.teacher is not None
    parts = (whole.lq.split(list(sizes)), whole.gt.split(list(sizes)), whole.gt_usm.split(list(sizes)))
    return [Batch(lq=lq, gt=gt, gt_usm=usm) for lq, gt, usm in zip(*parts, strict=True)]


def update_of(network: nn.Module, rate: float = 1e-3, **options: Any) -> Update:
    return Update(optimizer=make_optimizer(network.parameters(), learning_rate=rate), **options)


def state_of(*parts: Any) -> list[Tensor]:
    """Copies of everything that a step may change."""
    tensors: list[Tensor] = []
    for part in parts:
        if isinstance(part, torch.optim.Optimizer):
            tensors += [value for state in part.state.values() for value in state.values()]
        else:
            tensors += list(part.state_dict().values())
    return [tensor.detach().clone() for tensor in tensors]


def equal(a: list[Tensor], b: list[Tensor]) -> bool:
    return len(a) == len(b) > 0 and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


class Game:
    """Both networks with their updates, made alike from a seed."""

    def __init__(self, seed: int = 0, rate: float = 1e-3, **options: Any) -> None:
        torch.manual_seed(seed)
        self.g, self.d = Doubler(), UNetDiscriminator(width=4)
        self.ema = Ema(self.g, 0.9)
        self.update, self.d_update = update_of(self.g, rate, **options), update_of(self.d, rate, **options)

    def step(self, batches: Sequence[Batch], game: Adversarial | None = None, **options: Any) -> dict[str, Tensor]:
        return gan_step(
            self.g, self.d, batches, PIXEL, game or Adversarial(), self.update, self.d_update, ema=self.ema, **options
        )  # fmt: skip

    def state(self) -> list[Tensor]:
        return state_of(self.g, self.d, self.ema, self.update.optimizer, self.d_update.optimizer)


def gradients(network: nn.Module) -> list[Tensor]:
    return [parameter.grad.clone() for parameter in network.parameters() if parameter.grad is not None]


def test_the_adversarial_gradient_reaches_the_generator_and_scales_with_its_weight() -> None:
    found = {}
    for weight in (0.0, 10.0, 20.0):
        game = Game()
        game.step([batch()], Adversarial(weight=weight))
        found[weight] = torch.cat([gradient.flatten() for gradient in gradients(game.g)])
    part = found[10.0] - found[0.0]
    assert float(part.norm()) > 0.01 * float(found[0.0].norm())
    torch.testing.assert_close(found[20.0] - found[0.0], 2 * part, rtol=1e-3, atol=1e-6)


def test_each_loss_has_its_own_target() -> None:
    pictures = batch()
    output = pictures.gt.clone()
    terms = [Term(name=f"to {t}", weight=2.0, loss=l1, target=t) for t in ("gt", "gt_usm", "teacher")]  # type: ignore[arg-type]
    losses = generator_losses(output, pictures, terms)
    assert losses["to gt"].item() == 0
    assert pictures.gt_usm is not None
    assert losses["to gt_usm"].item() == pytest.approx(2 * l1(output, pictures.gt_usm).item())
    assert losses["to teacher"].item() > 0
    seen = []
    game = Game()
    game.d.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    game.step([pictures], Adversarial(target="gt_usm"))
    assert torch.equal(seen[1], pictures.gt_usm)


def test_a_distilled_generator_approaches_its_teacher() -> None:
    torch.manual_seed(0)
    network = Doubler()
    update = update_of(network, 1e-2)
    terms = [Term(name="distill", weight=1.0, loss=l1, target="teacher")]
    losses = [pixel_step(network, [batch()], terms, update)["distill"].item() for _ in range(30)]
    assert losses[-1] < 0.7 * losses[0]


def test_a_target_that_the_batch_lacks_and_doubled_names_are_refused() -> None:
    bare = Batch(lq=torch.zeros(1, 3, 8, 8), gt=torch.zeros(1, 3, 16, 16))
    with pytest.raises(ValueError, match="no teacher"):
        generator_losses(bare.gt, bare, [Term(name="distill", weight=1.0, loss=l1, target="teacher")])
    with pytest.raises(ValueError, match="two terms are named pixel"):
        generator_losses(bare.gt, bare, [*PIXEL, *PIXEL])
    with pytest.raises(ValueError, match="cannot be named d_real"):
        Term(name="d_real", weight=1.0, loss=l1)
    with pytest.raises(ValueError, match="no real_label"):
        Adversarial(relativistic=True, real_label=0.9)


def test_the_discriminator_learns_from_the_output_of_before_the_update() -> None:
    game = Game(rate=0.1)
    pictures = batch()
    before = game.g(pictures.lq).detach()
    seen = []
    game.d.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    game.step([pictures])
    for picture, expected in zip(seen, (before, pictures.gt, before), strict=True):
        assert torch.equal(picture, expected)
    assert not torch.equal(game.g(pictures.lq), before)


def test_the_generators_pass_leaves_no_gradient_in_the_discriminator_and_thaws_it() -> None:
    game, alone = Game(), Game()
    pictures = batch()
    with torch.no_grad():
        output = alone.g(pictures.lq)
        alone.d(output)  # advances the power iteration as the generator's pass does
    loss = F.softplus(-alone.d(pictures.gt)).mean() + F.softplus(alone.d(output)).mean()
    loss.backward()
    game.step([pictures])
    assert all(parameter.requires_grad for parameter in game.d.parameters())
    for ours, theirs in zip(gradients(game.d), gradients(alone.d), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_the_discriminators_weights_take_part_only_in_its_own_passes() -> None:
    game = Game()
    trained: list[bool] = []
    game.d.register_forward_hook(lambda *_: trained.append(any(p.requires_grad for p in game.d.parameters())))
    game.step([batch()])
    assert trained == [False, True, True]


def test_the_discriminators_losses_give_the_generator_no_gradient() -> None:
    pictures, d = batch(), UNetDiscriminator(width=4)
    for joint in (False, True):
        fake = pictures.gt.clone().requires_grad_(True)
        losses = discriminator_losses(d, pictures.gt, fake, Adversarial(joint=joint))
        (losses["d_real"] + losses["d_fake"]).backward()
        assert fake.grad is None


def test_weights_frozen_by_the_caller_stay_frozen() -> None:
    torch.manual_seed(0)
    g, d = Doubler(), UNetDiscriminator(width=4)
    d.conv0.weight.requires_grad_(False)
    start = d.conv0.weight.clone()
    gan_step(g, d, [batch()], PIXEL, Adversarial(), update_of(g), update_of(d))
    assert not d.conv0.weight.requires_grad
    assert torch.equal(d.conv0.weight, start)


def test_without_a_generator_update_only_the_discriminator_and_the_average_move() -> None:
    game = Game()
    with torch.no_grad():
        game.g.conv1.weight.add_(0.1)  # so that the average has somewhere to go
    g, d, average = state_of(game.g), state_of(game.d), state_of(game.ema)
    losses = game.step([batch()], update_generator=False)
    assert equal(state_of(game.g), g)
    assert not equal(state_of(game.d), d)
    assert not equal(state_of(game.ema), average)
    assert losses.keys() == {"d_real", "d_fake", "logit_real", "logit_fake", "gradient_norm_d", "skipped_d"}


def test_the_generator_is_due_every_nth_step_after_the_first_ones() -> None:
    assert [step for step in range(1, 11) if generator_is_due(step)] == list(range(1, 11))
    assert [step for step in range(1, 11) if generator_is_due(step, every=3, after=3)] == [6, 9]


@pytest.mark.parametrize("sizes", [(2, 2, 2, 2), (1, 4, 3)])
def test_accumulated_gradients_are_those_of_the_whole_batch(sizes: tuple[int, ...]) -> None:
    pictures = batch(8)
    whole, parts = Game(), Game()
    for game in (whole, parts):
        game.d.eval()  # the power iteration would run more often with more micro-batches
    losses = whole.step([pictures])
    accumulated = parts.step(split(pictures, sizes))
    assert losses.keys() == accumulated.keys()
    for name, value in losses.items():
        torch.testing.assert_close(accumulated[name], value, rtol=1e-4, atol=1e-6)
    for network in ("g", "d"):
        for a, b in zip(gradients(getattr(parts, network)), gradients(getattr(whole, network)), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-6)


def test_gradients_do_not_pile_up_from_step_to_step() -> None:
    torch.manual_seed(0)
    network = Doubler()
    update = update_of(network, 0.0)
    first, second = (pixel_step(network, [batch()], PIXEL, update)["gradient_norm_g"].item() for _ in range(2))
    assert first == second


def test_gradients_are_clipped_to_the_norm_over_all_weights() -> None:
    torch.manual_seed(0)
    network = Doubler()
    norm = pixel_step(network, [batch()], PIXEL, update_of(network, 0.0))["gradient_norm_g"]
    loose = update_of(network, 0.0, clip_norm=2 * norm.item())
    tight = update_of(network, 0.0, clip_norm=0.5 * norm.item())
    for update, expected in ((loose, 1.0), (tight, 0.5)):
        reported = pixel_step(network, [batch()], PIXEL, update)["gradient_norm_g"]
        torch.testing.assert_close(reported, norm)  # of before the clipping
        total = torch.cat([gradient.flatten() for gradient in gradients(network)]).norm()
        torch.testing.assert_close(total, expected * norm)


def _broken(where: str) -> Batch:
    pictures = batch()
    picture = {"gt": pictures.gt, "lq": pictures.lq}[where]
    picture[0, 0, 3, 3] = float("nan")
    return pictures


@pytest.mark.parametrize("where", ["gt", "lq"])
@pytest.mark.parametrize("clip", [None, 1.0])
def test_a_step_with_nan_leaves_weights_moments_and_average_untouched_and_is_counted(
    where: str, clip: float | None
) -> None:
    game, undisturbed = Game(clip_norm=clip), Game(clip_norm=clip)
    game.step([batch(seed=1)])
    undisturbed.step([batch(seed=1)])
    before = [t for n in (game.g, game.d) for t in state_of(nn.ParameterList(n.parameters()))]
    before += state_of(game.ema, game.update.optimizer, game.d_update.optimizer)
    losses = game.step([batch(seed=2), _broken(where)])
    after = [t for n in (game.g, game.d) for t in state_of(nn.ParameterList(n.parameters()))]
    after += state_of(game.ema, game.update.optimizer, game.d_update.optimizer)
    assert equal(before, after)
    assert losses["skipped_g"].item() == 1
    assert losses["skipped_d"].item() == 1
    assert torch.isnan(losses["pixel"])
    # and training goes on as if it had not been, but for the power iteration
    for one in (game, undisturbed):
        vectors = {k: v for k, v in undisturbed.d.state_dict().items() if k.endswith(("_u", "_v"))}
        one.d.load_state_dict(vectors, strict=False)
        assert one.step([batch(seed=3)])["skipped_g"].item() == 0
    assert equal(game.state(), undisturbed.state())


def test_a_loss_that_is_nan_with_a_finite_gradient_skips_the_step() -> None:
    """The sign of NaN is 0: a broken pixel in L1's target gives a gradient that looks healthy."""
    torch.manual_seed(0)
    network = Doubler()
    update = update_of(network)
    before = state_of(network)
    l1(network(batch().lq), _broken("gt").gt).backward()
    assert all(torch.isfinite(gradient).all() for gradient in gradients(network))
    losses = pixel_step(network, [_broken("gt")], PIXEL, update)
    assert losses["skipped_g"].item() == 1
    assert equal(state_of(network), before)


def test_the_discriminator_may_be_skipped_alone() -> None:
    game = Game()
    with torch.no_grad():
        game.d.conv9.bias.fill_(float("inf"))
    losses = game.step([batch()], Adversarial(weight=0.0, kind="hinge"), update_generator=False)
    assert losses["skipped_d"].item() == 1
    assert "skipped_g" not in losses


def test_an_optimizer_that_cannot_skip_is_refused() -> None:
    with pytest.raises(ValueError, match="fused=True"):
        Update(optimizer=torch.optim.SGD(Doubler().parameters(), lr=0.1))


def test_what_a_step_gives_back_is_detached_and_scalar() -> None:
    losses = Game().step([batch()])
    assert losses.keys() == {
        "pixel", "adversarial", "d_real", "d_fake", "logit_real", "logit_fake", "gradient_norm_g", "gradient_norm_d",
        "skipped_g", "skipped_d",
    }  # fmt: skip
    for name, value in losses.items():
        assert (value.ndim, value.dtype, value.requires_grad) == (0, torch.float32, False), name


def test_no_step_reads_a_value_from_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every way from a tensor to a Python number waits for the device."""
    game = Game(clip_norm=1.0)
    pictures = batch(8)
    micro_batches = split(pictures, (4, 4))

    def refuse(*_: object) -> None:
        raise AssertionError("waits for the device")

    for name in ("item", "tolist", "__bool__", "__float__", "__int__", "cpu", "numpy"):
        monkeypatch.setattr(Tensor, name, refuse)
    losses = game.step(micro_batches)
    game.step(micro_batches, Adversarial(relativistic=True, joint=True))
    monkeypatch.undo()
    assert losses["skipped_g"].item() == 0


def test_a_joint_pass_gives_the_losses_of_two_and_advances_the_power_iteration_once() -> None:
    pictures = batch()
    found = []
    for joint in (False, True):
        game = Game()
        game.d.eval()
        found.append(game.step([pictures], Adversarial(joint=joint)))
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value, rtol=1e-4, atol=1e-6)
    passes = []
    for joint in (False, True):
        game, calls = Game(), []
        game.d.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        game.step([pictures], Adversarial(joint=joint), update_generator=False)
        passes.append(len(calls))
    assert passes == [2, 1]


def test_the_relativistic_game_is_the_formula() -> None:
    pictures = batch()
    game, reference = Game(), Game()
    for one in (game, reference):
        one.d.eval()
    losses = game.step([pictures], Adversarial(relativistic=True, weight=0.005))
    with torch.no_grad():
        real, fake = reference.d(pictures.gt), reference.d(reference.g(pictures.lq))
    expected = 0.5 * (F.softplus(real - fake.mean()).mean() + F.softplus(-(fake - real.mean())).mean())
    torch.testing.assert_close(losses["adversarial"], 0.005 * expected)
    torch.testing.assert_close(losses["d_real"], 0.5 * F.softplus(-(real - fake.mean())).mean())
    torch.testing.assert_close(losses["d_fake"], 0.5 * F.softplus(fake - real.mean()).mean())


def test_smoothed_labels_change_the_discriminators_losses_only() -> None:
    plain, smooth = Game(), Game()
    for game in (plain, smooth):
        nn.init.constant_(game.d.conv9.bias, 0.5)  # type: ignore[arg-type]
    a = plain.step([batch()])
    b = smooth.step([batch()], Adversarial(real_label=0.9, fake_label=0.1))
    assert torch.equal(a["adversarial"], b["adversarial"])
    torch.testing.assert_close(b["d_real"], a["d_real"] + 0.1 * a["logit_real"])
    torch.testing.assert_close(b["d_fake"], a["d_fake"] - 0.1 * a["logit_fake"])


def test_a_short_game_is_played_as_it_should_be() -> None:
    """The discriminator learns what noise is, then the generator to make it; norms stay near 1; L1 alone falls."""
    game = Game(rate=3e-3)
    noisy = Adversarial(target="gt_usm")
    learnt = [game.step([batch(seed=step % 4)], noisy, update_generator=False) for step in range(60)]
    assert learnt[-1]["d_real"] + learnt[-1]["d_fake"] < 0.5 * (learnt[0]["d_real"] + learnt[0]["d_fake"])
    assert learnt[-1]["logit_real"] > 0 > learnt[-1]["logit_fake"]

    set_learning_rate(game.d_update.optimizer, 0.0)
    fooled = [game.step([batch(seed=step % 4)], Adversarial(target="gt_usm", weight=10)) for step in range(40)]
    assert fooled[-1]["adversarial"] < 0.7 * fooled[0]["adversarial"]
    assert fooled[-1]["logit_fake"] > fooled[0]["logit_fake"]
    assert all(losses[name] == 0 for losses in learnt + fooled for name in losses if name.startswith("skipped"))
    for name, module in game.d.named_modules():
        if isinstance(module, SpectralConv2d):
            norm = torch.linalg.matrix_norm(module.normalised_weight().detach().flatten(1), ord=2)
            assert norm.item() == pytest.approx(1, abs=0.05), name

    alone = Game(rate=3e-3)
    pixel = [pixel_step(alone.g, [batch(seed=step % 4)], PIXEL, alone.update)["pixel"] for step in range(40)]
    assert pixel[-1] < 0.7 * pixel[3]


@pytest.mark.parametrize("joint", [False, True])
def test_bfloat16_stays_near_float32(joint: bool) -> None:
    exact, low = Game(), Game()
    for game in (exact, low):
        game.g.to(memory_format=torch.channels_last)
        game.d.to(memory_format=torch.channels_last)
    for step in range(3):
        a = exact.step([batch(seed=step)], Adversarial(joint=joint))
        b = low.step([batch(seed=step)], Adversarial(joint=joint), autocast=torch.bfloat16)
        for name in ("pixel", "adversarial", "d_real", "d_fake", "gradient_norm_g", "gradient_norm_d"):
            assert b[name].dtype == torch.float32
            assert b[name].item() == pytest.approx(a[name].item(), rel=0.05), name
    assert all(parameter.dtype == torch.float32 for parameter in low.g.parameters())
    difference = max(
        float((p - q).detach().abs().max()) for p, q in zip(low.g.parameters(), exact.g.parameters(), strict=True)
    )
    assert 0 < difference <= 3 * 2 * 1e-3  # Adam moves a weight by at most about its rate in a step


def test_float16_finds_its_scale_and_gives_true_gradients() -> None:
    exact = Game()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)
    low = Game(scaler=scaler)
    a = exact.step([batch()])
    skipped = 0
    for _ in range(40):
        losses = low.step([batch()], autocast=torch.float16)
        if not losses["skipped_g"].item():
            break
        skipped += 1
    assert 0 < skipped < 40
    assert scaler.get_scale() < 2.0**40
    assert losses["gradient_norm_g"].item() == pytest.approx(a["gradient_norm_g"].item(), rel=0.03)
    assert torch.isfinite(losses["pixel"])


def test_a_resumed_game_continues_exactly(tmp_path: Path) -> None:
    whole = Game()
    for step in range(4):
        whole.step([batch(seed=step)])
    first = Game()
    for step in range(2):
        first.step([batch(seed=step)])
    content = {
        "g": first.g.state_dict(),
        "d": first.d.state_dict(),
        "ema": first.ema.state_dict(),
        "optimizers": [first.update.optimizer.state_dict(), first.d_update.optimizer.state_dict()],
    }
    torch.save(content, tmp_path / "state.pt")
    content = torch.load(tmp_path / "state.pt", weights_only=True)
    resumed = Game(seed=9)
    resumed.g.load_state_dict(content["g"])
    resumed.d.load_state_dict(content["d"])
    resumed.ema.load_state_dict(content["ema"])
    for update, state in zip((resumed.update, resumed.d_update), content["optimizers"], strict=True):
        update.optimizer.load_state_dict(state)
    for step in range(2, 4):
        resumed.step([batch(seed=step)])
    assert equal(resumed.state(), whole.state())


@pytest.fixture
def one_process(tmp_path: Path) -> Iterator[None]:
    import torch.distributed as dist

    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("normalised_over_the_batch", [False, True])
def test_wrapped_networks_train_like_bare_ones(normalised_over_the_batch: bool, one_process: None) -> None:
    del one_process
    options: Any = {}
    if normalised_over_the_batch:  # torch 2.13 renamed the option
        known = inspect.signature(DistributedDataParallel.__init__).parameters
        options["forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"] = False

    def make_d() -> nn.Module:
        return SRGANDiscriminator(width=2, side_px=16) if normalised_over_the_batch else UNetDiscriminator(width=4)

    torch.manual_seed(0)
    g, d = Doubler(), make_d()
    wrapped_g, wrapped_d = copy.deepcopy(g), copy.deepcopy(d)
    pairs = (
        (g, d, g, d),
        (
            wrapped_g,
            wrapped_d,
            DistributedDataParallel(wrapped_g),
            DistributedDataParallel(wrapped_d, **options),
        ),
    )
    results = []
    for bare_g, bare_d, net_g, net_d in pairs:
        ema = Ema(bare_g, 0.9)
        updates = update_of(bare_g), update_of(bare_d)
        for step, game in enumerate((Adversarial(), Adversarial(relativistic=True), Adversarial(joint=True))):
            micro_batches = split(batch(4, seed=step), (2, 2))
            gan_step(net_g, net_d, micro_batches, PIXEL, game, *updates, update_generator=step != 1, ema=ema)
        results.append(state_of(bare_g, bare_d, ema))
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*results, strict=True))
