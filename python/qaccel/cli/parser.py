"""The command line's grammar: one parser per verb, which says what a mistyped verb or flag may have meant."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from typing import Any, NoReturn

from ..errors import did_you_mean
from .old_flags import what_replaces

_NEGATIVE = re.compile(r"-[\d.]")  # how a value such as -1,1 begins; no flag does


class Parser(argparse.ArgumentParser):
    """argparse's, which exits with 2 after the usage and one line.

    Beside that a value may begin with a minus and a digit (``--input-range -1,1``), an unknown flag is found before what it leaves
    missing, and the line names the verbs or flags that look like it, or what came in the place of a flag that TVM's tvmc had.
    """

    verbs: Sequence[str] = ()  # of the parser that has them
    verb = ""  # of the parser of one

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse; what neither a flag nor an argument takes is an error here already, of the verb that got it."""
        words = _joined(list(args or ()))
        if self.verbs:
            self._check_verb(words)
        else:
            self._check_flags(words)
        parsed, left = super().parse_known_args(words, namespace)
        if left:
            self.error(f"there is no place for {' '.join(map(repr, left))}")
        return parsed, left

    def _check_verb(self, words: Sequence[str]) -> None:
        verb = next((word for word in words if not word.startswith("-")), None)
        if verb is not None and verb not in self.verbs:
            known = f"; the verbs are {', '.join(self.verbs)}"
            self.error(f"there is no verb {verb!r}{did_you_mean(verb, self.verbs) or known}")

    def _check_flags(self, words: Sequence[str]) -> None:
        known = self._option_string_actions
        for word in words:
            if word == "--":
                return
            if not word.startswith("-") or word == "-" or " " in word or _NEGATIVE.match(word):
                continue
            flag = word.split("=")[0]
            if flag not in known and (flag.startswith("--") or flag[:2] not in known):
                instead = what_replaces(self.verb, flag if flag.startswith("--") else flag[:2])
                if instead is not None:
                    self.error(f"{flag} of TVM's tvmc is gone: {instead}")
                self.error(f"there is no flag {flag}{did_you_mean(flag, known)}")

    def error(self, message: str) -> NoReturn:
        """The usage and one line on standard error, and exit 2."""
        super().error(" ".join(message.split()))


def _joined(words: Sequence[str]) -> list[str]:
    """A value that begins with a minus and a digit joined to the long flag before it, where argparse would take it for a flag."""
    joined: list[str] = []
    for word in words:
        if joined and _NEGATIVE.match(word) and re.fullmatch(r"--[a-z][a-z-]*", joined[-1]):
            joined[-1] = f"{joined[-1]}={word}"
        else:
            joined.append(word)
    return joined
