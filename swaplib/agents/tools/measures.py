"""Tools on samples, vectors, shapes and motion."""

import math
import statistics


def average(numbers: list[float]) -> float:
    """The arithmetic mean."""
    return sum(numbers) / len(numbers)


def calculate_distance(point1: list[float], point2: list[float]) -> float:
    """The Euclidean distance between two points of any dimension."""
    return math.dist(point1, point2)


def calculate_electric_field(
    charge: float, distance: float, permitivity: float = 8.854e-12
) -> float:
    """The field of a point charge: charge / (4 pi permitivity distance²)."""
    return charge / (4 * math.pi * permitivity * distance**2)


def calculate_grade(scores: list[float], weights: list[float]) -> float:
    """The mean of scores, weighted."""
    return sum(score * weight for score, weight in zip(scores, weights, strict=True)) / sum(weights)


def calculate_median(numbers: list[float]) -> float:
    """The middle number in order, or the mean of the two in the middle."""
    return statistics.median(numbers)


def calculate_standard_deviation(numbers: list[float]) -> float:
    """The standard deviation of the numbers as a whole population."""
    return statistics.pstdev(numbers)


def circle_area(radius: float) -> float:
    """Pi times the radius squared."""
    return math.pi * radius**2


def cosine_similarity(vector_a: list[float], vector_b: list[float]) -> float:
    """The cosine of the angle between two vectors."""
    product = sum(a * b for a, b in zip(vector_a, vector_b, strict=True))
    return product / (math.hypot(*vector_a) * math.hypot(*vector_b))


def displacement(initial_velocity: float, acceleration: float, time: float) -> float:
    """How far a body moves: v t + a t² / 2."""
    return initial_velocity * time + acceleration * time**2 / 2


def euclidean_distance(point_a: list[float], point_b: list[float]) -> float:
    """The distance between two points of a plane."""
    return math.dist(point_a, point_b)


def final_velocity(initial_velocity: float, acceleration: float, time: float) -> float:
    """A body's velocity at the end: v + a t."""
    return initial_velocity + acceleration * time


def linear_regression_prediction(
    x_values: list[float], y_values: list[float], target_x: float
) -> float:
    """The value at target_x of the least-squares line through the points."""
    slope, intercept = statistics.linear_regression(x_values, y_values)
    return intercept + slope * target_x


def matrix_multiply(matrix_a: list[list[float]], matrix_b: list[list[float]]) -> list[list[float]]:
    """The product of two matrices, given row by row."""
    columns = list(zip(*matrix_b, strict=True))
    return [
        [sum(a * b for a, b in zip(row, column, strict=True)) for column in columns]
        for row in matrix_a
    ]


def polygon_area_shoelace(vertices: list[list[float]]) -> float:
    """The area of a polygon from its corners in order."""
    pairs = zip(vertices, [*vertices[1:], vertices[0]], strict=True)
    return abs(sum(a[0] * b[1] - b[0] * a[1] for a, b in pairs)) / 2


def potential_energy(charge: float, voltage: float) -> float:
    """Charge times voltage."""
    return charge * voltage


def std_deviation(numbers: list[float]) -> float:
    """The standard deviation of the numbers as a whole population."""
    return statistics.pstdev(numbers)


def triangle_area(base: float, height: float) -> float:
    """Half of base times height."""
    return base * height / 2
