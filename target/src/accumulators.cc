#include "accumulators.h"

namespace qaccel {

namespace {

bool Same(const AccumulatorShape& a, const AccumulatorShape& b) {
  return a.opcode == b.opcode && a.out_h == b.out_h && a.out_w == b.out_w && a.channels == b.channels &&
         a.weight_bits == b.weight_bits && a.in_bits == b.in_bits && a.out_bits == b.out_bits && a.kind == b.kind;
}

}  // namespace

void CheckAccumulate(const Accumulators& accumulators, const AccumulatorShape& shape, bool accumulate, bool finish,
                     const Config& hw) {
  if (accumulate && !accumulators.open) Fail("accumulates, but no accumulators are open");
  if (!accumulate && accumulators.open)
    Fail("starts anew while the accumulators of ", isa::name(accumulators.shape.opcode), " are open");
  if (accumulate && !Same(accumulators.shape, shape)) {
    const AccumulatorShape& open = accumulators.shape;
    Fail("accumulates ", shape.out_h, " x ", shape.out_w, " x ", shape.channels,
         " of another size, kind or width than the open ", isa::name(open.opcode), " of ", open.out_h, " x ",
         open.out_w, " x ", open.channels);
  }
  if (!finish && shape.count() > hw.accumulator_entries) {
    Fail("leaves ", shape.count(), " accumulators open, the machine has ", hw.accumulator_entries);
  }
}

}  // namespace qaccel
