"""Discriminators against the originals: outputs, gradients, and what one forward in training mode changes."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from realesr_train.discriminators.patch import PatchDiscriminator
from realesr_train.discriminators.unet import UNetDiscriminator
from realesr_train.discriminators.vgg import SRGANDiscriminator, VGGDiscriminator

_MAKE: dict[str, Callable[[], nn.Module]] = {
    "unet_disc_sn": lambda: UNetDiscriminator(width=8),
    "unet_disc_sn_fresh": lambda: UNetDiscriminator(width=5),
    "unet_disc_sn_noskip": lambda: UNetDiscriminator(width=6, skip=False),
    "patch_disc_l2": lambda: PatchDiscriminator(width=6, layers=2),
    "patch_disc_l3": lambda: PatchDiscriminator(width=8),
    "patch_disc_kair_sn": lambda: PatchDiscriminator(width=8, normalisation="spectral"),
    "vgg_disc_128": lambda: VGGDiscriminator(width=4),
    "vgg_disc_256": lambda: VGGDiscriminator(width=3, side_px=256),
}
_EVERY = {"vgg_disc_128": 2, "vgg_disc_256": 5}  # their dx is thinned out


def _near(ours: Tensor, theirs: np.ndarray, relative: float, what: str) -> None:
    error, size = float(np.abs(ours.detach().numpy() - theirs).max()), float(np.abs(theirs).max())
    assert error <= relative * size + 1e-7, f"{what}: {error:.1e} of {size:.1e}"


@pytest.mark.parametrize("name", _MAKE)
def test_a_discriminator_equals_the_original(name: str, golden: Callable[[str], Path]) -> None:
    arrays = np.load(golden(f"networks/{name}.npz"), allow_pickle=False)
    state = {key[3:]: torch.from_numpy(arrays[key]) for key in arrays.files if key.startswith("sd/")}
    names = json.loads(str(arrays["meta"]))["param_names"]
    for suffix, training in (("", False), ("_train", True)):
        net = _MAKE[name]()
        net.load_state_dict(state, strict=True)
        net.train(training)
        assert {key for key, _ in net.named_parameters()} == set(names)
        x = torch.from_numpy(arrays["x"]).requires_grad_(True)
        y = net(x)
        _near(y, arrays[f"y{suffix}"], 1e-4 if training else 1e-5, f"y{suffix}")
        y.square().mean().backward()
        step = _EVERY.get(name, 1)
        assert x.grad is not None
        _near(x.grad[:, :, ::step, ::step], arrays[f"dx{suffix}"], 1e-4, f"dx{suffix}")
        parameters = dict(net.named_parameters())
        norms = torch.stack([g.double().norm() for g in (parameters[key].grad for key in names) if g is not None])
        _near(norms, arrays[f"grad_norms{suffix}"], 1e-4, f"norms{suffix}")
        changed = {key: value for key, value in net.state_dict().items() if key not in names}
        for key, value in changed.items():
            after = f"sd_after_train/{key}"
            expected = arrays[after] if training and after in arrays.files else arrays[f"sd/{key}"]
            _near(value, expected, 2e-6, f"{key} after {suffix}")


def test_the_srgan_discriminator_equals_the_reference(golden: Callable[[str], Path]) -> None:
    arrays = np.load(golden("classic.npz"), allow_pickle=False)
    net = SRGANDiscriminator(width=4, dense=12)
    net.load_state_dict(
        {key[3:]: torch.from_numpy(arrays[key]) for key in arrays.files if key.startswith("D0.")}, strict=True
    )
    hr = torch.from_numpy(arrays["hr2_u8"]).permute(0, 3, 1, 2).float() / 255 * 2 - 1
    _near(net(hr), arrays["gan2_logits_real"], 1e-5, "logits on real pictures")
