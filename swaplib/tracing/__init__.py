"""One Langfuse trace for each run, or each request of a server: on disk first, then delivered.

May: write `trace.jsonl` and `delivered.jsonl` in a run's folder, call Langfuse.
May not: touch any other file, know what is evaluated or trained.
"""
