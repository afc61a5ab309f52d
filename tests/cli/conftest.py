"""The command line, in this process or in one of its own."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.torch import save_file

from networks import compact
from realesr_cli import cache as cache_files
from realesr_cli import read_image
from realesr_cli.cli.main import main
from test_gfpgan import load_golden_restorer


@dataclass(frozen=True)
class Outcome:
    status: int
    out: str
    err: str

    def events(self, kind: str | None = None) -> list[dict[str, Any]]:
        """The JSON lines of stdout."""
        events = [json.loads(line) for line in self.out.splitlines()]
        return [event for event in events if kind in (None, event["event"])]


Command = Callable[..., Outcome]


@pytest.fixture
def realesr(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], cache: Path) -> Command:
    """Runs `realesr ARGUMENTS...` in this process, with an empty cache."""

    def run(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["realesr", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as leaving:
            main()
        captured = capfd.readouterr()
        assert "Traceback" not in captured.err + captured.out
        code = leaving.value.code
        return Outcome(code if isinstance(code, int) else 0, captured.out, captured.err)

    return run


@pytest.fixture
def realesr_process(cache: Path) -> Command:
    """Runs `realesr ARGUMENTS...` as a user does, in a process of its own."""

    def run(*arguments: object, **options: Any) -> Outcome:
        command = [sys.executable, "-m", "realesr_cli", *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, **options)
        assert "Traceback" not in done.stderr + done.stdout
        return Outcome(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture
def model_file(tmp_path: Path) -> Path:
    """A small x4 network in a file."""
    path = tmp_path / "small.safetensors"
    save_file({key: value.contiguous() for key, value in compact().network.state_dict().items()}, path)
    return path


@pytest.fixture
def picture(tmp_path: Path) -> Callable[[str], Path]:
    """Writes a small picture under the name given."""

    def write(name: str, height: int = 24, width: int = 32) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        ramp = np.linspace(0, 255, height * width * 3).reshape(height, width, 3).astype(np.uint8)
        path.write_bytes(cv2.imencode(path.suffix or ".png", ramp)[1].tobytes())
        return path

    return write


@pytest.fixture
def detector(cache: Path, weights_file: Callable[[str], Path]) -> Path:
    """A cache that holds the detector."""
    path = weights_file("face_detection_yunet_2023mar.onnx")
    return cache_files.store(path.name, path, cache_files.sha256_of(path), "test") or cache


@pytest.fixture
def restorer(golden: Callable[[str], Path], tmp_path: Path) -> Path:
    """The weights of a small GFPGAN, which turns faces into coloured noise."""
    load_golden_restorer(golden("networks/gfpgan_clean_32_plain.npz"), tmp_path)
    return tmp_path / "gfpgan_clean_32_plain.safetensors"


@pytest.fixture
def portrait(media: Callable[[str], Path]) -> NDArray[Any]:
    """(180, 200, 3): a face of 90 pixels with its middle at about (122, 92)."""
    return read_image(media("faces/astronaut_frontal.png")).pixels[30:210, 100:300]
