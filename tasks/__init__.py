"""The work: plain typed functions, one file per stage of dvc.yaml beside what the stages share. No Prefect here."""

from tasks.errors import explain_interruption

explain_interruption()
