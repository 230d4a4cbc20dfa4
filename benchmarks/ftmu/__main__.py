"""`python -m benchmarks.ftmu`."""

from benchmarks.ftmu.run import main

main()
