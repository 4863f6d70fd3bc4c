"""One Langfuse trace for each run: written to the run's outbox first, delivered afterwards.

May: write `trace.jsonl` and `delivered.jsonl` in a run's folder, call Langfuse.
May not: touch any other file, know what is evaluated or trained.
"""
