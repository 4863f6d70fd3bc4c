"""Tools on whole numbers, dates, equations and probabilities."""

import math
from fractions import Fraction


def batting_average(num_hits: int, num_at_bats: int, precision: int = 3) -> float:
    """Hits divided by at-bats, rounded."""
    return round(num_hits / num_at_bats, precision)


def calculate_angle(hour: int, minute: int) -> float:
    """The smaller angle between a clock's hands, in degrees."""
    apart = abs(30 * (hour % 12) - 5.5 * minute)
    return min(apart, 360 - apart)


def calculate_factorial(n: int) -> int:
    """The factorial of a number that is not negative."""
    return math.factorial(n)


def dice_roll_probability(target_sum: int, num_dice: int, num_faces: int = 6) -> float:
    """The probability that dice show a sum."""
    ways = {0: 1}
    for _ in range(num_dice):
        rolled: dict[int, int] = {}
        for total, n in ways.items():
            for face in range(1, num_faces + 1):
                rolled[total + face] = rolled.get(total + face, 0) + n
        ways = rolled
    return float(Fraction(ways.get(target_sum, 0), num_faces**num_dice))


def factorial(n: int) -> int:
    """The factorial of a number that is not negative."""
    return math.factorial(n)


def fibonacci(n: int) -> int:
    """The nth Fibonacci number; the first and the second are 1."""
    a, b = 0, 1
    for _ in range(n):
        a, b = b, a + b
    return a


def fibonacci_numbers(n: int) -> list[int]:
    """The first n Fibonacci numbers, from 0."""
    numbers = [0, 1]
    while len(numbers) < n:
        numbers.append(numbers[-1] + numbers[-2])
    return numbers[:n]


def greatest_common_divisor(a: int, b: int) -> int:
    """The greatest number that divides both."""
    return math.gcd(a, b)


def is_armstrong_number(num: int) -> bool:
    """Whether a number equals the sum of its digits, each to the power of how many there are."""
    return num == sum(int(digit) ** len(str(num)) for digit in str(num))


def is_leap_year(year: int) -> bool:
    """Whether a year of the Gregorian calendar has 366 days."""
    return year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)


def is_perfect_square(num: int) -> bool:
    """Whether a number is the square of a whole number."""
    return num >= 0 and math.isqrt(num) ** 2 == num


def is_power(num: int, base: int) -> bool:
    """Whether a number is the base to the power of a whole number, 0 included."""
    if base in (0, 1) or num < 1:
        return num in (base, 1)
    while num % base == 0:
        num //= base
    return num == 1


def is_power_of_two(num: int) -> bool:
    """Whether a number is 2 to the power of a whole number, 0 included."""
    return num > 0 and num & (num - 1) == 0


def is_prime(num: int) -> bool:
    """Whether a number above 1 has no divisor but 1 and itself."""
    return num > 1 and all(num % divisor for divisor in range(2, math.isqrt(num) + 1))


def is_sum_of_cubes(num: int) -> bool:
    """Whether a number equals the sum of the cubes of its digits."""
    return num == sum(int(digit) ** 3 for digit in str(num))


def least_common_multiple(a: int, b: int) -> int:
    """The least number that both divide."""
    return math.lcm(a, b)


def permutation_count(n: int, k: int) -> int:
    """In how many orders k of n elements can be drawn."""
    return math.perm(n, k)


def probability_of_consecutive_rolls(
    target_value: int, num_rolls: int, num_sides: int = 6
) -> float:
    """The probability that every one of the rolls shows the value."""
    return float(Fraction(1, num_sides) ** num_rolls) if 1 <= target_value <= num_sides else 0.0


def solve_quadratic(a: float, b: float, c: float) -> list[float]:
    """Both roots, the one with the plus first (equal ones twice).

    Raises:
        ValueError: The roots are not real.
    """
    square = b * b - 4 * a * c
    if square < 0:
        raise ValueError("the roots are not real")
    return [(-b + math.sqrt(square)) / (2 * a), (-b - math.sqrt(square)) / (2 * a)]
