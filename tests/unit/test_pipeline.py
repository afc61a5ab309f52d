"""Three overlapping stages: order, bounds, errors, interruption."""

import threading
import time
from functools import partial
from typing import Any

import pytest

from realesr_cli.errors import RealesrError
from realesr_cli.pipeline import run_pipeline, run_pipelines


class Run:
    """Runs numbers through a pipeline and remembers what happened."""

    def __init__(self, count: int, **stages: Any) -> None:
        self.done: list[tuple[int, int]] = []
        self.failed: list[int] = []
        self.stages = {"load": lambda n: n * 10, "work": lambda n, x: x + 1, "save": lambda n, x: x} | stages
        work, save = self.stages["work"], self.stages["save"]
        self.stages["work"] = lambda item, loaded: (part for part in [work(item, loaded)])
        self.stages["save"] = lambda item, loaded, parts: save(item, *parts)
        self.count = count

    def __call__(self) -> "Run":
        run_pipeline(
            range(self.count),
            on_done=lambda item, saved: self.done.append((item, saved)),
            on_error=stop if (stop := self.stages.pop("on_error", None)) else lambda item, e: self.failed.append(item),
            **self.stages,
        )
        return self


def _fail_at(number: int, error: BaseException) -> Any:
    def stage(item: int, value: int = 0) -> int:
        if item == number:
            raise error
        return value

    return stage


def test_all_items_in_order() -> None:
    assert Run(20)().done == [(n, n * 10 + 1) for n in range(20)]


@pytest.mark.parametrize("stage", ["load", "work", "save"])
def test_one_bad_item_does_not_stop_the_rest(stage: str) -> None:
    run = Run(6, **{stage: _fail_at(3, RealesrError("bad"))})()
    assert run.failed == [3]
    assert [item for item, _ in run.done] == [0, 1, 2, 4, 5]


@pytest.mark.parametrize("stage", ["load", "work", "save"])
def test_a_bug_stops_the_run_and_leaves_no_thread(stage: str) -> None:
    with pytest.raises(ZeroDivisionError):
        Run(50, **{stage: _fail_at(3, ZeroDivisionError())})()
    assert threading.active_count() == 1


def test_on_error_may_stop_the_run() -> None:
    def stop(item: int, error: RealesrError) -> None:
        raise error

    run = Run(50, load=_fail_at(3, RealesrError("bad")), on_error=stop)
    with pytest.raises(RealesrError):
        run()
    assert [item for item, _ in run.done] == [0, 1, 2]


def test_ctrl_c_saves_what_was_worked() -> None:
    run = Run(50, work=_fail_at(4, KeyboardInterrupt()), save=lambda n, x: time.sleep(0.02))
    with pytest.raises(KeyboardInterrupt):
        run()
    assert [item for item, _ in run.done] == [0, 1, 2, 3]
    assert threading.active_count() == 1


def test_ctrl_c_drops_what_waits_to_be_saved_where_that_is_of_no_use() -> None:
    saved: list[int] = []
    begun = threading.Event()

    def save(item: int, value: int) -> None:
        begun.set()
        time.sleep(0.2)
        saved.append(item)

    def work(item: int, value: int) -> int:
        if item == 3:
            begun.wait(5)
            raise KeyboardInterrupt
        return value

    with pytest.raises(KeyboardInterrupt):
        Run(50, work=work, save=save, keep=False)()
    assert saved == [0, 1]  # the second had begun, and the third waited
    assert threading.active_count() == 1


def test_without_an_interruption_everything_is_saved_anyhow() -> None:
    assert Run(20, keep=False)().done == [(n, n * 10 + 1) for n in range(20)]


def test_stages_overlap_and_the_queues_are_bounded() -> None:
    ahead = 0
    loaded = saved = 0

    def load(item: int) -> int:
        nonlocal loaded, ahead
        loaded += 1
        ahead = max(ahead, loaded - saved)
        return item

    def save(item: int, value: int) -> int:
        nonlocal saved
        time.sleep(0.01)
        saved += 1
        return value

    started = time.monotonic()
    Run(20, load=load, work=lambda n, x: time.sleep(0.01), save=save)()
    assert time.monotonic() - started < 20 * 0.02 * 0.95
    assert ahead <= 2 * 2 + 3


def _in_parts(count: int = 4, **stages: Any) -> tuple[list[tuple[int, Any]], list[RealesrError]]:
    done: list[tuple[int, Any]] = []
    failed: list[RealesrError] = []
    stages = {"load": lambda n: n, "save": lambda n, x, parts: list(parts)} | stages
    run_pipeline(
        range(count),
        on_done=lambda item, saved: done.append((item, saved)),
        on_error=lambda item, error: failed.append(error),
        **stages,
    )
    return done, failed


