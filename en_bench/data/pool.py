"""Work on shards, over worker processes."""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Protocol, TypeVar

from en_bench.data.shard_task import Report
from en_bench.errors import InputError

_SECONDS_PER_REPORT = 0.2
_SECONDS_PER_DRAIN = 0.02


class Numbered(Protocol):
    """A task: what is to be done with one shard."""

    @property
    def number(self) -> int: ...


_Task = TypeVar("_Task", bound=Numbered)
_Result = TypeVar("_Result")


class _Stopped(Exception):  # noqa: N818 - how a worker leaves a shard that nobody waits for any more
    pass


def fill_all(
    tasks: Iterable[_Task],
    fill: Callable[[_Task, Report], _Result],
    workers: int,
    progress: Callable[[int, int], None],
    cure: str = "use fewer --workers and run again with --resume",
) -> Iterator[tuple[int, _Result]]:
    """Runs `fill(task, report)` for every task and yields (number, result) as they come.

    With one worker in this process, with more in processes of their own, which end with this one whatever ends it.
    `progress` is called with what is done since the last call, (samples, bytes). `fill` must be picklable.

    Raises what `fill` raises, and InputError, with the cure, if a worker dies.
    """
    if workers == 1:
        for task in tasks:
            yield task.number, fill(task, progress)
        return
    # A fresh interpreter for each worker: forked ones inherit locks that the threads of torch and fsspec may hold.
    context = multiprocessing.get_context("spawn")
    news: Any = context.SimpleQueue()
    stop = context.Event()
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_begin_worker, initargs=(news, stop))
    pending: set[Future[_Result]] = set()
    numbers: dict[Future[_Result], int] = {}
    waiting = iter(tasks)
    try:
        while True:
            for task in itertools.islice(waiting, 2 * workers - len(pending)):
                future = pool.submit(_work, fill, task)
                pending.add(future)
                numbers[future] = task.number
            if not pending:
                return
            done, pending = wait(pending, timeout=_SECONDS_PER_REPORT, return_when=FIRST_COMPLETED)
            while not news.empty():
                progress(*news.get())
            for future in done:
                yield numbers.pop(future), future.result()
    except BrokenProcessPool as error:
        raise InputError(f"a worker process was killed, which the system does when memory runs out: {cure}") from error
    finally:
        stop.set()
        ended = threading.Event()
        drain = threading.Thread(target=_drain, args=(news, ended), daemon=True)
        drain.start()  # a worker that waits to report would never see that it is to stop
        pool.shutdown(cancel_futures=True)
        ended.set()


def _drain(news: Any, ended: threading.Event) -> None:
    with contextlib.suppress(EOFError, OSError):
        while not ended.wait(_SECONDS_PER_DRAIN):
            while not news.empty():
                news.get()


# What the initializer leaves in a worker process.
_news: Any = None
_stop: Any = None


def _begin_worker(news: Any, stop: Any) -> None:
    global _news, _stop
    _news, _stop = news, stop
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent tells us to stop
    os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported: the workers are the parallelism
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()


def _work(fill: Callable[[_Task, Report], _Result], task: _Task) -> _Result:
    samples = written = 0
    sent = time.monotonic()

    def send() -> None:
        nonlocal samples, written, sent
        _news.put((samples, written))
        samples, written, sent = 0, 0, time.monotonic()

    def report(more_samples: int, more_bytes: int) -> None:
        nonlocal samples, written
        samples, written = samples + more_samples, written + more_bytes
        if time.monotonic() - sent >= _SECONDS_PER_REPORT:
            if _stop.is_set():
                raise _Stopped
            send()

    result = fill(task, report)
    send()
    return result
