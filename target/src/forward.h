// The post stage (ISA manual): the rules of what a CONV or DEPTHWISE forwards to the ELTWISE or TABLE behind it.
#pragma once

#include "common.h"
#include "view.h"

namespace qaccel {

struct Machine;

// Follows the instructions of COMPUTE in program order.
class ForwardUse {
 public:
  // Throws Fault if the instruction may not come next.
  void Check(const isa::Instruction& instruction);
  // Whether the last instruction forwards, so that another must follow.
  bool Open() const { return open_; }

 private:
  struct Shape {
    int64_t h, w, channels, bits;
  };

  bool open_ = false;
  Shape shape_{};
};

// Of an instruction that takes what is forwarded: reads again what the one before it has read, since that happens only now.
void ReadForwardedOperands(Machine& machine);

// Keeps the next `count` values of an instruction that forwards.
void Forward(Machine& machine, const int16_t* values, int64_t count);

}  // namespace qaccel
