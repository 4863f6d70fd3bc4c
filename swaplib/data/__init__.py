"""Rows and their facts: made from xLAM or taken from your own files, split, audited and written to `02_dataset/`.

May: read source files, write `02_dataset/`.
May not: ask a model, load a tokenizer, know of runs.
"""
