"""What a JSON value has to be, written down as values: a check names the key that is wrong.

A check takes a value and where it stands, such as `labels[3].name`, and raises ValueError.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from manyhot.toolkit.errors import shown

Check = Callable[[Any, str], None]

# Whole numbers that count things, and the numbers of formulas: far from what overflows in float32 or int64.
MOST = 2**53
LARGEST = 1e30


def check(value: Any, expected: Check, where: str) -> None:
    """Check a value.

    Raises:
        ValueError: says what was expected at which key, and what came.
    """
    expected(value, where)


def text(value: Any, where: str) -> None:
    """Text, without halves of surrogate pairs, which no file can hold."""
    if not isinstance(value, str) or any("\ud800" <= character <= "\udfff" for character in value):
        raise _wrong(where, "text", value)


def flag(value: Any, where: str) -> None:
    """True or false."""
    if not isinstance(value, bool):
        raise _wrong(where, "true or false", value)


def anything(value: Any, where: str) -> None:
    """Any value: nothing is made of it."""


def one_scalar(value: Any, where: str) -> None:
    """One value that is shown and not computed with: text, true or false, null, or a number."""
    if value is not None and not isinstance(value, bool | str):
        number()(value, where)


def number(low: float = -LARGEST, high: float = LARGEST, *, above: bool = False) -> Check:
    """Check a finite number from `low` to `high`; with `above`, greater than `low`."""

    def expected(value: Any, where: str) -> None:
        good = isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high
        if not good or (above and value == low):
            raise _wrong(
                where, f"a number {'above' if above else 'from'} {low:g} {'and up ' * above}to {high:g}", value
            )

    return expected


def whole(low: int = 0, high: int = MOST) -> Check:
    """Check a whole number from `low` to `high`."""

    def expected(value: Any, where: str) -> None:
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise _wrong(where, f"a whole number from {low} to {high}", value)

    return expected


def one_of(*values: Any) -> Check:
    """Check that a value is one of some, and of its type."""

    def expected(value: Any, where: str) -> None:
        if not any(type(value) is type(allowed) and value == allowed for allowed in values):
            raise _wrong(where, " or ".join(map(repr, values)), value)

    return expected


def maybe(inner: Check) -> Check:
    """Check a value that may be null."""
    return lambda value, where: None if value is None else inner(value, where)


def several(inner: Check, least: int = 0, most: int = MOST) -> Check:
    """Check a list and each of its items."""

    def expected(value: Any, where: str) -> None:
        if not isinstance(value, list) or not least <= len(value) <= most:
            size = f" of {least}" if least == most else f" of {least} or more" if least else ""
            raise _wrong(where, f"a list{size}", value)
        for place, item in enumerate(value):
            inner(item, f"{where}[{place}]")

    return expected


def distinct(inner: Check, least: int = 0) -> Check:
    """Check a list whose items, all text, come once each."""
    listed = several(inner, least)

    def expected(value: Any, where: str) -> None:
        listed(value, where)
        if len(set(value)) < len(value):
            twice = next(item for item in value if value.count(item) > 1)
            raise ValueError(f"{where}: expected each of its items once, got {shown(twice)} again")

    return expected


def record(
    keys: Mapping[str, Check], optional: Mapping[str, Check] | None = None, *, others: Check | None = None
) -> Check:
    """Check an object: the keys it has, those it may have, and what any other key may hold; None allows no other."""
    allowed = {**keys, **(optional or {})}

    def expected(value: Any, where: str) -> None:
        if not isinstance(value, dict):
            raise _wrong(where, f"an object with {', '.join(keys)}" if keys else "an object", value)
        for key in keys:
            if key not in value:
                raise ValueError(f"{_under(where, key)}: expected this key, got an object without it")
        for key, item in value.items():
            inner = allowed.get(key, others)
            if inner is None:
                raise ValueError(f"{_under(where, key)}: expected no such key, got {shown(item)}")
            inner(item, _under(where, key))

    return expected


def either(which: str, kinds: Mapping[Any, Check]) -> Check:
    """Check an object by the kind that one of its keys names."""

    def expected(value: Any, where: str) -> None:
        if not isinstance(value, dict):
            raise _wrong(where, f"an object with {which}", value)
        kind = value.get(which)
        if not isinstance(kind, str) or kind not in kinds:
            raise _wrong(_under(where, which), " or ".join(map(repr, kinds)), kind)
        kinds[kind](value, where)

    return expected


def every(*checks: Check) -> Check:
    """Check a value in several ways."""

    def expected(value: Any, where: str) -> None:
        for inner in checks:
            inner(value, where)

    return expected


def names_of(items: Iterable[Mapping[str, Any]], where: str) -> None:
    """Refuse a name that comes twice."""
    seen: set[str] = set()
    for item in items:
        if item["name"] in seen:
            raise ValueError(f"{where}: expected each name once, got {shown(item['name'])} again")
        seen.add(item["name"])


def _under(where: str, key: Any) -> str:
    return f"{where}.{key}" if where else shown(key) if not isinstance(key, str) or not key.isidentifier() else key


def _wrong(where: str, expected: str, value: Any) -> ValueError:
    return ValueError(f"{where or 'the whole'}: expected {expected}, got {shown(value)}")
