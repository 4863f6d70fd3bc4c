"""Stand-ins for a real deployment: a packaged checkpoint, a hosted model, a scripted teacher.

May: use everything that a deployment uses.
May not: be imported by any room but `cli`; only the environment tells the demo from a deployment.
"""
