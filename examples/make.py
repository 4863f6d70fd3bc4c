"""Makes the rows of the two example tasks, invoices/ and home/: each gold follows from its request.

`python examples/make.py` writes the same bytes every time. People, companies and invoices are made
up. What could be read in two ways is left out: no total without cents (1250 and 1250.0 are not the
same JSON), no 03/04/2024, no request that states a default. home/tools.json and
invoices/schema.json are written by hand.
"""

import json
import random
import sys
from collections.abc import Callable
from datetime import date, timedelta
from itertools import combinations
from pathlib import Path
from typing import Any

from swaplib.data.tool_schemas import format_signature, parse_tool
from swaplib.metrics import format_tool_call
from swaplib.prompts import ROW_PROMPTS, build_prompt
from swaplib.rows import Row, write_rows

ROWS, SEED = 180, 42
HERE = Path(__file__).resolve().parent

INVOICE_PROMPT = """\
Read the invoice and fill in a JSON object with these keys. Reply with the JSON object only.
vendor: the seller's name, as written
invoice_number: as written, as a text
date: the invoice date, as YYYY-MM-DD
total: the amount to pay, taxes included, as a number
currency: the three-letter code, such as EUR
Use null for what the invoice does not say.

Invoice:
{text}"""

STEMS = (
    "Quillmarsh Tarnvale Ostrebeck Veldora Pimmington Haldersby "
    "Corvane Mistlow Brackenfell Ilverton Sundrake Wexholm"
)
TRADES = (
    "Papers Joinery Optics Catering Roofing Textiles "
    "Ceramics Printing Gardens Lighting Cycles Software"
)
BUYERS = (
    "Ambleford Library, Kestrelby School, Odd Lantern Theatre, "
    "Museum of Gravel, Nettlecombe Clinic, Dunmarl Choir"
)
GOODS = (
    "oak shelf, desk lamp, copy paper A4, roof tiles, linen curtain, poster print, "
    "hedge trimming, door hinge, tea service, soup buffet, server hosting, ink cartridge, "
    "wool blanket, garden bench, safety helmet, brass handle, bicycle repair"
)
PLACES = (
    "14 Mill Lane, 3 Pond Street, 77 Upper Row, 5 Tollgate, "
    "120 Birch Avenue, 9 Ferry Road, 41 Chapel Hill, 8 Lime Walk"
)

# A line whose value the invoice does not say is left out.
LAYOUTS = (
    (
        "{vendor}\n{place} - VAT ID {vat_id}\n\nINVOICE\nInvoice no.: {number}\n"
        "Invoice date: {date}\nYour order: {order}\nBill to: {buyer}\n\n{items}\n\n"
        "Subtotal  {net}\nVAT {rate}%  {tax}\nTotal due  {total}\nPayable by {due}"
    ),
    (
        "Seller | {vendor} | VAT {vat_id}\nBuyer | {buyer} | customer {customer_no}\n"
        "Delivered | {delivered}\nIssued | {date}\nOrder | {order}\nInvoice | {number}\n---\n"
        "{items}\n---\nnet | {net}\ntax {rate}% | {tax}\namount to pay | {total}"
    ),
    (
        "From: {vendor}\nTo: {buyer}\nSubject: your order {order}\n\nHello,\n"
        "thank you for your order. We charge:\n{items}\n"
        "That is {net} before and {total} after {rate}% tax ({tax}).\n"
        "Our invoice has the number {number}.\nIt was issued on {date}.\n"
        "Please transfer the money by {due} and name your customer number {customer_no}."
    ),
    (
        "*** {vendor} ***\n{place} / tax no. {vat_id}\nsold to {buyer}\nORDER# {order}\n"
        "INV# {number}\n{items}\nNET {net}\nTAX {rate}% {tax}\nTOTAL {total}\nINV DATE {date}\n"
        "DUE {due}"
    ),
    (
        "{vendor}, {place}\nRechnung an: {buyer}\nRechnungsnummer: {number}\n"
        "Rechnungsdatum: {date}\nLieferdatum: {delivered}\nBestellnummer: {order}\n"
        "Kundennummer: {customer_no}\n{items}\nZwischensumme: {net}\nMwSt. {rate}%: {tax}\n"
        "Rechnungsbetrag: {total}\nUSt-IdNr.: {vat_id}"
    ),
    (
        "order = {order}\ninvoice = {number}\nshipped = {delivered}\ninvoice_date = {date}\n"
        "pay_until = {due}\nbuyer = {buyer}\nseller = {vendor}\n{items}\nsum_without_tax = {net}\n"
        "tax_{rate}_percent = {tax}\nsum_with_tax = {total}"
    ),
)
NUMBERS = ("INV-{y}-{n}", "R/{n}-{s}", "{y}-{n}", "F{y}{n}", "A {n}.{s}")
MONEY = {  # how an amount is written: before, after, thousands, decimal point
    "EUR": [
        ("EUR ", "", ",", "."),
        ("", " €", ".", ","),
        ("€", "", ",", "."),
        ("", " EUR", " ", ","),
    ],
    "GBP": [("£", "", ",", "."), ("GBP ", "", "", ".")],
    "USD": [("US$", "", ",", "."), ("", " USD", ",", ".")],
    "CHF": [("CHF ", "", "'", "."), ("", " CHF", "'", ".")],
    None: [("", "", ",", "."), ("", "", ".", ","), ("", "", "", ".")],
}


