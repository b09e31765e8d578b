"""A page as a file: whatever it shows, in one style, with the charting library inside."""

from __future__ import annotations

import html
from collections.abc import Sequence
from importlib.resources import files

from .library import Picture, drawn, script


def whole_page(title: str, body: str, pictures: Sequence[Picture]) -> str:
    """A page around a body: style, library and scripts included, so that nothing has to be fetched."""
    own = files(__package__)
    style, behaviour = ((own / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    scripts = f"{script()}{drawn(pictures)}<script>{behaviour}</script>" if pictures else ""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, '
        f'initial-scale=1"><title>{html.escape(title)}</title><style>{style}</style></head><body>{body}{scripts}</body></html>\n'
    )
