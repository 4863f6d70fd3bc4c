"""SLM swap: decide whether a small local model can replace the hosted LLM, one row of evidence at a time."""
