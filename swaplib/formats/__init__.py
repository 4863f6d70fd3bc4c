"""The JSON files that notebooks hand to each other, as types.

A type says which keys a file has and what they mean. `NotRequired` keys are missing from some
files: older ones, or those that the key's text names. A rate is a number in 0..1, an interval a 95%
one, and every sha256 is 64 hexadecimal digits. Rows are numbered from 0.

May: say what a file holds; be imported by every other room.
May not: read or write a file, check anything while the program runs, import another room or
anything but the standard library.
"""
