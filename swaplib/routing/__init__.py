"""Which answers of the SLM are good enough to send, and who answers the others: chosen and served.

May: read ledgers and choose on val, write `05_eval/<track>_router.json` and what stands beside it,
ask the hosted LLM for a request that `swap serve --route` has refused.
May not: ask a model for a row, score an output, change what a model said.
"""
