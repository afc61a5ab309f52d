"""What a run tells the outside: events, given to a `Reporter` as they happen. Library code never prints.

Events and their keys are listed in docs/architecture.md. People read stderr, programs read `--json` on stdout.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from realesr_cli.errors import one_line

if TYPE_CHECKING:
    from tqdm import tqdm

_PROGRESS_INTERVAL_S = 0.2
# of a run over a folder, at its end
_FAILURES_REPEATED = 20
_BAR_FORMATS = {
    "": "{desc}: {percentage:3.0f}% |{bar}| {elapsed}<{remaining}",
    "bytes": None,
    "frames": "{desc}: {n:.0f}/{total:.0f} frames |{bar}| {rate_fmt} {elapsed}<{remaining}{postfix}",
}
# Events that are the result of a command, not news of the way there.
_ASKED_FOR = ("plan", "doctor", "compared", "evaluated")


class Reporter(Protocol):
    """Receives events. `emit("done", input="a.jpg", ...)` must be callable from any thread."""

    def emit(self, event: str, **fields: Any) -> None: ...


class NullReporter:
    """Says nothing: the default of the Python API."""

    def emit(self, event: str, **fields: Any) -> None:
        pass


NULL = NullReporter()


class JsonReporter:
    """One JSON object a line; nothing else may be written to the same stream."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._started = time.monotonic()

    def emit(self, event: str, **fields: Any) -> None:
        record = {"v": 1, "event": event, "t_s": round(time.monotonic() - self._started, 3), **fields}
        # one write call, so that lines of two threads never mix
        self._stream.write(json.dumps(record, default=str) + "\n")
        self._stream.flush()


