"""Where the tests find real files. Each fixture is a function name -> path that skips where the file is absent.

With REALESR_REQUIRE_GOLDEN=1 an absent file is a failure instead, so that a full check cannot pass by skipping.
"""

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from devtools import Browser, find_chromium
from recording import Events

REPOSITORY = Path(__file__).resolve().parent.parent
SHARED = REPOSITORY.parent / "shared"
OWN = REPOSITORY / "tests" / "data"

Finder = Callable[[str], Path]


def _finder(kind: str, variable: str, *folders: Path) -> Finder:
    set_by_user = [Path(os.environ[variable])] if variable in os.environ else []
    places = [*set_by_user, *folders]

    def find(name: str) -> Path:
        for place in places:
            if (place / name).exists():
                return place / name
        message = f"{kind} {name} absent; looked in {', '.join(map(str, places))}"
        if os.environ.get("REALESR_REQUIRE_GOLDEN") == "1":
            pytest.fail(message)
        pytest.skip(message)

    return find


def pytest_configure() -> None:
    """What is started in the background has Ctrl-C ignored, and so has all that it starts; tests that interrupt a
    process would then wait for ever."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def golden() -> Finder:
    """Numbers of the original programs: golden("networks/rrdbnet_x4.npz")."""
    return _finder("golden file", "REALESR_GOLDEN", SHARED / "golden", OWN / "golden")


@pytest.fixture(scope="session")
def weights_file() -> Finder:
    """Published weights: weights_file("ncnn/realesr-animevideov3.bin")."""
    return _finder("weights", "REALESR_WEIGHTS", SHARED / "weights", OWN / "weights")


@pytest.fixture(scope="session")
def media() -> Finder:
    """Pictures and clips: media("images/formats/rgba8.png")."""
    return _finder("media file", "REALESR_MEDIA", SHARED / "media", OWN / "media")


@pytest.fixture(scope="session")
def data() -> Finder:
    """Data sets: data("set5")."""
    return _finder("data", "REALESR_DATA", SHARED / "data", OWN)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty weights cache of the test's own."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("REALESR_CACHE", str(folder))
    return folder


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A headless browser of this machine; `.ci/run` installs one where it can."""
    program = find_chromium()
    if program is None or os.name == "nt":
        pytest.skip("no Chromium here; REALESR_CHROMIUM may name one")
    browser = Browser(program, tmp_path_factory.mktemp("browser"))
    yield browser
    browser.close()


@pytest.fixture
def events() -> Events:
    return Events()


@pytest.fixture(autouse=True)
def _no_leftovers(tmp_path: Path) -> Iterator[None]:
    """No test may leave a half-written file behind."""
    yield
    left = [str(path) for path in tmp_path.rglob(".*.part*")]
    assert not left, f"left behind: {left}"


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20261120)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked `gpu` are skipped where there is no CUDA device."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if marked:
        import torch

        if not torch.cuda.is_available():
            for item in marked:
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture(scope="session")
def _stock(weights_file: Finder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `stocked_cache` is a copy of."""
    import hashlib

    from realesr_cli import cache as cache_files
    from realesr_cli.models.reading import read_weights, safetensors_bytes

    stock = tmp_path_factory.mktemp("stock")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REALESR_CACHE", str(stock))
        for name, file in (
            ("realesrgan-x4plus", "realesrgan-x4plus.param"),
            ("realesr-general-x4v3", "ncnn/realesr-general-x4v3.param"),
            ("realesr-general-wdn-x4v3", "ncnn/realesr-general-wdn-x4v3.param"),
            ("realesr-animevideov3", "ncnn/realesr-animevideov3-x4.param"),
            ("squeezenet1.1", "perceptual/squeezenet1_1-features.safetensors"),
        ):
            data = safetensors_bytes(read_weights(weights_file(file)).tensors, {"name": name})
            cache_files.store(f"{name}.safetensors", data, hashlib.sha256(data).hexdigest(), "test")
        detector = weights_file("face_detection_yunet_2023mar.onnx")
        cache_files.store(detector.name, detector, cache_files.sha256_of(detector), "test")
    return stock


@pytest.fixture
def stocked_cache(cache: Path, _stock: Path) -> Path:
    """A cache that holds the official models as the fall-back package gives them, and LPIPS's smallest backbone; no
    network is needed.
    """
    shutil.copytree(_stock, cache)  # with the times of the files, so that none is read again
    return cache
