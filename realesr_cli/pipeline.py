"""Three stages that overlap: load in one thread, work in the caller's, save in another. Order is kept.

`work` hands its result over in parts, so that saving a large one begins before it is finished.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from functools import partial
from itertools import islice
from queue import SimpleQueue
from threading import Event, Lock, Semaphore, Thread
from typing import Generic, TypeVar

from realesr_cli.errors import RealesrError

Item = TypeVar("Item")
Loaded = TypeVar("Loaded")
Part = TypeVar("Part")
Saved = TypeVar("Saved")


def run_pipeline(
    items: Iterable[Item],
    *,
    load: Callable[[Item], Loaded],
    work: Callable[[Item, Loaded], Generator[Part, None, None]],
    save: Callable[[Item, Loaded, Iterator[Part]], Saved],
    on_done: Callable[[Item, Saved], None],
    on_error: Callable[[Item, RealesrError], None],
    depth: int = 2,
    keep: bool = True,
) -> None:
    """Takes each item through `load`, `work` and `save`; `on_done` and `on_error` are called in the caller's thread.

    `work` is a generator; `save` is given what was loaded and an iterator over what `work` yields, which raises where
    `work` fails. At most
    `depth` items wait on either side of `work`, and one part of each, so memory is bounded. A `RealesrError` of an
    item goes to `on_error`, and the run goes on unless that raises; every other exception stops the run. Whatever ends
    it, Ctrl-C included, what has been worked is still saved and reported; if that is of no use, `keep` is False, and
    what waits to be saved is dropped. No thread outlives the call.
    """
    waiting = iter(items)
    loads: deque[tuple[Item, Future[Loaded]]] = deque()
    saves: deque[tuple[Item, Future[Saved]]] = deque()

    def settle(*, leave: int) -> None:
        while saves and (len(saves) > leave or saves[0][1].done()):
            item, saving = saves.popleft()
            try:
                saved = saving.result()
            except RealesrError as error:
                on_error(item, error)
            else:
                on_done(item, saved)

    def save_parts(item: Item, loaded: Loaded, parts: _Parts[Part]) -> Saved:
        try:
            return save(item, loaded, parts)
        finally:
            parts.refuse()

    with ThreadPoolExecutor(1, "load") as loader, ThreadPoolExecutor(1, "save") as saver:

        def start(item: Item, loaded: Loaded, parts: _Parts[Part]) -> Future[Saved]:
            return saver.submit(save_parts, item, loaded, parts)

        completed = False
        try:
            loads.extend((item, loader.submit(load, item)) for item in islice(waiting, depth))
            while loads:
                item, loading = loads.popleft()
                try:
                    loaded = loading.result()
                    saves.append((item, _hand_over(work(item, loaded), partial(start, item, loaded))))
                    del loaded
                except RealesrError as error:
                    settle(leave=0)  # what came before is reported before
                    on_error(item, error)
                del loading
                loads.extend((item, loader.submit(load, item)) for item in islice(waiting, 1))
                settle(leave=depth)
            completed = True
        finally:
            for _, loading in loads:
                loading.cancel()
            if not (keep or completed):
                saves = deque(pair for pair in saves if not pair[1].cancel())
            settle(leave=0)


def run_pipelines(
    items: Iterable[Item],
    *,
    load: Callable[[Item], Loaded],
    work: Sequence[Callable[[Item, Loaded], Generator[Part, None, None]]],
    save: Callable[[Item, Loaded, Iterator[Part]], Saved],
    on_done: Callable[[Item, Saved], None],
    on_error: Callable[[Item, RealesrError], None],
) -> None:
    """`run_pipeline` with several workers, each of which takes the next item when it is free.

    `on_done` and `on_error` are called in the caller's thread, in the order of the items. What ends the run lets
    every worker stop at its next part; an item that was in work then is dropped.
    """
    if len(work) == 1:
        run_pipeline(items, load=load, work=work[0], save=save, on_done=on_done, on_error=on_error)
        return
    numbered, taking, stop = enumerate(items), Lock(), Event()
    news: SimpleQueue[tuple[int, Callable[[], None]] | _Finished] = SimpleQueue()

    def take() -> Iterator[tuple[int, Item]]:
        while not stop.is_set():
            with taking:
                pair = next(numbered, None)
            if pair is None:
                return
            yield pair

    def run(own: Callable[[Item, Loaded], Generator[Part, None, None]]) -> None:
        def until_stopped(pair: tuple[int, Item], loaded: Loaded) -> Generator[Part, None, None]:
            with closing(own(pair[1], loaded)) as parts:
                for part in parts:
                    if stop.is_set():
                        raise _Incomplete
                    yield part

        ended: BaseException | None = None
        try:
            run_pipeline(
                take(),
                load=lambda pair: load(pair[1]),
                work=until_stopped,
                save=lambda pair, loaded, parts: save(pair[1], loaded, parts),
                on_done=lambda pair, saved: news.put((pair[0], partial(on_done, pair[1], saved))),
                on_error=lambda pair, error: news.put((pair[0], partial(on_error, pair[1], error))),
            )
        except BaseException as error:
            ended = error
            stop.set()  # at once: the caller's thread may be long in a report
        news.put(_Finished(ended))

    reports: dict[int, Callable[[], None]] = {}
    threads = [Thread(target=run, args=(own,), name=f"work {index}") for index, own in enumerate(work)]
    for thread in threads:
        thread.start()
    running, following = len(threads), 0
    try:
        while running:
            item = news.get()
            if isinstance(item, _Finished):
                running -= 1
                if item.error is not None:
                    raise item.error
                continue
            reports[item[0]] = item[1]
            while following in reports:
                reports.pop(following)()
                following += 1
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        while not news.empty():
            item = news.get()
            if not isinstance(item, _Finished):
                reports[item[0]] = item[1]
        for _, report in sorted(reports.items()):
            report()


def _hand_over(
    produced: Generator[Part, None, None], start: Callable[["_Parts[Part]"], Future[Saved]]
) -> Future[Saved]:
    """Passes on what `work` yields; saving starts with the first part."""
    parts: _Parts[Part] = _Parts()
    saving: Future[Saved] | None = None
    try:
        with closing(produced):
            for part in produced:
                saving = saving or start(parts)
                if not parts.put(part):
                    break  # saving has failed; `settle` meets its error
                del part  # it must not stay alive while the next one is worked
    except BaseException:
        if saving is not None:
            parts.end(complete=False)
            saving.exception()  # waits; the item fails by the error of `work`, not by what that does to `save`
        raise
    parts.end(complete=True)
    return saving or start(parts)


class _Parts(Generic[Part]):
    """From the thread that works to the one that saves: at most one part waits."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[Part | _End] = SimpleQueue()
        self._room = Semaphore()
        self._refused = Event()

    def put(self, part: Part) -> bool:
        """Waits until there is room; False if nobody wants any more."""
        self._room.acquire()
        if not self._refused.is_set():
            self._queue.put(part)
        return not self._refused.is_set()

    def end(self, *, complete: bool) -> None:
        self._queue.put(_End(complete))

    def refuse(self) -> None:
        self._refused.set()
        self._room.release()

    def __iter__(self) -> Iterator[Part]:
        return self

    def __next__(self) -> Part:
        part = self._queue.get()
        if isinstance(part, _End):
            self._queue.put(part)
            if part.complete:
                raise StopIteration
            raise _Incomplete
        self._room.release()
        return part


class _End:
    def __init__(self, complete: bool) -> None:
        self.complete = complete


class _Finished:
    """The last that is heard of a worker."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


class _Incomplete(Exception):
    """Tells `save` to drop what it has."""
