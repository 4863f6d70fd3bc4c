"""Notebooks run from the command line, with checked parameters, and their reports as HTML.

May: execute notebooks, write executed ones and their HTML to `05_eval/reports/`.
May not: change a notebook's source, compute what a notebook shows.
"""
