"""What all tests share: property tests that do not depend on how busy the machine is, and one thread a process."""

import os
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests run in several processes; threads on top only wait for each other
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")

import pytest
from hypothesis import settings

settings.register_profile("maskmill", deadline=None, derandomize=True)
settings.load_profile("maskmill")


@pytest.fixture(scope="session", autouse=True)
def draw_curves() -> Iterator[Callable[[Any], bytes] | None]:
    """How a run's curves are drawn. A test that looks at them asks for it; all others get a stand-in: matplotlib takes
    0.2 s for a picture, and the tests train hundreds of times.
    """
    if (engine := sys.modules.get("maskmill.trainers.engine.loop")) is None:
        yield None  # nothing here trains
        return
    drawn = engine.Loop.curves
    engine.Loop.curves = lambda _: b"curves of a run"
    yield drawn
    engine.Loop.curves = drawn


@pytest.fixture
def s3_bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An empty bucket on an S3 server of its own. The server's state and the clients' connections live as long as the
    process, so both are cleared: two tests of one worker must not meet.
    """
    import s3fs
    from moto.server import ThreadedMotoServer

    from maskmill.data_contracts.s3 import PatientS3

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    kinds = (s3fs.S3FileSystem, PatientS3)
    for kind in kinds:
        kind.clear_instance_cache()
    try:
        bucket = f"bucket-{uuid.uuid4().hex}"
        s3fs.S3FileSystem().mkdir(bucket)
        yield bucket
    finally:
        for kind in kinds:
            kind.clear_instance_cache()
        server.stop()
