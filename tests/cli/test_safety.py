"""Names and files of strangers: nothing leaves the output folder, nothing is sent, nothing controls the terminal."""

import ast
import json
import os
import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import realesr_cli
import realesr_train
from clips import write_clip
from networks import compact
from realesr_cli.errors import RealesrError, UsageError
from realesr_cli.models.architectures import load_model
from realesr_cli.reporting import TerminalReporter
from realesr_cli.tree import TreeOptions, listed_files
from realesr_cli.video.probe import probe
from realesr_train.recipes import load_stages
from training import TINY, write_config, write_photos

Command = Callable[..., Any]
_PICTURE = cv2.imencode(".png", np.arange(8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3))[1].tobytes()
_POSIX = pytest.mark.skipif(os.name == "nt", reason="Windows has no such names")


def _picture(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_PICTURE)
    return path


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder that nobody has named, with two files."""
    _picture(tmp_path / "outside" / "precious.png")
    (tmp_path / "outside" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    return tmp_path / "outside"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    _picture(tmp_path / "in" / "a.png")
    _picture(tmp_path / "in" / "sub" / "b.png")
    return tmp_path / "in"


def _state(folder: Path) -> dict[str, bytes | str | None]:
    """Everything in a folder: content of files, targets of links."""
    return {
        str(path.relative_to(folder)): str(path.readlink())
        if path.is_symlink()
        else path.read_bytes()
        if path.is_file()
        else None
        for path in folder.rglob("*")
    }


def _is_shown(text: str) -> bool:
    """Whether only the ends of lines control the terminal."""
    return all(line.isprintable() for line in text.split("\n"))


# --- names


@pytest.mark.parametrize(
    "line",
    ["../outside/precious.png", "sub/../../outside/precious.png", "..", ".", "./..", "{outside}/precious.png",
     "/etc/hosts", "//etc/hosts", "a\0b.png", "in/../..", "sub/.././../outside"],
)  # fmt: skip
def test_a_line_of_a_list_that_leads_out_is_refused(source: Path, outside: Path, line: str) -> None:
    with pytest.raises(UsageError) as caught:
        list(listed_files([line.format(outside=outside)], source, TreeOptions()))
    assert caught.value.message.isprintable()


def test_no_line_of_a_list_has_a_result_outside_the_output_folder(
    realesr: Command, source: Path, outside: Path, model_file: Path, tmp_path: Path
) -> None:
    """Names that mean something to other systems and programs are names here."""
    lines = ["C:\\x.png", "C:x.png", "\\\\server\\x.png", "NUL", "CON.png", "b.png.", "c.png ", "~/x.png",
             "$HOME/x.png", "%00.png", "\x1b[2J.png", "\u202egnp.exe", "sub/", "a\x0bb.png", "x" * 5000,
             "sub/../a.png"]  # fmt: skip
    listed = tmp_path / "list.txt"
    before = _state(tmp_path)
    listed.write_text("\n".join(lines))
    arguments = ("directory", source, "-o", tmp_path / "out", "--list", listed, "-m", model_file, "--json")
    done = realesr(*arguments)
    assert done.status == 1
    assert len(done.events("failed")) == len(lines) - 1
    assert all(event["message"].isprintable() for event in done.events("failed"))
    made = {name for name, _ in _state(tmp_path).items() - before.items()} - {"list.txt"}
    assert all(name.partition("/")[0] == "out" for name in made)
    assert {name for name in made if name.endswith(".png")} == {"out/a.png"}
    listed.write_text("../outside/precious.png\n")
    assert realesr(*arguments).status == 2


@_POSIX
def test_strange_names_have_results_of_the_same_name_and_control_neither_terminal_nor_page(
    realesr: Command, model_file: Path, tmp_path: Path
) -> None:
    names = ["C:\\x.png", "CON.png", "a..png", "..b.png", "new\nline.png", "\x1b]0;owned\x07.png", "-o.png", "~.png",
             "<script>alert(1)<!script>.png", "javascript:alert(1).png", '"onerror="alert(1).png', "%2e%2e.png",
             "\u202egnp.png", "http:x.png", os.fsdecode(b"\xff\xfe.png")]  # fmt: skip
    names = names[:3] + names[4:]  # a name that begins with a dot is hidden
    for name in names:
        _picture(tmp_path / "in" / name)
    (tmp_path / "in" / "\x1b[31mbad.png").write_bytes(b"no picture")
    out, page = tmp_path / "out", tmp_path / "page.html"
    done = realesr("directory", tmp_path / "in", "-o", out, "-m", model_file, "--sheet", page, "--verbose")
    assert done.status == 1
    assert {path.name for path in out.iterdir() if not path.name.startswith(".realesr")} == set(names)
    assert not {path.name for path in tmp_path.iterdir()} - {"in", "out", "page.html", "cache", model_file.name}
    assert _is_shown(re.sub(r"[\udc80-\udcff]", "", done.err))
    assert "\\x1b[31mbad.png" in done.err
    text = page.read_text()
    assert re.search(
        r'http-equiv="Content-Security-Policy" content="default-src \'none\'; [^"]*script-src \'sha256-', text
    )
    assert text.count("<script") == 1
    assert not re.findall(r"""(?:src|href)=["']?(?:https?:|//|javascript:)""", text)
    assert not re.search(r"<[^>]*\son\w+=", re.sub(r"<script>.*?</script>", "", text, flags=re.DOTALL))


