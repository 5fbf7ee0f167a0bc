"""What joins the threads of a run: a queue of bounded length that either end can close, and that knows who waited."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Channel(Generic[T]):
    """Items in order, from one thread to another.

    Args:
        size: items held; ``put`` waits beyond.
        clock: seconds; for tests.

    Attributes:
        put_seconds: time spent in waiting to put.
        get_seconds: time spent in waiting to get.
    """

    def __init__(self, size: int, *, clock: Callable[[], float] = time.perf_counter) -> None:
        self._items: deque[T] = deque()
        self._size = size
        self._clock = clock
        self._changed = threading.Condition()
        self._closed = False
        self.put_seconds = 0.0
        self.get_seconds = 0.0

    def put(self, item: T) -> bool:
        """Add an item, waiting for room; False if the channel is closed: nobody will take it."""
        with self._changed:
            begun = self._clock()
            self._changed.wait_for(lambda: self._closed or len(self._items) < self._size)
            self.put_seconds += self._clock() - begun
            if not self._closed:
                self._items.append(item)
                self._changed.notify_all()
            return not self._closed

    def get(self, timeout: float | None = None) -> T | None:
        """The next item, waiting for it; None if the channel is closed and empty.

        Raises:
            TimeoutError: nothing happened for so many seconds.
        """
        with self._changed:
            begun = self._clock()
            happened = self._changed.wait_for(lambda: self._closed or bool(self._items), timeout)
            self.get_seconds += self._clock() - begun
            if not happened:
                raise TimeoutError
            if not self._items:
                return None
            item = self._items.popleft()
            self._changed.notify_all()
            return item

    def close(self) -> None:
        """No more items; those inside can still be taken."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def abandon(self) -> None:
        """No more items, and those inside are dropped."""
        with self._changed:
            self._items.clear()
            self.close()
