"""The C++ view of target/hw.toml: a struct of a machine's parameters, and what its reader checks."""

from __future__ import annotations

from collections.abc import Sequence

from ..hw_spec import Parameter


def config_header(parameters: Sequence[Parameter]) -> str:
    """The C++17 header ``qaccel_hw.h``: struct ``Parameters`` and the table ``kEntries`` of its members."""
    members, entries = [], []
    for parameter in parameters:
        table, _, name = parameter.name.rpartition(".")
        member = parameter.name.replace(".", "_")
        members.append(f"  int64_t {member};  // {parameter.unit}: {parameter.text}")
        limits = f"{parameter.least}, {parameter.most}, {str(parameter.power_of_two).lower()}"
        entries.append(f'    {{"{table}", "{name}", &Parameters::{member}, {limits}}},')
    lines = [
        "// Generated from target/hw.toml; never edited.",
        "#pragma once",
        "",
        "#include <cstdint>",
        "",
        "namespace qaccel {",
        "namespace hw {",
        "",
        "struct Parameters {",
        *members,
        "};",
        "",
        "// Where a config has the parameter (`table` is empty if in none), and what it may be.",
        "struct Entry {",
        "  const char* table;",
        "  const char* name;",
        "  int64_t Parameters::*value;",
        "  int64_t least, most;",
        "  bool power_of_two;",
        "};",
        "constexpr Entry kEntries[] = {",
        *entries,
        "};",
        "",
        "}  // namespace hw",
        "}  // namespace qaccel",
    ]
    return "\n".join(lines) + "\n"