def write_money(cents: int, style: tuple[str, str, str, str]) -> str:
    """An amount as an invoice writes it; `style` as in MONEY."""
    before, after, thousands, point = style
    return f"{before}{cents // 100:,}".replace(",", thousands) + f"{point}{cents % 100:02}{after}"


def write_date(day: date, style: int) -> str:
    """A date in one of five ways; the last two are unambiguous only when the day is beyond 12."""
    forms = ("%Y-%m-%d", f"{day.day} %B %Y", f"%B {day.day}, %Y", "%d.%m.%Y", "%d/%m/%Y")
    return day.strftime(forms[style])


def draw_money(draw: random.Random) -> tuple[dict[str, str], int, str | None]:
    """The items and sums of an invoice as it writes them, the total in cents, and the currency."""
    currency = draw.choice(["EUR", "EUR", "EUR", "GBP", "GBP", "USD", "USD", "CHF", None])
    style = draw.choice(MONEY[currency])
    while True:
        counts = [draw.choice((1, 2, 3, 4, 6, 10, 12)) for _ in range(draw.randint(2, 4))]
        prices = [draw.randint(390, 48_900) for _ in counts]
        net = sum(n * price for n, price in zip(counts, prices, strict=True))
        rate = draw.choice((7, 8, 19, 20))
        tax = (net * rate + 50) // 100
        if (net + tax) % 100:
            break
    goods = draw.sample(GOODS.split(", "), len(counts))
    items = zip(counts, goods, prices, strict=True)
    lines = [f"{n} x {what} at {write_money(price, style)}" for n, what, price in items]
    sums = {"net": net, "tax": tax, "total": net + tax}
    written = {name: write_money(cents, style) for name, cents in sums.items()}
    return {"items": "\n".join(lines), "rate": str(rate), **written}, net + tax, currency


def draw_invoice(draw: random.Random) -> Row:
    """An invoice in one of the layouts, and what it says."""
    written, cents, currency = draw_money(draw)
    style = draw.randrange(5)
    day = date(
        draw.choice((2023, 2024, 2025)),
        draw.randint(1, 12),
        draw.randint(13 if style > 2 else 1, 28),
    )
    number = draw.choice(NUMBERS).format(y=day.year, s=day.year % 100, n=draw.randint(1000, 9999))
    names = (STEMS, TRADES, "Ltd GmbH SARL LLC AG")
    vendor = " ".join(draw.choice(parts.split()) for parts in names)
    number, issued = (None if draw.random() < 0.12 else value for value in (number, day))
    fields = written | {
        "vendor": vendor,
        "number": number,
        "date": issued and write_date(issued, style),
        "due": write_date(day + timedelta(draw.choice((10, 14, 30))), style),
        "delivered": write_date(day - timedelta(draw.randint(2, 20)), style),
        "buyer": draw.choice(BUYERS.split(", ")),
        "place": draw.choice(PLACES.split(", ")),
        "order": f"{draw.choice(('PO-', '45', 'B'))}{draw.randint(10_000, 99_999)}",
        "customer_no": str(draw.randint(20_000, 89_999)),
        "vat_id": f"{draw.choice(('DE', 'AT', 'GB', 'NL'))}{draw.randint(10**8, 10**9 - 1)}",
    }
    lacking = [f"{{{name}}}" for name, value in fields.items() if value is None]
    lines = draw.choice(LAYOUTS).split("\n")
    layout = "\n".join(line for line in lines if not any(name in line for name in lacking))
    text = layout.format(**fields)
    gold = {
        "vendor": vendor,
        "invoice_number": number,
        "date": issued and issued.isoformat(),
        "total": cents / 100,
        "currency": currency,
    }
    completion = json.dumps(gold, ensure_ascii=False, separators=(",", ":"))
    return Row(INVOICE_PROMPT.format(text=text), completion)


