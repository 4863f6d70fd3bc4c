"""Models that answer: the hosted LLM, a local checkpoint, an SLM served elsewhere.

And their names, templates and grammars.

May: open checkpoints, call endpoints, use torch.
May not: see a row's gold, score an answer, touch a run's folder.
"""
