"""Tools on lists, dictionaries, intervals and boards."""

import heapq
import itertools
from collections import Counter
from typing import Any


def binary_search(arr: list[int], target: int) -> int:
    """The index of a value in a sorted list, or -1."""
    low, high = 0, len(arr) - 1
    while low <= high:
        middle = (low + high) // 2
        if arr[middle] == target:
            return middle
        low, high = (middle + 1, high) if arr[middle] < target else (low, middle - 1)
    return -1


def can_attend_all_meetings(intervals: list[list[float]]) -> bool:
    """Whether no two meetings overlap; one may start when another ends."""
    ordered = sorted(intervals)
    return all(earlier[1] <= later[0] for earlier, later in itertools.pairwise(ordered))


def count_occurrences(lst: list[Any]) -> dict[Any, int]:
    """How often each element occurs."""
    return dict(Counter(lst))


def find_duplicate_number(nums: list[int]) -> int:
    """The first number that occurs a second time.

    Raises:
        ValueError: No number does.
    """
    seen = set()
    for number in nums:
        if number in seen:
            return number
        seen.add(number)
    raise ValueError("no number occurs twice")


def find_kth_smallest_number(nums: list[float], k: int) -> float:
    """The kth number of the list in ascending order, k from 1.

    Raises:
        ValueError: There is no kth number.
    """
    if not 1 <= k <= len(nums):
        raise ValueError(f"k must be from 1 to {len(nums)}")
    return sorted(nums)[k - 1]


def find_majority_element(nums: list[int]) -> int | None:
    """The element that is more than half of the list, or None."""
    element, n = Counter(nums).most_common(1)[0]
    return element if n > len(nums) // 2 else None


def find_max_subarray_sum(nums: list[int]) -> int:
    """The greatest sum of adjacent numbers, at least one of them."""
    best = ending = nums[0]
    for number in nums[1:]:
        ending = max(number, ending + number)
        best = max(best, ending)
    return best


def find_minimum_rotated_sorted_array(nums: list[int]) -> int:
    """The least element of a sorted list that was rotated."""
    return min(nums)


def find_missing_number(nums: list[int]) -> int:
    """The number from 0 to the list's length that is not in it."""
    return sum(range(len(nums) + 1)) - sum(nums)


def find_missing_ranges(nums: list[int], lower: int, upper: int) -> list[list[int]]:
    """The ranges of missing numbers from lower to upper, both included: pairs of first and last."""
    edges = [lower - 1, *nums, upper + 1]
    return [[a + 1, b - 1] for a, b in itertools.pairwise(edges) if b - a > 1]


def find_n_largest_numbers(nums: list[float], n: int) -> list[float]:
    """The n greatest numbers, greatest first."""
    return sorted(nums, reverse=True)[:n]


def find_next_greater_element(nums: list[int]) -> list[int]:
    """For each element the first greater one to its right, or -1."""
    return [
        next((later for later in nums[i + 1 :] if later > number), -1)
        for i, number in enumerate(nums)
    ]


def find_pairs_with_sum(nums: list[int], target: int) -> list[list[int]]:
    """All pairs of two elements with this sum, in the order of the list."""
    return [[a, b] for i, a in enumerate(nums) for b in nums[i + 1 :] if a + b == target]


def flatten_list(nested_list: list[Any]) -> list[Any]:
    """The elements of a list and of the lists in it, however deep, as one list."""
    flat: list[Any] = []
    for element in nested_list:
        flat.extend(flatten_list(element) if isinstance(element, list) else [element])
    return flat


def is_valid_sudoku(board: list[list[Any]]) -> bool:
    """Whether no row, column or box of a 9x9 board has a digit twice; `.` is an empty cell."""
    seen: set[tuple[Any, ...]] = set()
    for r, row in enumerate(board):
        for c, cell in enumerate(row):
            places = {
                ("row", r, str(cell)),
                ("column", c, str(cell)),
                ("box", r // 3, c // 3, str(cell)),
            }
            if cell != "." and seen & places:
                return False
            seen |= places if cell != "." else set()
    return True


def merge_dictionaries(dict1: dict[str, Any], dict2: dict[str, Any]) -> dict[str, Any]:
    """Both dictionaries in one; where both have a key, the second one's value."""
    return {**dict1, **dict2}


def min_meeting_rooms(intervals: list[list[float]]) -> int:
    """How many rooms the meetings need; a room is free when its meeting ends."""
    ends: list[float] = []
    for start, end in sorted(intervals):
        if ends and ends[0] <= start:
            heapq.heapreplace(ends, end)
        else:
            heapq.heappush(ends, end)
    return len(ends)


def remove_duplicates(lst: list[Any]) -> list[Any]:
    """The elements in their order, each the first time only."""
    return list(dict.fromkeys(lst))


def sort_numbers(numbers: list[float], descending: bool = False) -> list[float]:
    """The numbers in ascending order, or in descending order."""
    return sorted(numbers, reverse=descending)