HOME_PROMPT = ROW_PROMPTS["toolcall"].replace(
    "one call of the tool below", "one call of one of the tools below"
)


TEXTS = (
    "Dinner is at eight.; Please lock the back door.; The kitchen light is still on.; I am running "
    "ten minutes late.; "
    "Can you buy milk?; Turn the heating down before you go.; The parcel is in the garage.; Set "
    "your alarm, we leave at "
    "5:30 am.; Happy birthday!; Play something calm when the guests come.; Where are the spare "
    "keys?; The bus was early."
)
CLOCKS = (
    "6:45 am=06:45, half past six in the morning=06:30, 05:15=05:15, 7:20 am=07:20, 8:05 pm=20:05, "
    "19:40=19:40, noon=12:00, "
    "10:30 pm=22:30, a quarter past nine in the evening=21:15, 07:55=07:55, 4 pm=16:00, 13:10=13:10"
)
ROOMS = ("kitchen", "living room", "bedroom", "hallway", "office")
DAY_NAMES = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday")
DAYS = {name: name[:3].lower() for name in DAY_NAMES}
TIMES = [tuple(pair.split("=")) for pair in CLOCKS.split(", ")]

# What a request may say, with what the gold has where that is something else.
VALUES: dict[str, list[Any]] = {
    "room": [(room, room.replace(" ", "_")) for room in ROOMS],
    "color": ["warm", "blue", "red", "green"],
    "brightness": list(range(5, 100, 5)),
    "celsius": [16.5, 17.5, 18.5, 19.5, 20.5, 21.5, 22.5, 23.5],
    "until": TIMES,
    "time": TIMES,
    "days": [(day, [short]) for day, short in DAYS.items()]
    + [(f"{a} and {b}", [DAYS[a], DAYS[b]]) for a, b in combinations(DAYS, 2)],
    "label": [
        "gym",
        "pills",
        "school run",
        "bins out",
        "call the plumber",
        "feed the cat",
        "early train",
    ],
    "playlist": [
        "Rainy Sunday",
        "Kitchen Disco",
        "Lights Out",
        "Slow Wake Up",
        "Front Door Blues",
        "Warm Waves",
    ],
    "volume": [1, 2, 3, 5, 6, 7, 8, 9],
    "door": ["front", "back", "garage", "garden"],
    "delay_minutes": [
        ("5 minutes", 5),
        ("ten minutes", 10),
        ("a quarter of an hour", 15),
        ("half an hour", 30),
    ],
    "to": ["Mirel", "Tovan", "Anouk", "Bram", "Ines", "Odo", "Pia", "Rufus", "Selma", "Yorick"],
    "text": TEXTS.split("; "),
}

