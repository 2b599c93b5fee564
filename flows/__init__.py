"""Orchestration: Prefect flows and the command line. The work itself is in tasks/."""
