"""Three stages that overlap: load in one thread, work in the caller's, save in another. Order is kept."""

from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

from realesr_cli.errors import RealesrError

Item = TypeVar("Item")
Loaded = TypeVar("Loaded")
Worked = TypeVar("Worked")
Saved = TypeVar("Saved")


def run_pipeline(
    items: Iterable[Item],
    *,
    load: Callable[[Item], Loaded],
    work: Callable[[Item, Loaded], Worked],
    save: Callable[[Item, Worked], Saved],
    on_done: Callable[[Item, Saved], None],
    on_error: Callable[[Item, RealesrError], None],
    depth: int = 2,
) -> None:
    """Takes each item through `load`, `work` and `save`; `on_done` and `on_error` are called in the caller's thread.

    At most `depth` items wait on either side of `work`, so memory is bounded. A `RealesrError` of an item goes to
    `on_error`, and the run goes on unless that raises; every other exception stops the run. Whatever ends it, Ctrl-C
    included, what has been worked is still saved and reported. No thread outlives the call.
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

    with ThreadPoolExecutor(1, "load") as loader, ThreadPoolExecutor(1, "save") as saver:
        try:
            loads.extend((item, loader.submit(load, item)) for item in islice(waiting, depth))
            while loads:
                item, loading = loads.popleft()
                try:
                    result = work(item, loading.result())
                except RealesrError as error:
                    settle(leave=0)  # what came before is reported before
                    on_error(item, error)
                else:
                    saves.append((item, saver.submit(save, item, result)))
                    del result  # it must not stay alive while the next one is worked
                del loading
                loads.extend((item, loader.submit(load, item)) for item in islice(waiting, 1))
                settle(leave=depth)
        finally:
            for _, loading in loads:
                loading.cancel()
            settle(leave=0)