def test_a_result_is_saved_while_its_last_part_is_still_worked() -> None:
    saved = threading.Event()

    def work(item: int, loaded: int) -> Any:
        yield "first"
        assert saved.wait(5)
        yield "second"

    def save(item: int, loaded: int, parts: Any) -> list[str]:
        first = next(parts)
        saved.set()
        return [first, *parts]

    assert _in_parts(work=work, save=save) == ([(n, ["first", "second"]) for n in range(4)], [])


def test_only_one_part_waits() -> None:
    made: list[None] = []
    saved: list[None] = []
    ahead: list[int] = []

    def work(item: int, loaded: int) -> Any:
        for _ in range(10):
            made.append(None)
            ahead.append(len(made) - len(saved))
            yield None

    def save(item: int, loaded: int, parts: Any) -> None:
        for _ in parts:
            time.sleep(0.002)
            saved.append(None)

    _in_parts(1, work=work, save=save)
    assert max(ahead) == 3  # made, waiting, being saved


def test_work_that_fails_midway_drops_what_was_saved_of_it() -> None:
    kept = []

    def work(item: int, loaded: int) -> Any:
        yield 1
        if item == 1:
            raise RealesrError("out of memory")
        yield 2

    def save(item: int, loaded: int, parts: Any) -> None:
        list(parts)
        kept.append(item)

    done, failed = _in_parts(work=work, save=save)
    assert [item for item, _ in done] == kept == [0, 2, 3]
    assert [str(error) for error in failed] == ["out of memory"]


def test_saving_that_fails_ends_the_work_on_that_item() -> None:
    worked = []

    def work(item: int, loaded: int) -> Any:
        for part in range(100):
            worked.append(item)
            yield part

    def save(item: int, loaded: int, parts: Any) -> None:
        if item == 2:
            next(parts)
            raise RealesrError("disk full")
        list(parts)

    done, failed = _in_parts(work=work, save=save)
    assert [item for item, _ in done] == [0, 1, 3]
    assert len(failed) == 1
    assert worked.count(2) < 10
    assert threading.active_count() == 1


class Workers:
    """Numbers through several workers."""

    def __init__(self, count: int, workers: int, **stages: Any) -> None:
        self.done: list[int] = []
        self.failed: list[int] = []
        self.by: list[int] = []
        self.threads: set[int] = set()
        self.stages = {"load": lambda n: n, "work": lambda n: None, "save": lambda n: None} | stages
        self.count, self.workers = count, workers

    def __call__(self) -> "Workers":
        def work(worker: int, item: int, loaded: int) -> Any:
            self.by.append(worker)
            self.stages["work"](item)
            yield item

        def save(item: int, loaded: int, parts: Any) -> None:
            list(parts)
            self.stages["save"](item)

        def on_done(item: int, saved: None) -> None:
            self.threads.add(threading.get_ident())
            self.done.append(item)

        run_pipelines(
            range(self.count),
            load=self.stages["load"],
            work=[partial(work, worker) for worker in range(self.workers)],
            save=save,
            on_done=on_done,
            on_error=self.stages.get("on_error", lambda item, error: self.failed.append(item)),
        )
        return self


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_several_workers_share_the_items_and_report_in_order(workers: int) -> None:
    run = Workers(40, workers, work=lambda n: time.sleep(0.001 * (n * 7 % 5)))()
    assert run.done == list(range(40))
    assert run.threads == {threading.get_ident()}
    assert set(run.by) == set(range(workers))
    assert threading.active_count() == 1


@pytest.mark.parametrize("stage", ["load", "work", "save"])
def test_one_bad_item_stops_none_of_several_workers(stage: str) -> None:
    run = Workers(12, 2, **{stage: _fail_at(5, RealesrError("bad"))})()
    assert (run.failed, run.done) == ([5], [n for n in range(12) if n != 5])


@pytest.mark.parametrize("error", [ZeroDivisionError(), KeyboardInterrupt()])
@pytest.mark.parametrize("stage", ["load", "work", "save"])
def test_what_stops_one_worker_stops_all(stage: str, error: BaseException) -> None:
    fail = _fail_at(7, error)

    def work(item: int) -> None:
        time.sleep(0.002)  # or a worker could take all items before another thread has its turn
        if stage == "work":
            fail(item)

    run = Workers(1000, 3, **({"work": work} if stage == "work" else {"work": work, stage: fail}))
    with pytest.raises(type(error)):
        run()
    assert threading.active_count() == 1
    assert run.done == sorted(run.done) and len(run.done) < 300


def test_on_error_may_stop_all_workers() -> None:
    def stop(item: int, error: RealesrError) -> None:
        raise error

    run = Workers(1000, 2, work=lambda n: time.sleep(0.002), load=_fail_at(3, RealesrError("bad")), on_error=stop)
    with pytest.raises(RealesrError):
        run()
    assert run.done[:3] == [0, 1, 2] and len(run.done) < 300 and threading.active_count() == 1
