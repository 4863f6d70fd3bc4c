"""Fine-tuning: chats, their labels and the proof of them, Unsloth and TRL, the adapter and its run card.

May: read rows and decisions, write `04_ft/`.
May not: score an answer.
"""
