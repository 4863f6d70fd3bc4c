"""From a question to a decision: asks models, scores and compares runs, applies the rule.

May: ask models, write run folders and `05_eval/*.json`, use statsmodels and scipy, print a line
about what is asked, decided or left out.
May not: train, plot or make tables.
"""
