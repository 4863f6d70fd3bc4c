"""What you read: tables, sentences, headlines and figures for the notebooks.

May: format and draw what it is given.
May not: read or write files, ask models, compute what no file holds.
"""
