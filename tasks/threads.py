"""Work on images in parallel. Decoders and detectors run outside Python's lock, so threads keep all cores busy."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

AHEAD = 16  # enough that one slow image does not keep other threads waiting


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_order(
    work: Callable[[Item], Result], items: Iterable[Item], workers: int, ahead: int = AHEAD
) -> Iterator[Result]:
    """Work on items with `workers` threads, `ahead` items each before the first result is taken; results keep the order."""
    futures: deque[Future[Result]] = deque()
    pool = ThreadPoolExecutor(workers, "image", _one_thread)
    try:
        for item in items:
            futures.append(pool.submit(work, item))
            if len(futures) >= ahead * workers:
                yield futures.popleft().result()
        while futures:
            yield futures.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _one_thread() -> None:
    """Keep OpenCV from threads of its own: ours are as many as the cores."""
    import cv2

    cv2.setNumThreads(1)