# How people ask: the request, and the arguments that it sets in other words than a value's.
REQUESTS: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "set_light": [
        ("Turn on the light in the {room}.", {}),
        ("Dim the {room} to {brightness} percent.", {}),
        ("It is too bright in the {room}, {brightness}% light is enough.", {}),
        ("Make the {room} {color}, brightness {brightness}.", {}),
        ("Lights off in the {room}, please.", {"brightness": 0}),
        ("Nobody needs the lamp in the {room} any more, switch it off.", {"brightness": 0}),
        ("Movie night! Give us {color} light at {brightness} percent in the {room}.", {}),
    ],
    "set_temperature": [
        ("Heat the {room} to {celsius} degrees.", {}),
        ("I do not feel comfortable in the {room}, make it {celsius} degrees in here.", {}),
        ("Until {until} I want {celsius} degrees in the {room}.", {}),
        ("Set the thermostat of the {room} to {celsius} and keep it there until {until}.", {}),
        ("No more than {celsius} degrees for the {room}, and only until {until}.", {}),
    ],
    "play_music": [
        ('Play "{playlist}" in the {room}.', {}),
        ('Put on "{playlist}" in the {room}, in random order.', {"shuffle": True}),
        ('Some music for the {room}: "{playlist}" at volume {volume}.', {}),
        (
            'Start the playlist "{playlist}", volume {volume}, shuffled, in the {room}.',
            {"shuffle": True},
        ),
        ('Let "{playlist}" run in the {room}, but softly: volume {volume}.', {}),
        ('Shuffle "{playlist}" on the speaker of the {room}.', {"shuffle": True}),
    ],
    "set_alarm": [
        ("Wake me at {time}.", {}),
        ("Set an alarm for {time} every {days}.", {}),
        (
            "I must get up at {time} on weekdays, from Monday to Friday.",
            {"days": ["mon", "tue", "wed", "thu", "fri"]},
        ),
        ('New alarm, {time}, call it "{label}".', {}),
        ('Every {days} at {time}: an alarm with the name "{label}".', {}),
        ("Let the clock ring at {time} on Saturdays and Sundays.", {"days": ["sat", "sun"]}),
    ],
    "lock_door": [
        ("Lock the {door} door.", {"locked": True}),
        ("Open up the {door} door for the courier: unlock it.", {"locked": False}),
        ("In {delay_minutes}, lock the {door} door.", {"locked": True}),
        (
            "I am leaving through the {door} door, lock it behind me in {delay_minutes}.",
            {"locked": True},
        ),
        ("Bedtime: see to it that the {door} door is locked.", {"locked": True}),
        ("My hands are full; please unlock the {door} door right away.", {"locked": False}),
        (
            "The children come home in {delay_minutes}; unlock the {door} door then.",
            {"locked": False},
        ),
    ],
    "send_message": [
        ('Text {to}: "{text}"', {}),
        ('Send {to} the message "{text}"', {}),
        ('Urgent message to {to}: "{text}"', {"urgent": True}),
        ('Write to {to} for me: "{text}"', {}),
        ('Let {to} know: "{text}" Mark it as urgent.', {"urgent": True}),
        ('"{text}" - that should go to {to}, please.', {}),
    ],
}


def draw_request(draw: random.Random, tools: list[dict[str, Any]]) -> Row:
    """A request for one of the tools, all of which the prompt offers, and the call it asks for."""
    tool = draw.choice(tools)
    wording, arguments = draw.choice(REQUESTS[tool["name"]])
    words, values = {}, dict(arguments)
    for name in tool["parameters"]:
        if f"{{{name}}}" in wording:
            value = draw.choice(VALUES[name])
            words[name], values[name] = value if isinstance(value, tuple) else (value, value)
    request = wording.format(**words)
    gold = {name: values[name] for name in tool["parameters"] if name in values}
    signatures = [format_signature(tool) for tool in tools]
    prompt = build_prompt("toolcall", signatures, request, HOME_PROMPT)
    return Row(prompt, format_tool_call(tool["name"], gold))


def write_task(path: Path, draw_row: Callable[[], Row]) -> None:
    """Write ROWS rows, each of which asks something that no earlier one asks."""
    rows: dict[str, Row] = {}
    while len(rows) < ROWS:
        row = draw_row()
        rows.setdefault(row.prompt, row)
    write_rows(path, rows.values())


def make_examples(folder: Path) -> None:
    """Write invoices/rows.jsonl and home/rows.jsonl below a folder."""
    draw = random.Random(SEED)  # noqa: S311 - examples, no secret
    raw_tools = json.loads((HERE / "home" / "tools.json").read_text(encoding="utf-8"))
    tools = [parse_tool(tool) for tool in raw_tools]
    write_task(folder / "invoices" / "rows.jsonl", lambda: draw_invoice(draw))
    write_task(folder / "home" / "rows.jsonl", lambda: draw_request(draw, tools))


if __name__ == "__main__":
    make_examples(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE)
