"""What calls cost, in US dollars. A price that is not known is None, never 0."""

from __future__ import annotations

import math
from typing import NamedTuple

_MILLION = 1_000_000


class Price(NamedTuple):
    """US dollars for a million tokens that are read, and for a million that are written."""

    per_input: float
    per_output: float

    def of(self, input_tokens: int | None, output_tokens: int | None) -> float | None:
        """The price of a call; None where its tokens are not known."""
        if input_tokens is None or output_tokens is None:
            return None
        return (input_tokens * self.per_input + output_tokens * self.per_output) / _MILLION


FREE = Price(0.0, 0.0)
"""Of a model in this process: nobody sends a bill for it."""


def list_price(model: str, url: str) -> Price | None:
    """The list price of a provider's model, by genai-prices; None for a provider or a model that it does not know.

    The provider is known by the URL alone: a server of one's own may give its model any name.
    """
    from genai_prices import Usage, calc_price  # of the extra `judge`

    try:
        found = calc_price(Usage(input_tokens=_MILLION, output_tokens=_MILLION), model, provider_api_url=url)
    except LookupError:
        return None
    return Price(float(found.input_price), float(found.output_price))


def dollars(price: float | None) -> str:
    """$0.0123, $0.0000045, or that it is not known: a small sum has two digits that say something."""
    if price is None:
        return "price unknown"
    if price >= 1:
        return f"${price:,.2f}"
    if price >= 0.001 or price <= 0:
        return f"${price:.4f}"
    text = f"{price:.{1 - math.floor(math.log10(price))}f}"
    return f"${text.rstrip('0'):0<6}"
