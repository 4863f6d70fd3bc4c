"""The hosted LLM's own work as training data: tasks, agent, capture, filter, build, distillation.

May: run an agent's code (in `sandbox` only), write `02_dataset/captured/`, capture runs and
adapters of captured rows.
May not: change the files of 01 to 05.
"""
