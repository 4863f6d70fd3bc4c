"""The sandbox: runs code that a model wrote, in a process of its own, behind walls of the kernel.

May: start and end processes, call `swaplib.agents.tools`, or your own tools, for the code inside.
May not: import anything else of this package but `masking`; `child` runs without site-packages.
"""
