"""The benchmark of clips, `python -m benchmarks.ftmu`, and its toy world, `python -m benchmarks.ftmu_toy`."""
