"""Names of results, and collisions that are refused before any work."""

from pathlib import Path

import pytest

from realesr_cli.errors import UnsupportedInput, UsageError
from realesr_cli.naming import plan_jobs
from realesr_cli.options import SizeOptions


def _targets(inputs: list[str], output: str | None = None, size: SizeOptions | None = None) -> list[str]:
    jobs = plan_jobs([Path(name) for name in inputs], Path(output) if output else None, size or SizeOptions(), 4)
    return [str(job.target) for job in jobs]


def test_names() -> None:
    assert _targets(["d/a.jpg"]) == ["d/a_x4.jpg"]
    assert _targets(["a.JPG"], size=SizeOptions(scale=2.5)) == ["a_x2.5.JPG"]
    assert _targets(["two.dots.png"]) == ["two.dots_x4.png"]
    assert _targets(["no_suffix"]) == ["no_suffix_x4.png"]
    assert _targets(["a.gif"]) == ["a_x4.png"]


def test_output_is_a_file_or_a_folder(tmp_path: Path) -> None:
    assert _targets(["d/a.jpg"], "out.png") == ["out.png"]
    assert _targets(["d/a.jpg"], "out") == ["out/a_x4.jpg"]
    assert _targets(["d/a.jpg"], str(tmp_path)) == [str(tmp_path / "a_x4.jpg")]
    assert _targets(["d/a.jpg", "b.png"], "out") == ["out/a_x4.jpg", "out/b_x4.png"]


def test_collisions_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="would both become"):
        _targets(["a/x.png", "b/x.png"], "out")
    with pytest.raises(UsageError, match="replace the input"):
        _targets(["a.png"], "a.png")
    with pytest.raises(UsageError, match="replace the input"):
        _targets(["a.png", "a_x4.png"])
    (tmp_path / "link.png").symlink_to(tmp_path / "a.png")
    with pytest.raises(UsageError, match="replace the input"):
        _targets([str(tmp_path / "a.png")], str(tmp_path / "link.png"))


def test_a_file_where_a_folder_is_needed(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(UsageError, match="need a folder"):
        _targets(["a.png", "b.png"], str(tmp_path / "out"))


def test_a_target_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedInput, match=r"does not write \.heic"):
        _targets(["a.png"], str(tmp_path / "out.heic"))
