"""Peak memory of this process while something runs, read from /proc (Linux). Imports nothing of ours or others.

"Anonymous" memory is the process's own. "Mapped" memory is the page cache of files it has mapped, which the system
shares between processes and can take back at any time.
"""

from __future__ import annotations

import threading
from pathlib import Path
from types import TracebackType
from typing import Final

SECONDS: Final = 0.02
"""Between two looks; what is taken and given back between them is not seen."""


class PeakMemory:
    """Bytes at the peak of the block under ``with``.

    Attributes:
        anonymous: the process's own memory.
        mapped: memory of mapped files.
    """

    def __init__(self) -> None:
        self.anonymous = self.mapped = 0
        self._over = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> PeakMemory:
        self._look()
        self._watcher.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._watcher.join()
        self._look()

    def _watch(self) -> None:
        while not self._over.wait(SECONDS):
            self._look()

    def _look(self) -> None:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        found = dict(line.split(":", 1) for line in lines if line.startswith(("RssAnon", "RssFile")))
        self.anonymous = max(self.anonymous, 1024 * int(found["RssAnon"].split()[0]))
        self.mapped = max(self.mapped, 1024 * int(found["RssFile"].split()[0]))
