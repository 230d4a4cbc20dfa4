"""The pictures of the docs, each drawn by a module of its own, and how `benchmarks.weclip` lays out its own."""
