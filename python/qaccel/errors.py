"""The one exception that users see."""

from __future__ import annotations


class QaccelError(Exception):
    """A user's error: one line that names the node, the value, the limit and the way out."""
