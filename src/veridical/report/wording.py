"""Numbers and names as the page writes them."""

from __future__ import annotations

import math

from veridical.runtime.descriptions import Unit

DISAGREE = "interval and p disagree, so nothing is claimed"
MINUS = "\N{MINUS SIGN}"
THIN = "\N{NARROW NO-BREAK SPACE}"

SUPERSCRIPTS = str.maketrans(
    "-0123456789", "\u207b\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079"
)


def show(value: float | None, unit: Unit, digits: int = 1) -> str:
    """A value with its unit; an undefined one as a dash."""
    if value is None or not math.isfinite(value):
        return "\N{EM DASH}"
    if unit == "percent":
        return f"{bare_number(value, unit, digits)}{THIN}%"
    if unit == "words":
        return f"{value:.{digits}f} words".replace("-", MINUS)
    if unit == "share":
        return bare_number(value, unit)
    return f"{value:.4g}".replace("-", MINUS)


def bare_number(value: float | None, unit: Unit, digits: int = 1, signed: bool = False) -> str:
    """A value in the unit's scale without the unit, such as an interval's end."""
    if value is None or not math.isfinite(value):
        return "\N{EM DASH}"
    scaled = value * 100 if unit == "percent" else value
    if unit == "percent" and not signed and 99.9 < scaled < 100 and digits == 1:
        scaled = 99.9  # nearly all is not all
    sign = "+" if signed else ""
    form = {"share": ".3f", "number": ".4g"}.get(unit, f".{digits}f")
    text = format(scaled, sign + form)
    if signed and float(text) == 0:
        text = text.lstrip("+-")
    return text.replace("-", MINUS)


def interval_text(low: float | None, high: float | None, unit: Unit, signed: bool = False) -> str:
    """Both ends, such as 9.8 to 12.1, or nothing when there is none, or one of no width."""
    # Scores of earlier versions have ends of no width where numbers do not vary.
    if low is None or high is None or low == high:
        return ""
    return f"{bare_number(low, unit, signed=signed)} to {bare_number(high, unit, signed=signed)}"


def scientific(value: float) -> str:
    """Three significant digits; small numbers with a power of ten, not an "e"."""
    if not math.isfinite(value) or value == 0 or 1e-3 <= abs(value) < 1e5:
        return f"{value:.3g}".replace("-", MINUS)
    digits, _, exponent = f"{value:.1e}".partition("e")
    power = str(int(exponent)).translate(SUPERSCRIPTS)
    return f"{digits.replace('-', MINUS)}{THIN}\N{MULTIPLICATION SIGN}{THIN}10{power}"


def probability(p: float | None) -> str:
    """A p-value: "p < 0.001" or "p = 0.04"."""
    if p is None:
        return ""
    if p < 0.001:
        return f"p{THIN}<{THIN}0.001"
    if p >= 0.1:
        return f"p{THIN}={THIN}{p:.2f}"
    # 0.0496 is not 0.05: as many digits as show on which side it is.
    texts = (f"{p:.{digits}g}" for digits in range(2, 18))
    return f"p{THIN}={THIN}{next(text for text in texts if (float(text) < 0.05) == (p < 0.05))}"


def points(unit: Unit) -> str:
    """What a difference is counted in."""
    return {"percent": "points", "words": "words", "share": "", "number": ""}[unit]


def counted_in(text: str, unit: Unit) -> str:
    """A difference with what it is counted in, if that has a name."""
    return f"{text} {points(unit)}".rstrip()


def duration(seconds: float | None) -> str:
    """A wall time for people: "48 s", "3 min 10 s", "2 h 5 min"."""
    if seconds is None:
        return ""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def joined(words: list[str]) -> str:
    """A list in prose: a, b and c."""
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} and {words[-1]}"


def lower(label: str) -> str:
    """A label within a sentence; one that begins with an abbreviation stays as it is."""
    return label if label[:2].isupper() else label[:1].lower() + label[1:]


def count_of(count: int, noun: str, plural: str | None = None) -> str:
    """A count with its noun: 1 image, 1,000 images."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"
