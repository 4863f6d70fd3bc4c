"""Tools on money and growth; rates are decimals unless stated, and nothing is rounded."""


def cagr(start_value: float, end_value: float, years: int) -> float:
    """The rate that leads from the start to the end value when it compounds yearly."""
    return (end_value / start_value) ** (1 / years) - 1


def calculate_order_total(items: list[str], quantities: list[int], prices: list[float]) -> float:
    """The sum of quantities times prices, one of each for every item."""
    return sum(
        quantity * price for _, quantity, price in zip(items, quantities, prices, strict=True)
    )


def compound_interest(principal: float, rate: float, time: float, n: int = 1) -> float:
    """The interest alone, without the principal, compounding n times a year."""
    return principal * (1 + rate / n) ** (n * time) - principal


def future_investment_value(present_value: float, annual_interest_rate: float, years: int) -> float:
    """The value at the end when interest compounds yearly."""
    return present_value * (1 + annual_interest_rate) ** years


def investment_profit(amount: float, rate: float, years: int) -> float:
    """The gain alone, without the amount, when returns compound yearly."""
    return amount * (1 + rate) ** years - amount


def monthly_mortgage_payment(
    loan_amount: float, annual_interest_rate: float, loan_term_years: int
) -> float:
    """The equal monthly payment that pays back a loan, at a twelfth of the annual rate a month."""
    rate, months = annual_interest_rate / 12, 12 * loan_term_years
    return loan_amount * rate / (1 - (1 + rate) ** -months) if rate else loan_amount / months


def project_population(current_pop: int, num_years: int, annual_growth: float = 1.2) -> float:
    """The population after some years of growth in percent, not rounded."""
    return current_pop * (1 + annual_growth / 100) ** num_years
