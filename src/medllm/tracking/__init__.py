"""The record of a run: the only place besides evaluation that imports mlflow."""
