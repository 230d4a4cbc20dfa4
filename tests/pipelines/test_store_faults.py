"""S3 that stumbles: the same bytes in the end; S3 that stays down: a clear error, and the same command goes on."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from maskmill.data_contracts import list_shards, read_bytes, s3, write_bytes
from maskmill.pipelines.core.lock import LockLostError, RunLockedError, lock
from maskmill.pipelines.ingest import patience
from maskmill.pipelines.run.config import RunConfig, load_run_config
from maskmill.pipelines.run.run import run
from maskmill.pipelines.run.sums import files_of
from tests.pipelines.ingest_sets import make_folder
from tests.store_faults import ALWAYS, FAULTS, Proxy, stumbling

pytestmark = pytest.mark.slow

TINY = {"model": str(Path(__file__).parents[1] / "data/tiny_clip_timm"), "image_side": 64, "refine": "none"}
Stumble = Callable[..., Proxy]


@pytest.fixture
def stumble(s3_bucket: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stumble]:
    """Puts a proxy between this process and the store, each call another one; repetitions do not wait."""
    server = os.environ["AWS_ENDPOINT_URL"]
    monkeypatch.setattr(patience, "PAUSES", (0.0,))

    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda self, context: 0.01)
    with ExitStack() as proxies:

        def start(share: float, faults: tuple[str, ...] = FAULTS, span: range = ALWAYS, attempts: int = 8) -> Proxy:
            monkeypatch.setattr(s3, "ATTEMPTS", attempts)
            monkeypatch.setattr(s3.PatientS3, "retries", attempts)
            proxy = proxies.enter_context(stumbling(server, share, faults, span))
            monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
            s3.PatientS3.clear_instance_cache()
            return proxy

        yield start


def config_at(tmp_path: Path, run_dir: str) -> RunConfig:
    if not (tmp_path / "set").exists():
        make_folder(tmp_path / "set", list("abcd"))
    source = {"kind": "folder", "root": str(tmp_path / "set"), "threads": 1}
    settings = {"source": source, "run_dir": run_dir, "shard_size": 2, "label_space": "voc", "score": TINY}
    more = {"select": {"preset": "starter", "min_score": None}, "export": [{"format": "voc"}]}
    return load_run_config("folder", {**settings, **more})


def bytes_of(folder: str) -> dict[str, bytes]:
    names = {"timings.json", "config.json"}
    paths = (path for path in files_of(folder) if path.split("/")[-1] not in names and not path.startswith("cache/"))
    return {path: read_bytes(f"{folder}/{path}") for path in paths}


def test_the_same_bytes_from_a_store_that_stumbles(tmp_path: Path, s3_bucket: str, stumble: Stumble) -> None:
    run(config_at(tmp_path, str(tmp_path / "calm")), until="select")
    wanted = bytes_of(str(tmp_path / "calm"))
    wanted.pop(".lock")
    proxy = stumble(0.15)
    run(config_at(tmp_path, f"s3://{s3_bucket}/run"), until="select")
    assert all(proxy.met[fault] for fault in FAULTS), proxy.met
    stumble(0.0)
    assert bytes_of(f"s3://{s3_bucket}/run") == wanted


@pytest.mark.parametrize("fault", ["error", "busy", "reset", "part"])
def test_a_store_that_stays_down_is_named_and_the_same_command_goes_on(
    tmp_path: Path, s3_bucket: str, stumble: Stumble, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "planted-secret")
    folder = f"s3://{s3_bucket}/run"
    config = config_at(tmp_path, folder)
    proxy = stumble(1.0, (fault,), span=range(60, 10**9), attempts=2)
    with pytest.raises(OSError, match=s3_bucket) as caught:
        run(config, until="ingest")
    assert proxy.url in str(caught.value)
    assert "planted-secret" not in str(caught.value)
    stumble(0.0)
    run(config, until="ingest")
    run(whole := config_at(tmp_path, str(tmp_path / "calm")), until="ingest")
    for path in list_shards(f"{whole.run_dir}/samples"):
        assert read_bytes(f"{folder}/samples/{Path(path).name}") == Path(path).read_bytes()


def test_a_lock_whose_answer_got_lost_is_held(s3_bucket: str, stumble: Stumble) -> None:
    """The write was done, so its repetition is refused."""
    proxy = stumble(1.0, ("lost",), span=range(1))
    with lock(f"s3://{s3_bucket}/run"), pytest.raises(RunLockedError), lock(f"s3://{s3_bucket}/run"):
        pass
    assert proxy.met["lost"] == 1


def test_a_store_that_refuses_is_named(s3_bucket: str, stumble: Stumble) -> None:
    stumble(0.0)
    with pytest.raises(FileNotFoundError, match="no-such-bucket"):
        write_bytes("s3://no-such-bucket-at-all/x", b"1")


def test_a_lock_that_was_deleted_or_taken_over_stops_the_next_write(s3_bucket: str, stumble: Stumble) -> None:
    stumble(0.0)
    folder = f"s3://{s3_bucket}/run"
    fs = s3.PatientS3()
    with lock(folder):
        write_bytes(f"{folder}/a", b"1")
        fs.rm_file(f"{folder}/.lock")
        with pytest.raises(LockLostError, match="was deleted while"):
            write_bytes(f"{folder}/b", b"1")
        fs.pipe_file(f"{folder}/.lock", b'{"pid": 7, "host": "elsewhere", "machine": "x"}')
        with pytest.raises(LockLostError, match="process 7 on elsewhere took it over"):
            write_bytes(f"{folder}/b", b"1")
        write_bytes(f"s3://{s3_bucket}/run2/b", b"1")  # nobody's folder
    assert fs.exists(f"{folder}/.lock")
    assert not fs.exists(f"{folder}/b")
