"""Stages: shard in, shard out, resumable, one module a stage. No Prefect in here."""
