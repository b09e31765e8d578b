"""Flags that TVM's own ``tvmc`` had and this one has not: for each verb what to do instead, in the words of the error."""

from __future__ import annotations

from collections.abc import Mapping

_EVERYWHERE = {
    "--config": "there are no JSON files of flags; write the flags in a shell script",
    "--desired-layout": "the compiler chooses layouts itself; drop it",
    "--experimental-tvm-extension": "the accelerator is part of this tvmc; drop it",
    "--target-host": 'give the host in --target, such as "qaccel, llvm -mcpu=skylake"',
}
_MICRO = "microTVM is gone from TVM; drop it, or give a module to your own firmware by --emit-program"
_ONE_SEARCH = "there is one search, by a cost model that learns from the measurements; drop it"
_OWN_TIMING = "a measurement is the shortest of several repeats whose length tvmc sets; drop it"

GONE: Mapping[str, Mapping[str, str]] = {
    "compile": {
        **_EVERYWHERE,
        "-O": 'give the host\'s level in --target, such as "qaccel, llvm -opt-level=2"',
        "--opt-level": 'give it in --target, such as "qaccel, llvm -opt-level=2"',
        "--executor": "TVM has one executor now, the virtual machine of Relax; drop it",
        "--runtime": "TVM has one runtime now; drop it",
        "--use-vm": "the virtual machine of Relax is what runs every module; drop it",
        "--module-name": "a module's functions need no prefix, each file is loaded by itself; drop it",
        "--desired-layout-ops": "the compiler chooses layouts itself; drop it",
        "--mixed-precision": "give widths by --bits, such as --bits auto; drop it",
        "--mixed-precision-ops": "give widths by --bits plan.json, layer by layer; drop it",
        "--mixed-precision-calculation-type": "give widths by --bits, such as W8A16; drop it",
        "--mixed-precision-acc-type": "sums are exact integers; drop it",
        "--print-ir-before": "use --dump-code relax for the network, --print-pass-times for the passes",
        "--print-ir-after": "use --dump-code relax for the network, --print-pass-times for the passes",
        "--workspace-pools": "the planner places the accelerator's memory itself; give its sizes in a config file of --target",
    },
    "run": {
        **_EVERYWHERE,
        "--benchmark": "use --print-time, with --repeat and --number",
        "--end-to-end": "--print-time times whole runs already, transfers included; drop it",
        "--list-options": _MICRO,
        "--options": _MICRO,
        "--project-dir": _MICRO,
    },
    "tune": {
        **_EVERYWHERE,
        "--enable-autoscheduler": _ONE_SEARCH,
        "--tuner": _ONE_SEARCH,
        "--log-estimated-latency": "the line of progress shows what the network would take so far; drop it",
        "--include-simple-tasks": "functions with one schedule have nothing to tune; drop it",
        "--hardware-hints": "the target says what the machine has, such as llvm -mcpu=native; drop it",
        "--min-repeat-ms": _OWN_TIMING,
        "--number": _OWN_TIMING,
        "--repeat": _OWN_TIMING,
        **{
            f"--{each}": "TVM reads it from the machine; drop it"
            for each in (
                "cache-line-bytes", "num-cores", "vector-unit-bytes", "max-local-memory-per-block",
                "max-shared-memory-per-block", "max-threads-per-block", "max-vthread-extent", "warp-size",
            )
        },
    },
}  # fmt: skip
_BY_BEGINNING = {  # families of flags, named after what TVM's registries held
    "--target-": 'attributes stand in --target, such as "qaccel, llvm -mcpu=skylake"',
    "--executor-": GONE["compile"]["--executor"],
    "--runtime-": GONE["compile"]["--runtime"],
    "--workspace-pools-": GONE["compile"]["--workspace-pools"],
}


def what_replaces(verb: str, flag: str) -> str | None:
    """What to do instead of ``flag`` of TVM's tvmc; None for a flag that it had not either."""
    family = next((words for beginning, words in _BY_BEGINNING.items() if flag.startswith(beginning)), None)
    return GONE.get(verb, {}).get(flag, family)
