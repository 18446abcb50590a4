"""Loggers: where the records of a run are shown besides `metrics.jsonl`, one per file."""
