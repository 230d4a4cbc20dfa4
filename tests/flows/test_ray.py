"""Two nodes of a Ray cluster, the run folder on S3: a worker is killed, then a node, and the dataset is the same."""

from pathlib import Path

import pytest

from benchmarks import ray_two_nodes

pytestmark = pytest.mark.slow
DATA = Path(__file__).resolve().parent.parent / "data"
TINY = {"model": str(DATA / "tiny_clip_timm"), "image_side": 64, "refine": "none"}


def test_a_killed_worker_and_a_lost_node_change_nothing(tmp_path: Path) -> None:
    pytest.importorskip("prefect_ray", reason="needs the extra `ray`")
    told = {**ray_two_nodes.changes(24, 0), "shard_size": 2, "source.scene.size": 64, "score": TINY}
    with ray_two_nodes.bench(tmp_path) as servers:
        wanted = servers.whole(told)
        assert any("/scores/" in name for name in wanted.files)
        found = servers.arm(told, wanted, count=2, kills=True)
        assert found["identical"] == 1
        assert len(servers.nodes.nodes) == 1, "one was lost"
