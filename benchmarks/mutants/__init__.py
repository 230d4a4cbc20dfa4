"""Do the tests notice? One-line changes of the code, each of which some test should fail for.

`tables/` holds them by room; `python -m benchmarks.mutants --room curation/sds --json F` runs them.
"""
