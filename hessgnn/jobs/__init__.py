"""Runs as jobs: what a job is, the processes that do them, the folder that they are kept in."""
