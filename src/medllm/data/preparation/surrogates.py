"""Invented values in place of real ones: of the same kind and shape, the same for the same value."""

import hashlib
import hmac
import re
from collections.abc import Sequence
from datetime import date, timedelta
from typing import TypeVar

from medllm.data.preparation.identifiers import MONTHS, IdentifierType
from medllm.data.preparation.names import FIRST_NAMES
from medllm.data.preparation.vocabulary import (
    FAMILY_SURROGATES,
    GIVEN_SURROGATES,
    PARTICLES,
    TOWN_SURROGATES,
)

T = TypeVar("T")
_AREA_CODES = (202, 212, 213, 303, 305, 312, 404, 415, 503, 512, 602, 617, 702, 713, 206, 214, 216, 313, 410, 504)
# Of two days one stays; the new day may need another ending than `th`.
_RANGE = re.compile(r"(?<=\d)\s?(?:-|\u2013|to|and|&)\s?\d{1,2}(?:st|nd|rd|th)?(?!\d)", re.I)
_ENDING = re.compile(r"(?<=\d)\s?(?:st|nd|rd|th)\b", re.I)
_TOKEN = re.compile(r"\d+|[^\W\d_]+")


class Surrogates:
    """A keyed hash of the seed and the normalised value picks what stands in its place.

    Nothing is stored, so that one value becomes the same other value in every file of a data set. The seed must stay
    private, therefore: who knows it can compute the surrogates of guessed values (all dates of birth, all names of a
    list) and recognise a person by them. The value of the schema is public: set another one before sharing data. The
    lists are short, so that several real values share a surrogate; two persons may come to bear one name.

    Attributes:
        seed: The key.
    """

    def __init__(self, seed: int):
        self.seed = seed

    def number(self, value: str) -> int:
        """A large number that depends on the seed and the value alone."""
        return int.from_bytes(hmac.digest(str(self.seed).encode(), value.encode("utf-8", "replace"), hashlib.sha256))

    def shift(self, conversation: str) -> int:
        """By how many days the dates of a conversation move: at least one month, at most two years, into the past."""
        return -30 - self.number(conversation) % 700

    def replace(self, value: str, kind: IdentifierType, shift: int, month_first: bool) -> str:
        """The surrogate of one identifier.

        Args:
            value: What stood in the text.
            kind: Of which type it is.
            shift: Days to add if it is a date.
            month_first: Whether 03/04 is the fourth of March.
        """
        number = self.number(f"{kind.name}:{' '.join(value.lower().split())}")
        match kind:
            case IdentifierType.NAME:
                return _TOKEN.sub(lambda m: self._name(m[0]), value)
            case IdentifierType.DATE:
                return shift_date(value, shift, month_first)
            case IdentifierType.AGE:
                return "90"
            case IdentifierType.PHONE:
                number = self.number(re.sub(r"\D", "", value)[-10:])  # one number, however it is written
                return f"{_pick(_AREA_CODES, number)}-555-01{number // 100 % 100:02}"
            case IdentifierType.EMAIL:
                return (
                    f"{_pick(GIVEN_SURROGATES, number)}.{_pick(FAMILY_SURROGATES, number // 100)}@example.com".lower()
                )
            case IdentifierType.URL:
                return f"https://example.com/{number % 100_000}"
            case IdentifierType.IP:
                return f"192.0.2.{number % 254 + 1}"
            case IdentifierType.SSN:
                return f"000-{number % 90 + 10}-{number // 100 % 9000 + 1000}"  # area 000 was never given out
            case IdentifierType.ADDRESS:
                return self._address(value, number)
            case _:
                return self._same_shape(value, number)

    def _name(self, word: str) -> str:
        if word in PARTICLES:
            return word
        number = self.number(f"NAME:{word.lower()}")
        if len(word) == 1:
            return chr(ord("A") + number % 26)
        names = GIVEN_SURROGATES if word.lower() in FIRST_NAMES else FAMILY_SURROGATES
        name = _pick(names, number)
        return name.lower() if word.islower() else name.upper() if word.isupper() else name

    def _address(self, value: str, number: int) -> str:
        town = _pick(TOWN_SURROGATES, number)
        if not re.search(r"\d", value):
            return town
        if not re.search(r"[a-z]{2}", value):  # a postal code
            return self._same_shape(value, number)
        return f"{number // 100 % 900 + 100} {_pick(FAMILY_SURROGATES, number // 7)} Street, {town}"

    def _same_shape(self, value: str, number: int) -> str:
        """Every digit becomes a digit, every letter a letter of its case; the rest stays."""
        digits = iter(hashlib.shake_256(str(number).encode()).digest(len(value)))
        shape = []
        for character, byte in zip(value, digits, strict=True):
            if character.isdigit():
                shape.append(str(byte % 10))
            elif character.isalpha():
                shape.append(chr(ord("A" if character.isupper() else "a") + byte % 26))
            else:
                shape.append(character)
        return "".join(shape)


def _pick(choices: Sequence[T], number: int) -> T:
    return choices[number % len(choices)]


def is_month_first(value: str) -> bool:
    """Whether a date such as 03/25/2021 can only be read with the month in front."""
    found = re.match(r"\d\d?[/.-](\d\d?)\b(?!.*[A-Za-z]{3})", value)
    return found is not None and int(found[1]) > 12


def shift_date(value: str, days: int, month_first: bool) -> str:
    """The date so many days later, written as it was; a part that it lacks is neither needed nor added."""
    if re.search("[a-z]{3}", value, re.I):
        value = _RANGE.sub("", _ENDING.sub("", value))
    if value[:2].isalpha() and value[:3].lower() not in MONTHS:
        return "[DATE]"  # the day is spelt out
    places: dict[str, re.Match[str]] = {}
    numbers = []
    for token in _TOKEN.finditer(value):
        word = token[0]
        if word[:3].lower() in MONTHS:
            places.setdefault("month", token)
        elif word.isdigit() and (len(word) == 4 or value[token.start() - 1 : token.start()] in ("'", "\u2019")):
            places.setdefault("year", token)
        elif word.isdigit():
            numbers.append(token)
    year_first = "year" in places and numbers and places["year"].start() < numbers[0].start()
    order = ["day"] if "month" in places else ["day", "month"]
    if len(order) == 2 and (year_first or month_first or len(numbers) == 1):
        order.reverse()
    if "year" not in places:
        order.append("year")
    places.update(zip(order, numbers, strict=False))
    month, day, year = (_number(places.get(name)) for name in ("month", "day", "year"))
    if year < 100:
        year += 1900 if year > 40 else 2000
    try:
        moved = date(year, month or 6, day or 15) + timedelta(days)
    except (ValueError, OverflowError):
        return "[DATE]"  # no day of the calendar
    for name, place in sorted(places.items(), key=lambda pair: -pair[1].start()):
        value = value[: place.start()] + _written(place[0], getattr(moved, name)) + value[place.end() :]
    return value


def _number(token: re.Match[str] | None) -> int:
    if token is None:
        return 0
    return int(token[0]) if token[0].isdigit() else MONTHS.index(token[0][:3].lower()) + 1


def _written(old: str, number: int) -> str:
    """A number in the manner of the old one: as many digits, or as a month's name."""
    if old.isdigit():
        return f"{number:0{len(old)}}" if old[0] == "0" else str(number)[-2 if len(old) == 2 else -4 :]
    name = date(2000, number, 1).strftime("%B" if len(old) > 4 else "%b")
    return name.lower() if old.islower() else name.upper() if old.isupper() else name
