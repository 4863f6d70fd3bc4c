"""What the demo and the tests have in place of a real deployment: a packaged checkpoint, a stand-in, a scripted teacher.

May: use everything that a deployment uses.
May not: be imported by any other room; only the environment tells the demo from a real deployment.
"""
