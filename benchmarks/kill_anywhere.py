"""Kill maskmill anywhere and start it again: does it end with the same bytes, does it do anything twice, does it leave
anything behind?

    python -m benchmarks.kill_anywhere --kills 100 --json kill.json [--arms curate,label,train,s3]

Each arm is one command on tiny drawn data. Two kills in three are a SIGKILL right before or right after a rename or an
unlink (on S3: a write or a delete), spread evenly over all of the command's; one in three comes at a random time. The
command is then run again to its end. Metrics, per arm and over `all`: `kills`; `identical`, the share of restarts that
end with the bytes of an undisturbed run; `recomputed_shards`, finished shards that were written again (local arms);
`leftovers`, files that an undisturbed run does not have. Expected: 1, 0, 0.
"""

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
import yaml

LEFT_OUT = {".lock", "config.json", "metrics.jsonl", "timings.json"}  # empty; names its own folder; hold times
TINY = Path(__file__).resolve().parents[1] / "tests" / "data" / "tiny_clip_timm"
KILLER = """
import os, signal, sys
at, log = int(sys.argv[1]), sys.argv[2]
seen = [0]
def step():
    seen[0] += 1
    if seen[0] == at:
        os.kill(os.getpid(), signal.SIGKILL)
def around(real):
    def call(*args, **kwargs):
        step()
        found = real(*args, **kwargs)
        step()
        return found
    return call
def around_s3(real):
    async def call(self, method, *args, **kwargs):
        writes = method in ("put_object", "delete_object", "delete_objects")
        if writes: step()
        found = await real(self, method, *args, **kwargs)
        if writes: step()
        return found
    return call
if "s3://" in " ".join(sys.argv):
    import s3fs
    s3fs.S3FileSystem._call_s3 = around_s3(s3fs.S3FileSystem._call_s3)
else:
    os.replace, os.unlink = around(os.replace), around(os.unlink)
from maskmill.pipelines.cli.main import app
try:
    app(sys.argv[3:], standalone_mode=False)
finally:
    open(log, "w").write(str(seen[0]))
"""


@dataclass(frozen=True)
class Arm:
    """A command, by the folder that it writes to."""

    name: str
    words: list[str]
    place: str  # the option that names the folder: "--out", or "" for --set run_dir=
    base: str  # where its folders go

    def command(self, folder: str, at: int, log: Path) -> list[str]:
        target = ["--set", f"run_dir={folder}"] if not self.place else [self.place, folder]
        return [sys.executable, "-c", KILLER, str(at), str(log), *self.words, *target]


def curate_words(name: str = "planted-faults") -> list[str]:
    score = f"{{model: {TINY}, image_side: 64, refine: none}}"
    sets = ["source.count=4", "shard_size=2", "source.scene.size=64", f"score={score}", "export=[{format: voc}]"]
    return ["run", name, *(word for item in sets for word in ("--set", item))]


def make_arms(work: Path, names: list[str], bucket: str) -> list[Arm]:
    """The arms that were asked for; label and train work on the samples of an undisturbed curation."""
    arms = {"curate": Arm("curate", curate_words(), "", str(work))}
    arms["s3"] = Arm("s3", curate_words(), "", f"s3://{bucket}")
    samples = str(work / "samples/samples")
    if {"label", "train"} & set(names):
        subprocess.run(arms["curate"].command(str(work / "samples"), 0, work / "log"), check=True, capture_output=True)
    settings = {"model": str(TINY.with_name("tiny_clip")), "image_side": 64, "par_iterations": 1, "min_decided": 0.0}
    label = {"labeler": "clip_cam", "label_space": "voc", "samples": samples, "settings": settings}
    segmenter = {"architecture": "fpn", "weights": "random"}
    steps = {"steps": 4, "batch": 2, "segmenter": segmenter, "augment": {"size": 32}}
    train = {"label_space": "voc", "data": {"samples": samples}, "val": {"samples": samples}, "settings": steps}
    for name, words, config in (("label", ["label", "shards"], label), ("train", ["train"], train)):
        path = work / f"{name}.yaml"
        path.write_text(yaml.safe_dump(config))
        arms[name] = Arm(name, [*words, str(path)], "--out", str(work))
    return [arms[name] for name in names]