class TerminalReporter:
    """Short lines on stderr, and a progress bar there if it is a terminal and the work takes more than a second."""

    def __init__(self, *, quiet: bool = False, verbose: bool = False, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._quiet = quiet
        self._verbose = verbose
        self._bar: tqdm[Any] | None = None

    def emit(self, event: str, **fields: Any) -> None:
        fields = {
            key: one_line(value) if isinstance(value, str) and key != "text" else value for key, value in fields.items()
        }
        if event == "progress":
            self._show_progress(fields)
            return
        text = _sentence(event, fields, self._verbose)
        if text is None or (self._quiet and event not in ("failed", "warning", *_ASKED_FOR)):
            return
        if self._bar is not None:
            self._bar.clear()
        # what was asked for goes to stdout, everything about the way there to stderr
        print(shown(text), file=sys.stdout if event in _ASKED_FOR else self._stream, flush=True)

    def _show_progress(self, fields: dict[str, Any]) -> None:
        if self._quiet or not self._stream.isatty():
            return
        from tqdm import tqdm

        done, total = fields["done"], fields["total"]
        if self._bar is None:
            is_bytes = fields["unit"] == "bytes"
            self._bar = tqdm(
                total=total,
                desc=fields.get("label") or None,
                unit="B" if is_bytes else fields["unit"],
                unit_scale=is_bytes,
                delay=1.0,
                leave=False,
                file=self._stream,
                dynamic_ncols=True,
                ascii=None if (self._stream.encoding or "").lower().startswith("utf") else True,
                bar_format=_BAR_FORMATS.get(fields["unit"], _BAR_FORMATS[""]) if total else None,
            )
        if "written_bytes" in fields:
            self._bar.set_postfix_str(f"{fields['written_bytes'] / 1e6:.1f} MB", refresh=False)
        self._bar.update(done - self._bar.n)
        if fields["finished"]:
            self._bar.close()
            self._bar = None


def shown(text: str) -> str:
    """Lines of text for a terminal, in which nothing but their ends controls it."""
    return "\n".join(map(one_line, text.split("\n")))


_SENTENCES = {
    "model": "{name} (x{scale}) on {device}, {precision}: {reason}",
    "done": "{input} -> {output} ({width}x{height}, {seconds:.1f} s)",
    "restorer": "faces by {name} on {device}, {precision}; licence: {licence}",
    "resumed": "{output}: going on after {frames} frames of an earlier run",
    "download": "fetching {name} from {source}",
    "moved": "{input} moved to {output}",
    **dict.fromkeys(_ASKED_FOR, "{text}"),
}
"""Events that say the same always."""


def _sentence(event: str, fields: dict[str, Any], verbose: bool) -> str | None:
    """The line that a person reads for an event, or None."""
    text: str | None
    match event:
        case "begin" if verbose:
            text = "{input}: {width}x{height}".format_map(fields)
        case "done" if "frames" in fields:
            text = _film_sentence(fields)
        case "skipped" if verbose or not fields.get("reason"):
            text = "{input}: {output} is already there".format_map(fields)
        case "worker" if verbose:
            text = "worker {number} on {host}: {device}, {precision}".format_map(fields)
        case "note" if verbose:
            text = str(fields["message"])
        case "warning" | "failed":
            hint = f"\nhint: {fields['hint']}" if fields.get("hint") else ""
            text = f"{'warning' if event == 'warning' else 'error'}: {fields['message']}{hint}"
        case "summary" if fields["done"] + fields["skipped"] + fields["failed"] > 1:
            text = _summary_sentence(fields)
        case _ if event in _SENTENCES:
            text = _SENTENCES[event].format_map(fields)
        case _:
            text = _faces_sentence(event, fields) or _training_sentence(event, fields, verbose)
    return text


def _faces_sentence(event: str, fields: dict[str, Any]) -> str | None:
    """The same for the events of `--face-enhance`."""
    match event:
        case "faces":  # `photo.jpg: 2 faces restored, 1 left alone (small)`
            refused = [face["refused"] for face in fields["faces"] if face["refused"]]
            restored = len(fields["faces"]) - len(refused)
            done = f"{restored} face{'s' * (restored > 1)} restored" if restored else "no face restored"
            if not fields["faces"]:
                return f"{fields['input']}: no face found"
            alone = f", {len(refused)} left alone ({', '.join(dict.fromkeys(refused))})" if refused else ""
            return f"{fields['input']}: {done}{alone}"
        case "frame_faces":
            if fields["restored"]:
                return "{input}: faces restored in {frames_with_faces} of {frames} frames".format_map(fields)
            alone = f", left alone: {', '.join(fields['refused'])}" if fields["refused"] else ""
            return f"{fields['input']}: no face {'restored' if alone else 'found'} in {fields['frames']} frames{alone}"
    return None


def _summary_sentence(fields: dict[str, Any]) -> str:
    """`3 done, 0 skipped, 1 failed, 12.0 s; failed:` and the reasons, of a folder's files."""
    text = "{done} done, {skipped} skipped, {failed} failed, {seconds:.1f} s".format_map(fields)
    if fields.get("failures"):
        shown = [f"\n  {failure['message']}" for failure in fields["failures"][:_FAILURES_REPEATED]]
        more = fields["failed"] - len(shown)
        text += f"; failed:{''.join(shown)}" + (f"\n  and {more} more" if more else "")
    return text


def _film_sentence(fields: dict[str, Any]) -> str:
    """`a.mp4 -> a_x4.mp4 (1920x1080, 60 frames, 12.3 s, 4.9 frames/s): verified`"""
    rate = fields["frames"] / fields["seconds"] if fields["seconds"] else 0.0
    text = "{input} -> {output} ({width}x{height}, {frames} frames, {seconds:.1f} s".format_map(fields)
    text += f", {rate:.3g} frames/s"
    if fields["spared"] >= 0.01:
        text += f", {fields['spared']:.0%} of the pixels had not changed"
    return f"{text}): " + ("verified" if fields["verified"] else f"differs: {'; '.join(fields['differences'])}")


def _training_sentence(event: str, fields: dict[str, Any], verbose: bool) -> str | None:
    """The same for the events of `realesr train`."""
    match event:
        case "training":
            text = "stage {stage} of {stages}: " if fields["stages"] > 1 else ""
            text += "{architecture} x{scale} of {parameters:,} weights on {device} in {precision}"
            text += ", {devices} processes" if fields["devices"] > 1 else ""
            text += ": {total} steps of {batch} pictures"
            text += ", going on after step {step}" if fields["step"] else ""
            text += "\n{pictures} pictures to train on, {validation} to validate on; all goes to {folder}"
            return text.format_map(fields)
        case "step":
            return _step_line(fields)
        case "metrics" if "step" in fields:
            named = {"psnr_y_db": "PSNR {:.2f} dB", "ssim_y": "SSIM {:.4f}"}
            values = [form.format(fields["values"][name]) for name, form in named.items() if name in fields["values"]]
            return f"{fields['dataset']} at step {fields['step']}: {', '.join(values)} (luma)"
        case "checkpoint" if verbose:
            return "checkpoint {path} ({size:.1f} MB)".format_map({**fields, "size": fields["bytes"] / 1e6})
        case "trained":
            return "trained {steps} steps: {model}\nuse it: {hint}".format_map(fields)
    return None


def _step_line(fields: dict[str, Any]) -> str:
    """`step 300/600  pixel 0.0231  lr 5.0e-04  159 images/s  data 4%  455 MiB  0:01:10 left`"""
    hidden = ("gradient_norm", "logit")  # these are in the log
    losses = [f"{name} {value:.4g}" for name, value in fields["losses"].items() if not name.startswith(hidden)]
    waiting = 100 * fields["data_s"] / fields["step_s"] if fields["step_s"] else 0.0
    left = round((fields["total"] - fields["step"]) * fields["step_s"])
    parts = [
        f"step {fields['step']}/{fields['total']}",
        *losses,
        f"lr {fields['learning_rate']:.2g}",
        f"{fields['images_per_s']:.3g} images/s",
        f"data {waiting:.0f}%",
        f"{fields['memory_mib']:.0f} MiB",
    ]
    if fields["skipped"]:
        parts.append(f"{fields['skipped']} skipped")
    return "  ".join([*parts, f"{left // 3600}:{left // 60 % 60:02}:{left % 60:02} left"])


@contextmanager
def progress(
    reporter: Reporter,
    total: float | None,
    unit: str,
    *,
    already: float = 0,
    facts: Callable[[], dict[str, Any]] | None = None,
    **fields: Any,
) -> Iterator[Callable[[float], None]]:
    """Yields `advance(amount)`; emits `progress` events, at most five a second, and a last one with `finished`.

    `total` is None where the end is not known. `already` was done before, and counts for no speed. `fields` (`id`,
    `label`) go into each event, and what `facts` gives.
    """
    done = float(already)
    started = last = time.monotonic()

    def emit(finished: bool) -> None:
        seconds = time.monotonic() - started
        rate = (done - already) / seconds if seconds > 0 else 0.0
        left = (total - done) / rate if total is not None and rate > 0 else None
        reporter.emit(
            "progress",
            done=round(done, 3),
            total=total,
            unit=unit,
            per_s=round(rate, 3),
            eta_s=None if left is None else round(left, 1),
            finished=finished,
            **(facts() if facts is not None else {}),
            **fields,
        )

    def advance(amount: float) -> None:
        nonlocal done, last
        done += amount
        now = time.monotonic()
        if now - last >= _PROGRESS_INTERVAL_S:
            last = now
            emit(False)

    try:
        yield advance
    finally:
        emit(True)
