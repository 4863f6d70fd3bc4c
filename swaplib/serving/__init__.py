"""`swap serve`: a local SLM behind OpenAI's chat completion API, and the process that runs it.

May: listen on a socket, use a model that `swaplib.models` has loaded.
May not: read or write run folders, score, train.
"""
