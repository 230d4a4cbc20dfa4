"""S3 with patience: a store that stumbles is asked again after a pause, and one that stays down is named.

Requests that fail (500, 503 SlowDown, refused or broken connections, no answer in time) are repeated by botocore with
growing random pauses; answers that break off in the middle are read again by s3fs. What still fails ends as an OSError
that names the object and the endpoint and holds no credentials.
"""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import aiohttp
from botocore.exceptions import BotoCoreError
from fsspec.asyn import sync_wrapper
from s3fs import S3FileSystem
from s3fs.core import add_retryable_error

from maskmill.data_contracts.secrets import redact

ATTEMPTS = 6  # of one request: pauses of about 0.5, 1, 2, 4 and 8 seconds between them
ROUNDS = 5  # of those, where the store asks for a slower pace or an answer breaks off
FAULTS = (BotoCoreError, aiohttp.ClientError, TimeoutError)  # what is no OSError with a number of its own
NUMBERS = {  # s3fs gives these none
    FileNotFoundError: errno.ENOENT,
    PermissionError: errno.EACCES,
    FileExistsError: errno.EEXIST,
}

add_retryable_error(aiohttp.ClientError)  # an answer's end may also be missing without a word of the HTTP library


class PatientS3(S3FileSystem):  # type: ignore[misc]  # it has no types
    """s3fs as above. `config_kwargs` of a user's fsspec config win.

    Listings are not cached: another machine may have written since, and whoever caches them must ask for it
    (`use_listings_cache`).
    """

    retries = ROUNDS

    def __init__(self, *args: Any, config_kwargs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        patience = {"retries": {"mode": "standard", "total_max_attempts": ATTEMPTS}}
        given = {"use_listings_cache": False, **kwargs}
        super().__init__(*args, config_kwargs={**patience, **(config_kwargs or {})}, **given)

    async def _call_s3(self, method: str, *args: Any, **kwargs: Any) -> Any:
        with self._named(f"{kwargs.get('Bucket', '')}/{kwargs.get('Key', '')}"):
            return await super()._call_s3(method, *args, **kwargs)

    call_s3 = sync_wrapper(_call_s3)  # s3fs has it of its own `_call_s3`

    async def _cat_file(self, path: str, *args: Any, **kwargs: Any) -> Any:
        with self._named(path):
            return await super()._cat_file(path, *args, **kwargs)

    async def _lsdir(self, path: str, *args: Any, **kwargs: Any) -> Any:
        with self._named(path):
            return await super()._lsdir(path, *args, **kwargs)

    def _open(self, path: str, *args: Any, **kwargs: Any) -> Any:
        file = super()._open(path, *args, **kwargs)
        if getattr(file, "cache", None) is not None:
            fetch = file.cache.fetcher

            def fetcher(*span: int) -> bytes:
                with self._named(path):
                    data: bytes = fetch(*span)
                    return data

            file.cache.fetcher = fetcher
        return file

    @contextmanager
    def _named(self, path: str) -> Iterator[None]:
        """Faults of the store and of the way to it name the object and the endpoint."""
        try:
            yield
        except FAULTS as error:
            raise OSError(errno.EIO, self._words(error), f"s3://{path.strip('/')}") from error
        except OSError as error:
            if error.filename is not None or (error.__cause__ is None and isinstance(error, FileNotFoundError)):
                raise
            number = error.errno or next((n for kind, n in NUMBERS.items() if isinstance(error, kind)), errno.EIO)
            raise type(error)(number, self._words(error), f"s3://{path.strip('/')}") from error

    def _words(self, error: BaseException) -> str:
        client = getattr(self, "_s3", None)
        place = client.meta.endpoint_url if client is not None else "S3"
        return redact(f"the store at {place}: {str(error) or type(error).__name__}")
