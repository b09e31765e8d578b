"""What a QDQ file says of a 16-bit table, in the doc string of its node: the machine interpolates, which ONNX has no word for."""

from __future__ import annotations

import re

Span = tuple[float, float, float, float]  # least and greatest input, least and greatest output, real values
_TEXT = "a 16-bit table, interpolated; made for inputs within {!r}..{!r} and outputs within {!r}..{!r}"
_NUMBER = r"([-+0-9.einf]+?)"
_PATTERN = re.compile(re.escape(_TEXT).replace(re.escape("{!r}"), _NUMBER) + "$")


def span_text(span: Span) -> str:
    """The doc string."""
    return _TEXT.format(*map(float, span))


def span_of(text: str) -> Span | None:
    """What such a doc string says; None for another text."""
    found = _PATTERN.match(text)
    if found is None:
        return None
    first, second, third, fourth = map(float, found.groups())
    return first, second, third, fourth
