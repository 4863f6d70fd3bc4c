"""Tools on texts."""

import ipaddress
import re
from collections import Counter
from datetime import datetime


def _letters(text: str) -> str:
    return "".join(character for character in text.lower() if character.isalnum())


def binary_addition(a: str, b: str) -> str:
    """The sum of two binary numbers, as a binary text."""
    return bin(int(a, 2) + int(b, 2))[2:]


def count_vowels(text: str) -> int:
    """How many of a, e, i, o, u there are, in either case."""
    return sum(character in "aeiou" for character in text.lower())


def find_longest_palindromic_substring(s: str) -> str:
    """The longest part that reads the same both ways, by characters; the first of several."""
    best = ""
    for center in range(2 * len(s) - 1):
        left, right = center // 2, (center + 1) // 2
        while left >= 0 and right < len(s) and s[left] == s[right]:
            left, right = left - 1, right + 1
        if right - left - 1 > len(best):
            best = s[left + 1 : right]
    return best


def find_longest_word(words: list[str]) -> str:
    """The longest word; the first of several."""
    return max(words, key=len)


def format_date(date: str, input_format: str, output_format: str) -> str:
    """A date in another format, both given as strptime writes them."""
    return datetime.strptime(date, input_format).strftime(output_format)


def is_anagram_phrase(phrase1: str, phrase2: str) -> bool:
    """Whether two phrases have the same letters and digits; case and all else are ignored."""
    return Counter(_letters(phrase1)) == Counter(_letters(phrase2))


def is_palindrome(text: str) -> bool:
    """Whether letters and digits read the same both ways; case and all else are ignored."""
    return _letters(text) == _letters(text)[::-1]


def is_rotation(str1: str, str2: str) -> bool:
    """Whether the second text is the first one, cut in two and put together the other way round."""
    return len(str1) == len(str2) and str2 in str1 + str1


def is_valid_email(email: str) -> bool:
    """Whether a text has an address's form: a name, @, and a domain of at least two parts.

    A part is letters, digits and hyphens; the last one is at least two letters.
    """
    form = r"[\w.%+-]+@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*\.[A-Za-z]{2,}"
    return re.fullmatch(form, email) is not None


def is_valid_ip_address(ip: str) -> bool:
    """Whether a text is an IPv4 address."""
    try:
        return bool(ipaddress.IPv4Address(ip))
    except ValueError:
        return False


def is_valid_parentheses(s: str) -> bool:
    """Whether round, square and curly brackets close in order; other characters do not count."""
    openers = {")": "(", "]": "[", "}": "{"}
    unclosed: list[str] = []
    for character in s:
        if character in openers.values():
            unclosed.append(character)
        elif character in openers and (not unclosed or unclosed.pop() != openers[character]):
            return False
    return not unclosed


def longest_common_prefix(strs: list[str]) -> str:
    """The longest beginning that all texts share."""
    first, last = min(strs), max(strs)
    for i, character in enumerate(first):
        if i >= len(last) or character != last[i]:
            return first[:i]
    return first


def reverse_string(text: str) -> str:
    """The characters in reverse order."""
    return text[::-1]


def reverse_words(sentence: str) -> str:
    """The words, separated by white space, in reverse order."""
    return " ".join(sentence.split()[::-1])


def word_frequency(text: str) -> dict[str, int]:
    """How often each word occurs, in lower case; a word is letters, digits and apostrophes."""
    return dict(Counter(re.findall(r"[\w']+", text.lower())))
