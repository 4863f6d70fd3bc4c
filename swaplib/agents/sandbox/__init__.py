"""The closed room: runs code that a model wrote in a process of its own, behind walls of the kernel.

May: start and end processes, call `swaplib.agents.tools` for the code inside.
May not: import anything else of this package but `masking` and `settings`; `child` runs without site-packages.
"""
