// Where the time of a run went, and what was moved: the JSON that `simulate` returns.
#pragma once

#include <string>

#include "core.h"

namespace qaccel {

// `cycle_mode`: the trace has times. `with_trace`: list every instruction's start and end.
std::string ReportJson(const Program& program, const Trace& trace, bool cycle_mode, bool with_trace);

}  // namespace qaccel
