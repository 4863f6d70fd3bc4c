"""Rows and their facts: made from xLAM or your own files, split, audited, written to `02_dataset/`.

May: read source files, write `02_dataset/`.
May not: ask a model, load a tokenizer, know of runs.
"""
