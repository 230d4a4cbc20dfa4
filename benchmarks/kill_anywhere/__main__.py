"""Kill maskmill anywhere and start it again: does it end with the same bytes, does it do anything twice, does it leave
anything behind?

python -m benchmarks.kill_anywhere --kills 100 --json FILE [--stages curate,label] [--stores local,s3] [--seed 0]

Each stage (curate, generate, label, train, export) runs on tiny data, on a local disk and on an S3 server of its own.
Two kills in three are a SIGKILL right before or right after a rename or a removal (on S3: a write or a removal), spread
evenly over all that an undisturbed run passes; one in three comes at a random time. The same command is then run again
to its end. Metrics of each arm (`STAGE.STORE`), of each stage, of each store and of `all`: `kills`; `identical`, the
share of restarts that end with the bytes of an undisturbed run; `recomputed_shards`, finished shards that were written
again; `leftovers`, files that an undisturbed run does not have; `seconds`, of a kill and its restart.
Expected: 1, 0, 0.
"""

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.common import Options, Record
from benchmarks.kill_anywhere.arms import STAGES, STORES, Arm, curation, make_arms
from benchmarks.kill_anywhere.folders import State, clear, differences, left_over, written_again
from benchmarks.kill_anywhere.forked import bring, call
from benchmarks.kill_anywhere.points import maskmill

NAME = "kill_anywhere"
BUCKET = "kills"
SERVER = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
server.start()
print("", "listens at", *server.get_host_and_port(), sep="\t", flush=True)
sys.stdin.read()
"""


@dataclass(frozen=True)
class Whole:
    """An undisturbed run: what it leaves, the places that it passes, and how long it takes."""

    state: State
    passed: list[str]
    seconds: float


def finish(arm: Arm, log: Path) -> tuple[int, list[str]]:
    """Run the command to its end; its exit status and the places that it passed."""
    done = call(partial(maskmill, list(arm.words)), log).found
    bring(done.modules)
    return done.status, done.passed


def begin(arm: Arm, log: Path) -> None:
    """Empty the arm's places and put into them what the command starts from."""
    call(lambda: clear(arm.places), log)
    call(arm.begin, log)


def undisturbed(arm: Arm, log: Path) -> Whole:
    """Run the command twice, the second time with everything imported.

    Raises:
        RuntimeError: it fails, or does not end with the same bytes twice; says where.
    """
    states = []
    for _ in range(2):
        begin(arm, log)
        started = time.perf_counter()
        status, passed = finish(arm, log)
        seconds = time.perf_counter() - started
        states.append(call(lambda: State.of(arm.places), log.with_suffix(".state")).found)
        if status:
            raise RuntimeError(f"{arm.name} ends with {status}: {log.read_text(errors='replace')[-2000:]}")
    if found := differences(*states):
        raise RuntimeError(f"{arm.name} does not end with the same bytes twice: {found[:5]}")
    return Whole(states[-1], passed, seconds)


def kill(arm: Arm, whole: Whole, at: int, rng: random.Random, log: Path) -> str:
    """Start the command and kill it, at a place of the undisturbed run or (0) at a random time; says where. One that
    was done before its time came is killed earlier.
    """
    seconds = 0.95 * whole.seconds
    while True:
        begin(arm, log)
        limit = None if at else rng.uniform(0.02, 1.0) * seconds
        if call(partial(maskmill, list(arm.words), at), log, limit).killed:
            return whole.passed[at - 1] if at else f"after {limit:.2f} s"
        at, seconds = 0, 0.7 * seconds


