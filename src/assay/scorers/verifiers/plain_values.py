"""Plain values as JSON with tags, from one process to another: what is compared of code under test. The standard library alone.

Numbers, texts, bytes, lists, tuples, sets, dicts, ranges, dates and arrays of numpy go over by value, in Python's own kinds: what
the code has made of them (a subclass that calls itself equal to everything) does not. Nothing is pickled, and nothing but a class
that is named here is ever made of what comes over. numpy is imported only where an array is sent or comes.
"""

from __future__ import annotations

import datetime
import math
import re
import sys
from collections import deque
from collections.abc import Callable, Iterator
from decimal import Decimal
from fractions import Fraction
from typing import Any

# the methods of the plain kinds themselves: a subclass may say something else of itself
_NUMBERS: tuple[tuple[type, Callable[[Any], str]], ...] = (
    (int, lambda value: int.__format__(value, "x")),  # decimal digits of long ones are refused by Python
    (float, float.__repr__),
    (complex, complex.__repr__),
    (Fraction, lambda value: f"{int.__format__(value.numerator, 'd')}/{int.__format__(value.denominator, 'd')}"),
    (Decimal, Decimal.__str__),
)
_LISTS: tuple[tuple[type, Callable[[Any], Iterator[Any]]], ...] = (
    *((list, list.__iter__), (tuple, tuple.__iter__)),
    *((set, set.__iter__), (frozenset, frozenset.__iter__)),
    (deque, deque.__iter__),
)
_MADE_OF = {kind.__name__: kind for kind, _ in (*_NUMBERS[1:], *_LISTS)}
_DATES = (datetime.datetime, datetime.date, datetime.time)  # a datetime is a date
_DTYPE = re.compile(r"[<>|=]?(?:b1|[iu][1248]|f[248]|c(?:8|16)|[US]\d{1,6})")  # no objects, no records


def encode(value: Any, keep: Callable[[Any], Any]) -> Any:
    """A value as JSON; of a subclass of a plain kind (a Counter, a named tuple) the plain value. keep: what others become."""
    if value is None or isinstance(value, bool):
        return value
    for number, write in _NUMBERS:
        if isinstance(value, number):
            return {"t": number.__name__, "v": write(value)}
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, bytes | bytearray):
        return {"t": "bytes", "v": bytes.hex(value)} if isinstance(value, bytes) else {"t": "bytearray", "v": bytearray.hex(value)}
    if isinstance(value, dict):
        return {"t": "dict", "v": [[encode(k, keep), encode(v, keep)] for k, v in dict.items(value)]}
    for kind, inside in _LISTS:
        if isinstance(value, kind):
            return {"t": kind.__name__, "v": [encode(one, keep) for one in inside(value)]}
    return _other(value, keep)


def _other(value: Any, keep: Callable[[Any], Any]) -> Any:
    if type(value) is range:
        return {"t": "range", "v": [int.__format__(one, "x") for one in (value.start, value.stop, value.step)]}
    if type(value) in _DATES and getattr(value, "tzinfo", None) is None:
        return {"t": type(value).__name__, "v": value.isoformat()}
    if type(value) is datetime.timedelta:
        return {"t": "timedelta", "v": [value.days, value.seconds, value.microseconds]}
    numpy = sys.modules.get("numpy")
    if numpy is not None and (type(value) is numpy.ndarray or isinstance(value, numpy.generic)):
        array = numpy.asarray(value)
        if _DTYPE.fullmatch(array.dtype.str):
            is_scalar = isinstance(value, numpy.generic)
            return {"t": "array", "dtype": array.dtype.str, "shape": array.shape, "scalar": is_scalar, "v": array.tobytes().hex()}
    return keep(value)


def decode(value: Any, kept: Callable[[Any], Any]) -> Any:
    """The inverse of `encode`. kept: the value that a handle stands for.

    Raises ValueError, TypeError, KeyError, AttributeError or ImportError for what `encode` does not write.
    """
    if not isinstance(value, dict):
        return value
    if "h" in value:
        return kept(value)
    inner = value["v"]
    match value["t"]:
        case "dict":
            return {decode(k, kept): decode(v, kept) for k, v in inner}
        case "bytes":
            return bytes.fromhex(inner)
        case "bytearray":
            return bytearray.fromhex(inner)
        case "int":
            return int(inner, 16)
        case "float" | "complex" | "Fraction" | "Decimal" as kind:
            return _MADE_OF[kind](inner)
        case "range":
            return range(*(int(one, 16) for one in inner))
        case "datetime" | "date" | "time" as kind:
            return getattr(datetime, kind).fromisoformat(inner)
        case "timedelta":
            return datetime.timedelta(*inner)
        case "array":
            return _array(value)
    return _MADE_OF[value["t"]](decode(one, kept) for one in inner)


def _array(value: dict[str, Any]) -> Any:
    """The array or the scalar of numpy, with a memory of its own."""
    import numpy

    if not _DTYPE.fullmatch(value["dtype"]):
        raise ValueError(f"dtype {value['dtype']!r:.20}")
    dtype, shape = numpy.dtype(value["dtype"]), tuple(map(int, value["shape"]))
    data = bytes.fromhex(value["v"])
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != len(data):
        raise ValueError(f"{len(data)} bytes for an array of the shape {shape}")
    array = numpy.frombuffer(data, dtype).reshape(shape).copy() if data else numpy.zeros(shape, dtype)
    return array[()] if value["scalar"] else array


def name_of(value: Any) -> str:
    """What a value is called that stays where it is: its class, with the package that it is from."""
    kind = type(value)
    package = str(getattr(kind, "__module__", "")).partition(".")[0]
    return kind.__name__ if package in ("builtins", "answer", "") else f"{package}.{kind.__name__}"
