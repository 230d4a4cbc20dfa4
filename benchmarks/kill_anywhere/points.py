"""Places to die at: right before and right after each rename and removal of a file, each write and removal of an
object.
"""

import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

CALLS = ("replace", "rename", "unlink", "remove", "rmdir")
REQUESTS = frozenset({"put_object", "delete_object", "delete_objects", "copy_object", "complete_multipart_upload"})


@dataclass
class Points:
    """Counts the places that a process passes, and kills it at number `at` (from 1; 0: nowhere)."""

    at: int = 0
    passed: list[str] = field(default_factory=list)

    def watch(self) -> None:
        """From here on. Changes this process for good: only for children."""
        for name in CALLS:
            setattr(os, name, self._around(name, getattr(os, name)))
        import s3fs

        s3fs.S3FileSystem._call_s3 = self._around_requests(s3fs.S3FileSystem._call_s3)

    def _pass(self, words: str) -> None:
        self.passed.append(words)
        if len(self.passed) == self.at:
            os.kill(os.getpid(), signal.SIGKILL)

    def _around(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            target = str(args[-1])
            self._pass(f"before {name} {target}")
            found = real(*args, **kwargs)
            self._pass(f"after {name} {target}")
            return found

        return call

    def _around_requests(self, real: Callable[..., Any]) -> Callable[..., Any]:
        async def call(fs: Any, method: str, *args: Any, **kwargs: Any) -> Any:
            if method not in REQUESTS:
                return await real(fs, method, *args, **kwargs)
            self._pass(f"before {method} {kwargs.get('Key', '')}")
            found = await real(fs, method, *args, **kwargs)
            self._pass(f"after {method} {kwargs.get('Key', '')}")
            return found

        return call


@dataclass(frozen=True)
class Done:
    """What a command did: its exit status, the places that it passed, and the modules that it needed."""

    status: int
    passed: list[str]
    modules: list[str]


def maskmill(words: list[str], at: int = 0) -> Done:
    """Run the command line in this process, to be killed at place `at`."""
    from maskmill.pipelines.cli.main import app

    points = Points(at)
    points.watch()
    try:
        app(words)
        status = 0
    except SystemExit as end:
        status = int(end.code or 0)
    return Done(status, points.passed, sorted(sys.modules))