def test_a_compare_page_shows_names_as_text_and_asks_nobody(realesr: Command, tmp_path: Path) -> None:
    pictures = [_picture(tmp_path / name) for name in ("<img src=x onerror=alert(1)>.png", "plain.png")]
    assert realesr("compare", *pictures, "-o", tmp_path / "page.html").status == 0
    text = (tmp_path / "page.html").read_text()
    assert "<img src=x" not in text
    assert "default-src 'none'" in text
    assert not re.findall(r"""(?:src|href)=["']?(?:https?:|//)""", text)


@pytest.mark.parametrize("event", ["failed", "done", "note", "warning", "moved", "skipped"])
def test_no_field_of_an_event_controls_the_terminal(capfd: pytest.CaptureFixture[str], event: str) -> None:
    evil = "a\x1b[2J\x07\r\nb\x9b31m\u202e\u2028c"
    fields = {"input": evil, "output": evil, "message": evil, "hint": evil, "width": 1, "height": 1, "seconds": 1.0}
    TerminalReporter(verbose=True).emit(event, **fields)
    captured = capfd.readouterr()
    text = captured.out + captured.err
    assert _is_shown(text)
    assert "a\\x1b[2J\\x07\\r\\nb\\x9b31m\\u202e\\u2028c" in text


def test_the_message_of_an_error_is_one_line_of_bounded_length_whatever_it_quotes() -> None:
    error = RealesrError("a\nb\x1b" + "x" * 100_000, hint="c\rd")
    assert error.message.isprintable()
    assert error.message.startswith("a\\nb\\x1b")
    assert len(error.message) < 3000
    assert error.hint == "c\\rd"


def test_a_network_is_not_called_what_no_file_may_be_called(tmp_path: Path) -> None:
    tensors = {key: value.contiguous() for key, value in compact().network.state_dict().items()}
    for name in ("../../x", "/etc/x", "a\nb", "\x1b[2J", "C:\\x", "x" * 500, "a/b", ""):
        save_file(tensors, tmp_path / "own.safetensors", {"name": name})
        assert load_model(tmp_path / "own.safetensors").name == "own"


# --- links


def test_a_link_in_the_output_folder_that_leads_out_of_it_is_refused_and_a_link_to_the_folder_is_not(
    realesr: Command, source: Path, outside: Path, model_file: Path, tmp_path: Path
) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "sub").symlink_to(outside)
    (tmp_path / "out").symlink_to(tmp_path / "real")
    before = _state(outside)
    done = realesr("directory", source, "-o", tmp_path / "out", "-m", model_file, "--json")
    (failed,) = done.events("failed")
    assert done.status == 1
    assert "a link leads out of" in failed["message"]
    assert _state(outside) == before
    assert (tmp_path / "real" / "a.png").is_file()


