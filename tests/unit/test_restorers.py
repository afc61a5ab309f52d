"""Which weights restore faces, under which licence, and what is said of the others."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from networks import compact
from realesr_cli import catalog, weights
from realesr_cli.errors import CorruptWeights, DownloadFailed, ModelNotFound, UnknownArchitecture, UsageError
from realesr_cli.models.architectures import load_model
from realesr_cli.models.restorers import load_restorer
from test_gfpgan import load_golden_restorer

Finder = Callable[[str], Path]


@pytest.fixture
def small(golden: Finder, tmp_path: Path) -> Path:
    """The weights of a small GFPGAN."""
    load_golden_restorer(golden("networks/gfpgan_clean_32_plain.npz"), tmp_path)
    return tmp_path / "gfpgan_clean_32_plain.safetensors"


def test_a_restorer_is_no_upscaler_and_an_upscaler_no_restorer(small: Path, cache: Path, tmp_path: Path) -> None:
    with pytest.raises(UnknownArchitecture) as caught:
        load_model(small)
    assert "--face-enhance" in (caught.value.hint or "")
    with pytest.raises(UsageError, match="realesrgan-x4plus does not restore faces"):
        load_restorer("x4plus", offline=True)
    upscaler = tmp_path / "up.safetensors"
    save_file({key: value.contiguous() for key, value in compact().network.state_dict().items()}, upscaler)
    with pytest.raises(UnknownArchitecture):
        load_restorer(upscaler)


@pytest.mark.parametrize("name", ["gfpgan-1.2", "gfpgan-1.3", "GFPGANv1.4"])
def test_published_ones_are_fetched_by_name_only_where_that_is_allowed(name: str, cache: Path) -> None:
    with pytest.raises(DownloadFailed, match="is not in the cache") as caught:
        load_restorer(name, offline=True)
    hint = caught.value.hint or ""
    assert f"models download gfpgan-{name[-3:]}" in hint
    assert "--face-model" in hint
    assert not cache.exists()
    entry = catalog.find(name)
    assert entry.sha256 is not None
    assert "NVIDIA, non-commercial" in entry.licence


def test_names_that_nobody_knows(cache: Path) -> None:
    with pytest.raises(ModelNotFound, match="gfpgan-9"):
        load_restorer("gfpgan-9", offline=True)


def test_the_catalogue_s_licence_goes_with_the_network(small: Path, cache: Path) -> None:
    from realesr_cli import cache as cache_files

    cache_files.store("gfpgan-1.3.safetensors", small, cache_files.sha256_of(small), "test")
    model = load_restorer("gfpgan-1.3", offline=True)
    assert model.name == "gfpgan-1.3"
    assert "NVIDIA" in model.metadata["licence"]
    assert weights.is_cached("gfpgan-1.3")


def test_a_damaged_file_gets_one_line(small: Path) -> None:
    tensors = load_file(small)
    tensors["conv_body_up.1.conv1.weight"] = tensors["conv_body_up.1.conv1.weight"][:3].contiguous()
    save_file(tensors, small)
    with pytest.raises(CorruptWeights, match="looks like GFPGANv1Clean") as caught:
        load_restorer(small)
    assert "\n" not in caught.value.message


def test_non_commercial_weights_need_a_word_before_anything_is_fetched(cache: Path) -> None:
    with pytest.raises(UsageError, match="S-Lab License") as caught:
        load_restorer("codeformer")
    assert "--accept-license" in (caught.value.hint or "")
    with pytest.raises(DownloadFailed, match="codeformer is not in the cache"):
        load_restorer("codeformer", offline=True, accept_licence=True)


class _Negative(nn.Module):
    """As networks of spandrel are: -1 to 1, and more than a picture comes back."""

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        return -x, None


@pytest.fixture
def spandrel(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A spandrel that takes every file for the descriptor it is told."""
    descriptor = type("ImageModelDescriptor", (SimpleNamespace,), {})
    found = descriptor(model=_Negative(), architecture=SimpleNamespace(name="CodeFormer"), purpose="FaceSR")
    loader = SimpleNamespace(load_from_state_dict=lambda tensors: found)
    package = SimpleNamespace(ModelLoader=lambda device: loader, ImageModelDescriptor=descriptor)
    monkeypatch.setitem(sys.modules, "spandrel", package)
    extra = SimpleNamespace(install=lambda ignore_duplicates: None)
    monkeypatch.setitem(sys.modules, "spandrel_extra_arches", extra)
    return found


def test_community_restorers_are_run_in_their_own_range(spandrel: Any, tmp_path: Path) -> None:
    path = tmp_path / "codeformer.safetensors"
    save_file({"quantize.embedding.weight": torch.zeros(2)}, path)
    with pytest.raises(UsageError, match="may not be used commercially"):
        load_restorer(path)
    model = load_restorer(path, accept_licence=True)
    assert (model.architecture, model.side_px) == ("CodeFormer", 512)
    x = torch.rand(1, 3, 8, 8)
    assert torch.allclose(model.network(x), 1 - x)
    with pytest.raises(UnknownArchitecture) as caught:
        load_model(path)
    assert "--face-enhance" in (caught.value.hint or "")
    spandrel.purpose = "SR"
    with pytest.raises(UnknownArchitecture, match="does not restore faces"):
        load_restorer(path, accept_licence=True)