def tree(folder: str) -> dict[str, str]:
    """Hash of every file by its path."""
    fs, root = fsspec.core.url_to_fs(folder)
    fs.invalidate_cache()
    paths = [p for p in fs.find(root) if p.rsplit("/", 1)[-1] not in LEFT_OUT and "/cache/" not in p]
    return {p[len(root) :]: hashlib.blake2b(fs.cat_file(p)).hexdigest() for p in paths}


def shards(folder: str) -> dict[str, int]:
    """Inode of every shard that is in place: one that is written again gets another."""
    return {str(p): p.stat().st_ino for p in Path(folder).rglob("*.parquet")} if "://" not in folder else {}


def killed(arm: Arm, folder: str, at: int, seconds: float | None, log: Path) -> bool:
    """Start the command and kill it; False where it was done first."""
    process = subprocess.Popen(
        arm.command(folder, at, log), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        return process.wait(timeout=seconds) == -signal.SIGKILL
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return True


def measure(arm: Arm, kills: int, work: Path) -> dict[str, float]:
    """Kill the arm's command `kills` times, each in a folder of its own, and finish it each time."""
    log, whole = work / "log", f"{arm.base}/{arm.name}-whole"
    started = time.perf_counter()
    subprocess.run(arm.command(whole, 0, log), check=True, capture_output=True)
    seconds, events, wanted = time.perf_counter() - started, int(log.read_text()), tree(whole)
    rng = random.Random(arm.name)
    same = recomputed = leftovers = 0
    for number in range(kills):
        folder = f"{arm.base}/{arm.name}-{number}"
        if number % 3 == 2:
            landed = killed(arm, folder, 0, rng.uniform(0.2, 0.95) * seconds, log)
        else:
            landed = killed(arm, folder, 1 + number * (events - 1) // max(1, kills - 1), None, log)
        before = shards(folder)
        done = subprocess.run(arm.command(folder, 0, log), capture_output=True, text=True, check=False)
        after, found = shards(folder), tree(folder)
        fine = done.returncode == 0 and found == wanted
        same += fine
        recomputed += sum(after.get(path) != inode for path, inode in before.items())
        leftovers += len(set(found) - set(wanted))
        if not fine:
            print(f"{folder}: exit {done.returncode}, {_differences(found, wanted)} {done.stderr[-300:]}", flush=True)
        print(f"{arm.name} {number + 1}/{kills}: killed {landed}, same {fine}", flush=True)
    return {
        "kills": kills,
        "identical": same / max(1, kills),
        "recomputed_shards": recomputed,
        "leftovers": leftovers,
    }


def _differences(found: dict[str, str], wanted: dict[str, str]) -> list[str]:
    return sorted(path for path in {*found, *wanted} if found.get(path) != wanted.get(path))[:5]


def total(metrics: dict[str, dict[str, float]]) -> dict[str, float]:
    """Over all arms: the worst share, the sums of the rest."""
    kills = sum(m["kills"] for m in metrics.values())
    same = sum(m["identical"] * m["kills"] for m in metrics.values())
    summed = {name: sum(m[name] for m in metrics.values()) for name in ("recomputed_shards", "leftovers")}
    return {"kills": kills, "identical": same / max(1, kills), **summed}


def serve() -> Any:
    """An S3 server of our own, and the environment that leads to it; returns the server."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    keys = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_DEFAULT_REGION": "us-east-1"}
    os.environ.update(keys, AWS_ENDPOINT_URL=f"http://{host}:{port}")
    fsspec.filesystem("s3").mkdir("kills")
    return server


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kills", type=int, default=100, help="in all, spread evenly over the arms")
    parser.add_argument("--arms", default="curate,label,train,s3")
    parser.add_argument("--json", type=Path, required=True)
    given = parser.parse_args()
    names = given.arms.split(",")
    server = serve() if "s3" in names else None
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="kill-anywhere-") as folder:
        arms = make_arms(Path(folder), names, "kills")
        shares = [given.kills // len(arms) + (i < given.kills % len(arms)) for i in range(len(arms))]
        metrics = {arm.name: measure(arm, share, Path(folder)) for arm, share in zip(arms, shares, strict=True)}
    metrics["all"] = total(metrics)
    for name, values in metrics.items():
        print(name, values)
    result = {"name": "kill_anywhere", "wall_s": round(time.perf_counter() - started, 1), "metrics": metrics}
    given.json.write_text(json.dumps(result, indent=2) + "\n")
    if server is not None:
        server.stop()


if __name__ == "__main__":
    main()
