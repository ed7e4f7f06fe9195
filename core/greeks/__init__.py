"""Prices, Greeks and implied volatility of European options after Black, Scholes and Merton, over arrays.

What it needs is numpy and scipy and nothing of ours but `core.errors`. It knows no market, no account and no clock.

Conventions, everywhere in this package:

- time is in years, rates and yields are continuously compounded per year, volatility is per square root of a year;
- a call's sign is +1, a put's −1; a kind is "call" or "put", an `OptionKind`, or an array of those or of their signs;
- every argument may be a number or an array, and they broadcast as numpy's do; all numbers in, a `float` out;
- vega, vanna and volga are per 1.00 of volatility (divide vega by 100 for a point), rho per 1.00 of rate;
- theta, charm and colour are by the calendar: what a year that passes adds (divide by 365 for a day);
- nothing is refused element by element: input that breaks a rule raises `core.errors.InvalidInput`, which names the
  field, the row and the rule. Only `implied_volatility` answers nan, each with its reason beside it.
"""

from core.greeks.black_scholes import (
    Greeks,
    charm,
    colour,
    delta,
    gamma,
    greeks,
    price,
    rho,
    speed,
    theta,
    theta_per_day,
    vanna,
    vega,
    volga,
)
from core.greeks.chain import Chain
from core.greeks.dividends import Dividends
from core.greeks.implied import ImpliedVolatility, NoVolatility, implied_volatility
from core.greeks.inputs import OptionKind

__all__ = [
    "Chain",
    "Dividends",
    "Greeks",
    "ImpliedVolatility",
    "NoVolatility",
    "OptionKind",
    "charm",
    "colour",
    "delta",
    "gamma",
    "greeks",
    "implied_volatility",
    "price",
    "rho",
    "speed",
    "theta",
    "theta_per_day",
    "vanna",
    "vega",
    "volga",
]
