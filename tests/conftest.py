"""What all tests share: property tests that do not depend on how busy the machine is, and one thread a process."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests run in several processes; threads on top only wait for each other
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")

from hypothesis import settings

settings.register_profile("maskmill", deadline=None, derandomize=True)
settings.load_profile("maskmill")