def test_a_link_in_the_place_of_a_result_is_replaced_not_followed(
    realesr: Command, source: Path, outside: Path, model_file: Path, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.png").symlink_to(outside / "precious.png")
    before = _state(outside)
    arguments = ("directory", source, "-o", tmp_path / "out", "-m", model_file)
    assert realesr(*arguments).status == 1
    assert realesr(*arguments, "--overwrite").status == 0
    assert _state(outside) == before
    assert not (tmp_path / "out" / "a.png").is_symlink()


def test_what_a_link_brings_into_the_input_is_read_but_never_moved(
    realesr: Command, source: Path, outside: Path, model_file: Path, tmp_path: Path
) -> None:
    (source / "link").symlink_to(outside)
    before = _state(outside)
    done = realesr(
        "directory", source, "-o", tmp_path / "out", "-m", model_file, "--move-failed", tmp_path / "failed", "--json"
    )
    assert done.status == 1
    assert _state(outside) == before
    assert (tmp_path / "out" / "link" / "precious.png").is_file()
    assert not done.events("moved")


def test_two_temporary_names_of_one_file_differ(tmp_path: Path) -> None:
    from realesr_cli.atomic import replacing

    with replacing(tmp_path / "x.png") as first, replacing(tmp_path / "x.png") as second:
        assert first != second
        first.touch()
        second.touch()


# --- films


@_POSIX
def test_attachments_titles_and_names_of_a_film_stay_in_its_result(
    realesr: Command, model_file: Path, tmp_path: Path
) -> None:
    film = tmp_path / "in" / "http:x.mkv"
    film.parent.mkdir()
    plain = write_clip(tmp_path / "in" / "plain.mkv", count=3)
    with av.open(str(plain)) as old, av.open(f"file:{film}", "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        new.metadata["title"] = "\x1b[2J../../x"
        new.add_attachment("../../evil.ttf", "application/x-truetype-font", b"\0\1\0\0")
        new.add_attachment("/tmp/evil.ttf", "application/x-truetype-font", b"\0\1\0\0")
        for packet in old.demux(video=0):
            if packet.size:
                packet.stream = stream
                new.mux(packet)
    before = _state(tmp_path)
    done = realesr(
        "video", film, "-m", model_file, "-o", tmp_path / "out" / "tcp:y.mkv", "--preset", "ultrafast", "--verbose"
    )
    assert done.status == 0, done.err
    assert _is_shown(done.err)
    made = _state(tmp_path).items() - before.items()
    assert {name for name, _ in made} == {"out", "out/tcp:y.mkv"}
    with av.open(f"file:{tmp_path}/out/tcp:y.mkv") as result:
        assert [s.metadata["filename"] for s in result.streams if s.type == "attachment"] == [
            "../../evil.ttf", "/tmp/evil.ttf",
        ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.mp4", "ffconcat version 1.0\nfile real.ts\n"),
        ("a.m3u8", "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:1,\nreal.ts\n#EXT-X-ENDLIST\n"),
        ("b.m3u8", "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:1,\nhttp://127.0.0.1:{port}/real.ts\n#EXT-X-ENDLIST\n"),
        ("a.sdp", "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n"),
    ],
)
def test_a_list_of_other_files_is_no_film_and_nobody_is_asked(tmp_path: Path, name: str, content: str) -> None:
    write_clip(tmp_path / "real.ts", count=3)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        listening.settimeout(0.2)
        (tmp_path / name).write_text(content.replace("{port}", str(listening.getsockname()[1])))
        with pytest.raises(RealesrError):
            probe(tmp_path / name)
        with pytest.raises(TimeoutError):
            listening.accept()


@pytest.mark.parametrize("line", ["../../outside/piece.mp4", "/etc/hosts", "sub/x", "..", "", 5, None])
def test_the_journal_of_a_film_names_pieces_of_its_own_folder_alone(
    realesr: Command, model_file: Path, tmp_path: Path, line: object
) -> None:
    film = write_clip(tmp_path / "film.mp4", count=3)
    target = tmp_path / "out.mp4"
    piece = write_clip(tmp_path / "outside" / "piece.mp4", count=3) if (tmp_path / "outside").mkdir() is None else None
    work = tmp_path / "out.mp4.segments"
    work.mkdir()
    (work / "notes.txt").write_text("of the user")
    from realesr_cli.video import resume

    facts = {"file": line, "times": [0], "last_duration": 1, "faces": [], "can_seek": True}
    header = {"version": resume._VERSION, "fingerprint": {}}
    (work / "journal.jsonl").write_text(json.dumps(header) + "\n" + json.dumps(facts) + "\n[5]\n")
    loaded = resume._load(work, {}, target, restart=False)
    assert loaded.segments == []
    loaded.tidy()
    assert (work / "notes.txt").is_file()
    done = realesr("video", film, "-m", model_file, "-o", target, "--preset", "ultrafast", "--overwrite")
    assert done.status == 0
    assert piece is not None
    assert piece.is_file()


def test_a_link_in_the_place_of_a_films_work_is_refused(
    realesr: Command, outside: Path, model_file: Path, tmp_path: Path
) -> None:
    film = write_clip(tmp_path / "film.mp4", count=3)
    (tmp_path / "out.mp4.segments").symlink_to(outside)
    before = _state(outside)
    done = realesr("video", film, "-m", model_file, "-o", tmp_path / "out.mp4")
    assert done.status == 6
    assert _state(outside) == before


# --- training configurations


@pytest.mark.parametrize("name", ["../x", "..", ".", " ", "a/b", "a\\b", "C:x", "a\nb", "\x1b[2J", "a\0b"])
def test_a_run_has_a_name_not_a_path(tmp_path: Path, name: str) -> None:
    config = write_config(tmp_path, TINY)
    with pytest.raises(RealesrError, match="must be a name"):
        load_stages(config, [f"run.name={json.dumps(name)}"])


def test_a_configuration_says_where_to_write_only_below_itself_or_below_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "given").mkdir()
    config = tmp_path / "given" / "c.toml"
    for folder in ("/etc/x", "../x", "a/../../x", str(tmp_path)):
        for text in (f'[run]\nfolder = "{folder}"\n', f'[[stage]]\nrun.folder = "{folder}"\n'):
            config.write_text(text)
            with pytest.raises(RealesrError, match="lies outside") as caught:
                load_stages(config)
            assert "-o" in (caught.value.hint or "")
            assert load_stages(config, [f'run.folder="{tmp_path}/y"'])[0].run.folder == tmp_path / "y"
    config.write_text('[run]\nfolder = "runs/x"\n')
    assert load_stages(config)[0].run.folder == config.parent / "runs" / "x"
    config.write_text('[run]\nfolder = "../x"\n')
    monkeypatch.chdir(tmp_path)
    assert load_stages(config)


# --- what is sent


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*arguments: object, **options: object) -> None:
        raise AssertionError("the network was used")

    for name in ("socket", "create_connection", "getaddrinfo", "gethostbyname"):
        monkeypatch.setattr(socket, name, forbidden)


