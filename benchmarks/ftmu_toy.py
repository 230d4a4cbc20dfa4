"""The door to the toy world of `benchmarks.ftmu.toy`: python -m benchmarks.ftmu_toy --seeds 0,1,2 --json FILE"""

from benchmarks.ftmu.toy_run import main

if __name__ == "__main__":
    main()
