"""Three tools of a bike workshop, and checks of its tasks.

The tables stand in for a shop's own database. Each task begins with them as they are here: what one
task books is not booked in the next.
"""

from typing import Any, Literal

Repair = Literal["flat tyre", "brake adjustment", "gear adjustment", "new chain"]
Day = Literal["monday", "tuesday", "wednesday", "thursday", "friday"]

PARTS = [
    {"id": "B-117", "part": "inner tube", "inches": 28, "price_eur": 6.5, "in_stock": 14},
    {"id": "B-120", "part": "inner tube", "inches": 26, "price_eur": 5.9, "in_stock": 3},
    {"id": "B-131", "part": "inner tube", "inches": 20, "price_eur": 5.5, "in_stock": 0},
    {"id": "T-221", "part": "tyre", "inches": 28, "price_eur": 24.9, "in_stock": 6},
    {"id": "T-228", "part": "tyre", "inches": 28, "price_eur": 41.0, "in_stock": 2},
    {"id": "T-240", "part": "tyre", "inches": 26, "price_eur": 22.5, "in_stock": 4},
    {"id": "P-305", "part": "brake pads", "inches": None, "price_eur": 9.8, "in_stock": 22},
    {"id": "C-310", "part": "chain", "inches": None, "price_eur": 18.4, "in_stock": 7},
]
LABOUR_EUR = {
    "flat tyre": 18.0,
    "brake adjustment": 15.0,
    "gear adjustment": 22.0,
    "new chain": 12.5,
}
OPEN = range(9, 18)  # hours that can be booked
BOOKED = {
    ("monday", 9): "Jo Pires",
    ("monday", 10): "Jo Pires",
    ("thursday", 9): "Mia Lund",
    ("thursday", 10): "Karl Weiss",
    ("friday", 16): "Mia Lund",
}


def find_parts(part: str, inches: int | None = None) -> list[dict[str, Any]]:
    """Find parts by their kind, with their ids, prices and how many are in stock.

    Args:
        part: The kind of part, in the singular, such as inner tube, tyre, chain; or brake pads.
        inches: The wheel size that it must fit, in inches.
    """
    return [p for p in PARTS if p["part"] == part and inches in (None, p["inches"])]


def quote_repair(repair: Repair, part_id: str | None = None) -> float:
    """Quote a repair: labour and, if one is used, the part, in euros.

    Args:
        repair: What is to be done.
        part_id: The id of the part that is used.
    """
    prices = {part["id"]: part["price_eur"] for part in PARTS}
    if part_id is not None and part_id not in prices:
        raise ValueError(f"there is no part {part_id}")
    return round(LABOUR_EUR[repair] + prices.get(part_id, 0.0), 2)


def book_slot(day: Day, hour: int, customer: str) -> str:
    """Book an hour of the workshop for a customer; fails when it is taken.

    Args:
        day: The day of the week.
        hour: When it begins, 9 to 17.
        customer: The full name.
    """
    if hour not in OPEN:
        raise ValueError(f"the workshop is closed at {hour}")
    if (day, hour) in BOOKED:
        raise ValueError(f"{day} at {hour} is taken")
    BOOKED[day, hour] = customer
    return f"{day} {hour}:00, {customer}"


def check_first_free_hour(answer: Any, calls: list[dict[str, Any]]) -> bool | str:
    """Whether Aiko Brandt has the first free hour of Monday, and no other."""
    hers = [slot for slot, customer in BOOKED.items() if customer == "Aiko Brandt"]
    return hers == [("monday", 11)] or f"she has {hers or 'no hour'}"


def check_moved_on(answer: Any, calls: list[dict[str, Any]]) -> bool | str:
    """Whether Sam Reuter has the next hour that is free behind Thursday at 9."""
    return BOOKED.get(("thursday", 11)) == "Sam Reuter" or "not booked for thursday at 11"


def check_sentence(answer: Any, calls: list[dict[str, Any]]) -> bool | str:
    """Whether a sentence names the price of two tyres T-221, and a tool was asked for it."""
    if not calls:
        return "no tool was asked"
    return (isinstance(answer, str) and "49.8" in answer) or "the sentence lacks the price, 49.80"
