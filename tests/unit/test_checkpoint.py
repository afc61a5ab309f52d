"""Checkpoints: whole or not at all, believed only if intact, and exact for optimizers."""

import errno
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from realesr_cli.atomic import replacing_folder
from realesr_cli.errors import CorruptWeights, DiskFull
from realesr_train.checkpoint import (
    Checkpoint,
    folders,
    latest,
    load,
    load_optimizer,
    optimizer_tensors,
    save,
)
from realesr_train.optim import make_optimizer
from recording import Events


def some(step: int) -> Checkpoint:
    generator = torch.Generator().manual_seed(step)
    tensors = {
        "a.weight": torch.randn(3, 4, 5, 5, generator=generator).to(memory_format=torch.channels_last),
        "count": torch.tensor(step),
        "bytes": torch.arange(9, dtype=torch.uint8).view(1, 1, 3, 3),
        "half": torch.randn(7, generator=generator).bfloat16(),
    }
    return Checkpoint(
        step=step, groups={"model": tensors, "empty": {}}, facts={"best": {"psnr": 0.1 + step}, "x": None}
    )


def test_what_is_saved_comes_back_exactly(tmp_path: Path) -> None:
    path, size = save(tmp_path, some(5), keep_last=2)
    assert path == tmp_path / "checkpoints" / "step-00000005"
    assert size == sum(file.stat().st_size for file in path.iterdir())
    assert (tmp_path / "checkpoints" / "latest").read_text() == "step-00000005\n"
    found = load(path)
    assert (found.step, found.facts) == (5, some(5).facts) and set(found.groups) == {"model", "empty"}
    for key, value in some(5).groups["model"].items():
        assert torch.equal(found.groups["model"][key], value) and found.groups["model"][key].dtype == value.dtype


def test_old_ones_go_but_those_at_whole_multiples_stay(tmp_path: Path) -> None:
    for step in range(10, 80, 10):
        save(tmp_path, some(step), keep_last=2, keep_every=30)
    assert [step for step, _ in folders(tmp_path)] == [70, 60, 30]
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == [
        "latest", "step-00000030", "step-00000060", "step-00000070",
    ]  # fmt: skip


def test_after_going_back_later_ones_do_not_push_out_the_new_ones(tmp_path: Path) -> None:
    for step in (10, 20, 30):
        save(tmp_path, some(step), keep_last=1, keep_every=10)
    save(tmp_path, some(15), keep_last=1)
    assert 15 in [step for step, _ in folders(tmp_path)]


@pytest.mark.parametrize("damage", ["bit", "cut", "gone", "facts"])
def test_a_damaged_one_is_reported_and_the_one_before_is_taken(tmp_path: Path, damage: str) -> None:
    save(tmp_path, some(1), keep_last=3)
    newest, _ = save(tmp_path, some(2), keep_last=3)
    file = newest / ("state.json" if damage == "facts" else "model.safetensors")
    data = bytearray(file.read_bytes())
    if damage == "gone":
        file.unlink()
    elif damage == "bit":
        data[-1] ^= 1
        file.write_bytes(data)
    else:
        file.write_bytes(data[: len(data) // 2])
    events = Events()
    found = latest(tmp_path, events)
    assert found is not None and found.step == 1
    (warning,) = events.of("warning")
    assert warning["code"] == "checkpoint" and str(newest) in warning["message"]


def test_if_all_are_damaged_nothing_begins_anew_by_itself(tmp_path: Path) -> None:
    assert latest(tmp_path, Events()) is None
    path, _ = save(tmp_path, some(1), keep_last=3)
    (path / "state.json").write_text(json.dumps({"version": 99}))
    with pytest.raises(CorruptWeights, match="all checkpoints"):
        latest(tmp_path, Events())


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("file", ["model.safetensors", "state.json", "latest"])
def test_a_full_disk_leaves_the_checkpoint_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, number: int
) -> None:
    save(tmp_path, some(1), keep_last=1)

    def full(original: Any) -> Any:
        def write(self: Path, content: Any, *rest: Any, **options: Any) -> int:
            if file in self.name:
                raise OSError(number, "no space")
            written: int = original(self, content, *rest, **options)
            return written

        return write

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full(Path.write_bytes))
        patch.setattr(Path, "write_text", full(Path.write_text))
        with pytest.raises(DiskFull):
            save(tmp_path, some(2), keep_last=1)
    found = latest(tmp_path, Events())
    assert found is not None and found.step == (2 if file == "latest" else 1)
    assert (tmp_path / "checkpoints" / "step-00000001").is_dir()


def test_what_a_killed_process_left_is_not_found(tmp_path: Path) -> None:
    save(tmp_path, some(1), keep_last=1)
    begun = tmp_path / "checkpoints" / ".step-00000002.77.part"
    begun.mkdir()
    (begun / "model.safetensors").write_bytes(b"half")
    assert [step for step, _ in folders(tmp_path)] == [1]
    save(tmp_path, some(3), keep_last=1)
    assert not begun.exists()


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "a" / "b"
    with replacing_folder(target) as folder:
        (folder / "x").write_text("1")
        assert not target.exists()
    assert (target / "x").read_text() == "1"

    def fail() -> None:
        with replacing_folder(target) as folder:
            (folder / "x").write_text("2")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    with replacing_folder(target) as folder:
        (folder / "y").write_text("3")
    assert [path.name for path in target.iterdir()] == ["y"]
    assert [path.name for path in target.parent.iterdir()] == ["b"]


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_an_optimizer_goes_on_exactly_also_with_channels_last_weights(name: Any) -> None:
    def make() -> tuple[nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.PReLU(8), nn.Conv2d(8, 3, 3))
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return network, make_optimizer(network.parameters(), learning_rate=1e-2, name=name, weight_decay=0.1)

    def step(network: nn.Module, optimizer: torch.optim.Optimizer, number: int) -> None:
        x = torch.randn(2, 3, 9, 9, generator=torch.Generator().manual_seed(number))
        optimizer.zero_grad()
        network(x).square().mean().backward()
        optimizer.step()

    first, optimizer = make()
    for number in range(3):
        step(first, optimizer, number)
    second, other = make()
    second.load_state_dict({key: value.contiguous() for key, value in first.state_dict().items()})
    # through a file all tensors come contiguous
    load_optimizer(other, {key: value.contiguous() for key, value in optimizer_tensors(optimizer).items()})
    for number in range(3, 6):
        step(first, optimizer, number)
        step(second, other, number)
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_state_of_another_optimizer_is_refused() -> None:
    small, large = nn.Linear(2, 2), nn.Linear(3, 3)
    optimizers = [make_optimizer(one.parameters(), learning_rate=1e-3) for one in (small, large)]
    for one, optimizer in zip((small, large), optimizers, strict=True):
        one(torch.ones(1, one.in_features)).sum().backward()
        optimizer.step()
    with pytest.raises(CorruptWeights, match=r"exp_avg is \(3, 3\), its weight \(2, 2\)"):
        load_optimizer(optimizers[0], optimizer_tensors(optimizers[1]))
    with pytest.raises(CorruptWeights, match="no parameter 9"):
        load_optimizer(optimizers[0], {"9.exp_avg": torch.zeros(1)})
