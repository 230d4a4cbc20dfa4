"""Signs of life: something done again and again, in a thread of its own, for as long as a block runs."""

import contextvars
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

ALIVE = "maskmill.run.alive"  # the event by which a flow run says that its process lives
EVERY_S = 5.0  # seconds between two of them, for every flow run alike, however it was started
logger = logging.getLogger("maskmill")


@contextmanager
def beating(act: Callable[[], object], seconds: float) -> Iterator[None]:
    """Call `act` every so many seconds until the block ends; the thread sees the block's context variables.

    A call that fails is left out, and the next one is made.
    """
    over = threading.Event()

    def beats() -> None:
        while not over.wait(seconds):
            try:
                act()
            except Exception:
                logger.debug("a sign of life could not be given", exc_info=True)

    thread = threading.Thread(target=contextvars.copy_context().run, args=(beats,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
