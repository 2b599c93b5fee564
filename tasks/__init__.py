"""The work: plain typed functions, one file per stage of dvc.yaml beside what the stages share. No Prefect here."""
