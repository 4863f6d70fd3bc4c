"""SLM swap: can a small local model replace the hosted LLM? Decided row by row, with evidence."""
