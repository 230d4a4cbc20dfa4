"""Stages: shard in, shard out, resumable, one module a stage. No Prefect in here."""

import maskmill  # noqa: F401 - in a checkout: one module under one name
