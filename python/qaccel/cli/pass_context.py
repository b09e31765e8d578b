"""TVM's PassContext from flags: values for its passes, passes that are left out, and what each took."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from ..errors import UserError, did_you_mean, one_line

_TRUTH = {"0": False, "1": True, "false": False, "true": True}


def add_pass_context(group: Any) -> None:
    """The flags, which change what TVM does with the host's half of the network."""
    group.add_argument(
        "--pass-config", metavar="NAME=VALUE", action="append", default=[], help="a value for TVM's passes; repeatable"
    )
    group.add_argument("--disabled-pass", metavar="NAME,NAME", default="", help="passes of TVM to leave out")
    group.add_argument(
        "--print-pass-times", action="store_true", help="print what each stage, and each pass of TVM, took"
    )


@contextmanager
def pass_context(arguments: argparse.Namespace) -> Iterator[None]:
    """Compile inside. Prints afterwards what was asked for, and a warning for a pass to leave out that did not come up.

    Raises UserError for a name that TVM does not know and a value of the wrong type.
    """
    config = parse_pass_config(arguments.pass_config)
    left_out = [name.strip() for name in arguments.disabled_pass.split(",") if name.strip()]
    if not config and not left_out and not arguments.print_pass_times:
        yield
        return
    import tvm
    from tvm.ir.instrument import PassTimingInstrument, pass_instrument

    met: set[str] = set()

    @pass_instrument
    class LeaveOut:
        def should_run(self, _mod: Any, info: Any) -> bool:
            met.add(str(info.name))
            return str(info.name) not in left_out

    timing = PassTimingInstrument()
    instruments = [LeaveOut()] if left_out else []
    instruments += [timing] if arguments.print_pass_times else []
    now = tvm.transform.PassContext.current()
    try:
        context = tvm.transform.PassContext(opt_level=now.opt_level, instruments=instruments, config=config)
    except (AttributeError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(f"--pass-config: TVM does not take it: {one_line(error)}; drop it") from error
    with context:
        yield
        if arguments.print_pass_times:
            print(timing.render().rstrip())
    for name in left_out:
        if name not in met:
            print(
                f"warning: --disabled-pass {name}: no pass of that name came up; --print-pass-times shows their names"
            )


def parse_pass_config(given: Sequence[str]) -> dict[str, Any]:
    """Values by name from ``NAME=VALUE``: 0, 1, true and false for what is true or false, JSON for the rest.

    Raises UserError for another form, a name that TVM does not know, a name given twice and a value of the wrong type.
    """
    if not given:
        return {}
    import tvm

    known = {str(name): str(about["type"]) for name, about in tvm.transform.PassContext.list_configs().items()}
    config: dict[str, Any] = {}
    for text in given:
        name, equals, value = (part.strip() for part in text.partition("="))
        if not equals or not name or not value:
            raise UserError(f"--pass-config {text!r} must have the form NAME=VALUE, such as tirx.disable_vectorize=1")
        if name not in known:
            few = ", ".join(sorted(known)[:3])
            raise UserError(
                f"--pass-config {name}: TVM has no such value{did_you_mean(name, known) or f'; it knows {few} and others'}"
            )
        if name in config:
            raise UserError(f"--pass-config {name} is given twice; drop one")
        config[name] = _value(name, value, known[name])
    return config


def _value(name: str, text: str, kind: str) -> Any:
    if kind == "bool":
        if text.lower() not in _TRUTH:
            raise UserError(f"--pass-config {name}={text}: must be 0, 1, true or false")
        return _TRUTH[text.lower()]
    if kind in ("int", "ir.IntImm"):
        if not text.lstrip("-").isdecimal():
            raise UserError(f"--pass-config {name}={text}: must be a whole number")
        return int(text)
    try:
        return json.loads(text)
    except ValueError:
        raise UserError(f"--pass-config {name}={text}: must be JSON of TVM's {kind}") from None