@pytest.mark.usefixtures("no_network")
def test_no_command_opens_a_socket_when_everything_is_at_hand(
    realesr: Command, source: Path, model_file: Path, tmp_path: Path
) -> None:
    threads = torch.get_num_threads()
    picture, film = source / "a.png", write_clip(tmp_path / "film.mp4", count=3)
    photos = write_photos(tmp_path / "photos")
    config = write_config(tmp_path, TINY)
    commands: list[tuple[object, ...]] = [
        ("image", picture, "-m", model_file, "-o", tmp_path / "1.png"),
        ("image", picture, "-m", "lite", "-o", tmp_path / "2.png"),
        ("image", picture, "-o", tmp_path / "3.png"),
        ("directory", source, "-o", tmp_path / "out", "-m", model_file, "--sheet", tmp_path / "sheet.html"),
        ("video", film, "-m", model_file, "-o", tmp_path / "film2.mp4", "--preset", "ultrafast"),
        ("compare", picture, tmp_path / "1.png", "-o", tmp_path / "page.html"),
        ("models", "list"),
        ("models", "list", "--all"),
        ("models", "add", model_file, "--name", "mine"),
        ("models", "export", "mine", "--onnx", "-o", tmp_path / "mine.onnx"),
        ("data", "lr", source, "-o", tmp_path / "lr"),
        ("data", "degrade", source, "-o", tmp_path / "degraded"),
        ("eval", "-m", "bicubic", "--data", photos, "--degradation", "bicubic", "-s", "2"),
        ("train", "--config", config, "--data", photos, "--check"),
        ("train", "--config", config, "--data", photos, "-o", tmp_path / "run"),
        ("doctor",),
    ]
    try:
        for command in commands:
            done = realesr(*command)
            assert done.status == 0, (command, done.err)
    finally:
        torch.set_num_threads(threads)


def test_only_the_module_that_fetches_can_reach_the_network_and_no_temporary_name_is_made_by_hand() -> None:
    network = {
        "requests",
        "urllib3",
        "http",
        "smtplib",
        "ftplib",
        "telnetlib",
        "xmlrpc",
        "webbrowser",
        "asyncio",
        "ssl",
    }
    allowed = {
        "fetching": {"requests", "urllib3"},
        "distributed": {"socket"},
        "processes": {"socket"},
        "cluster": {"socket"},
        "cluster_jobs": {"socket"},
    }
    for root in (Path(realesr_cli.__file__).parent, Path(realesr_train.__file__).parent):
        for path in root.rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            used = set()
            for node in ast.walk(ast.parse(text)):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                used |= {name.partition(".")[0] for name in names} & (network | {"socket"})
                used |= {"urllib.request" for name in names if name == "urllib.request"}
            assert used <= allowed.get(path.stem, set()), path
            assert "mktemp(" not in text, path
            # Ray's own folder is made there by tempfile, under a name that nobody can guess
            assert text.count('"/tmp"') == (2 if path.stem == "cluster" else 0), path
            assert "dir=_SHORT" in text or path.stem != "cluster"
