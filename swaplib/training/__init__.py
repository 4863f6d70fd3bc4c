"""Fine-tuning: chats, their proved labels, Unsloth and TRL, the adapter and its run card.

May: read rows and decisions, write `04_ft/`.
May not: score an answer.
"""