def measure(arm: Arm, kills: int, seed: int, log: Path) -> dict[str, float]:
    """Kill the arm's command `kills` times, each time from its start, and finish it each time."""
    whole = undisturbed(arm, log)
    rng = random.Random(f"{seed}{arm.name}")
    at_places = kills - kills // 3
    places = [1 + int((i + rng.random()) * len(whole.passed) / at_places) for i in range(at_places)]
    same = again = left = 0
    started = time.perf_counter()
    for number, at in enumerate([*places, *[0] * (kills - at_places)]):
        where = kill(arm, whole, at, rng, log)
        before = call(lambda: State.of(arm.places), log.with_suffix(".state")).found
        status, _ = finish(arm, log)
        after = call(lambda: State.of(arm.places), log.with_suffix(".state")).found
        wrong = differences(after, whole.state)
        twice = written_again(before, after)
        same += not wrong and not status
        again += len(twice)
        left += len(left_over(after, whole.state))
        found = [*wrong[:5], *(f"{name} written again" for name in twice), *([f"exit {status}"] if status else [])]
        print(f"{arm.name} {number + 1}/{kills} {where}: {'; '.join(found) or 'same'}", flush=True)
        if status:
            print(log.read_text(errors="replace")[-1000:], flush=True)
    seconds = (time.perf_counter() - started) / max(1, kills)
    return {"kills": kills, "identical": same / max(1, kills), "recomputed_shards": again, "leftovers": left} | {
        "seconds": seconds
    }


def total(metrics: Sequence[dict[str, float]]) -> dict[str, float]:
    """Over several arms: sums of counts, means over kills of the rest."""
    kills = sum(m["kills"] for m in metrics)
    means = {name: sum(m[name] * m["kills"] for m in metrics) / max(1, kills) for name in ("identical", "seconds")}
    return {"kills": kills, **means} | {n: sum(m[n] for m in metrics) for n in ("recomputed_shards", "leftovers")}


def totals(by_arm: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """By stage, by store, and over all arms."""
    parts = {part for name in by_arm for part in name.split(".")}
    found = {p: total([m for name, m in by_arm.items() if p in name.split(".")]) for p in sorted(parts)}
    return {**found, "all": total(list(by_arm.values()))}


def run(stages: Sequence[str], stores: Sequence[str], kills: int, work: Path, record: Record) -> None:
    """All arms, the kills shared out evenly."""
    (seed,) = record.options.seeds
    log, samples, selected = work / "log", f"{work}/samples", f"{work}/selected"
    for folder, command in ((samples, "ingest"), (selected, "select")):
        words = [command, "planted-faults", *curation(folder)]
        bring(call(partial(maskmill, words), log).found.modules)
    arms = [arm for arm in make_arms(work, BUCKET, f"{samples}/samples", selected, stages) if arm.store in stores]
    by_arm = {}
    for number, arm in enumerate(arms):
        share = kills // len(arms) + (number < kills % len(arms))
        if not share:
            continue
        by_arm[arm.name] = measure(arm, share, seed, log)
        record.add(arm.name, seed, by_arm[arm.name])
    for name, metrics in totals(by_arm).items():
        record.add(name, seed, metrics)
    record.finish()


def serve() -> "subprocess.Popen[str]":
    """An S3 server in a process of its own, and the environment that leads to it."""
    server = subprocess.Popen([sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    line = next(line for line in server.stdout if "listens at" in line)  # the server says more than is asked
    host, port = line.split()[-2:]
    keys = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_DEFAULT_REGION": "us-east-1"}
    os.environ.update(keys, AWS_ENDPOINT_URL=f"http://{host}:{port}")
    return server


def make_bucket() -> None:
    """In a child: a client starts a thread."""
    import fsspec

    fsspec.filesystem("s3").mkdir(BUCKET)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kills", type=int, default=100, help="in all, shared out over the arms")
    parser.add_argument("--stages", default=",".join(STAGES))
    parser.add_argument("--stores", default=",".join(STORES))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, required=True, metavar="FILE")
    given = parser.parse_args()
    stages, stores = given.stages.split(","), given.stores.split(",")
    if unknown := {*stages} - {*STAGES} | {*stores} - {*STORES}:
        parser.error(f"{', '.join(sorted(unknown))}: expected stages of {STAGES} and stores of {STORES}")
    record = Record(Options(NAME, None, None, (given.seed,), "small", given.json))
    server = serve() if "s3" in stores else None
    with tempfile.TemporaryDirectory(prefix="kill-anywhere-") as folder:
        work = Path(folder)
        os.environ["XDG_CACHE_HOME"] = f"{work}/cache"
        if server is not None:
            call(make_bucket, work / "log")
        run(stages, stores, given.kills, work, record)
    if server is not None:
        server.kill()


if __name__ == "__main__":
    main()
