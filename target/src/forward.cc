#include "forward.h"

#include <algorithm>
#include <type_traits>

#include "machine.h"

namespace qaccel {

namespace {

template <typename Ins, typename... Kinds>
constexpr bool kIsOneOf = (std::is_same_v<Ins, Kinds> || ...);

int64_t OutChannels(const isa::Conv& ins) { return ins.out_channels; }
int64_t OutChannels(const isa::Depthwise& ins) { return ins.channels; }

void CheckNowhere(const char* what, int64_t addr, int64_t row_stride, int64_t pixel_stride) {
  if (addr != 0 || row_stride != 0 || pixel_stride != 0) {
    Fail(what, " is forwarded, so that its address and strides must be 0, not ", addr, ", ", row_stride, " and ",
         pixel_stride);
  }
}

}  // namespace

void ForwardUse::Check(const isa::Instruction& instruction) {
  std::visit(
      [&](const auto& ins) {
        using Ins = std::decay_t<decltype(ins)>;
        bool takes = false;
        if constexpr (kIsOneOf<Ins, isa::Eltwise, isa::Table>) {
          takes = ins.forwarded;
          if (takes && !open_) Fail("takes what is forwarded, and the instruction of COMPUTE before it forwards nothing");
          if (takes) {
            CheckNowhere("the input", ins.in_addr, ins.in_row_stride, ins.in_pixel_stride);
            if (ins.h != shape_.h || ins.w != shape_.w || ins.channels != shape_.channels || ins.in_bits != shape_.bits) {
              Fail("takes ", ins.h, " x ", ins.w, " x ", ins.channels, " of ", ins.in_bits, " bits, forwarded are ",
                   shape_.h, " x ", shape_.w, " x ", shape_.channels, " of ", shape_.bits);
            }
          }
        }
        if (open_ && !takes) Fail("does not take what the instruction of COMPUTE before it forwards");
        open_ = false;
        if constexpr (kIsOneOf<Ins, isa::Conv, isa::Depthwise>) {
          if (!ins.forward) return;
          if (!ins.finish) Fail("forwards without finish");
          for (const int64_t number : ins.signal) {
            if (number != 0) Fail("forwards and signals semaphore ", number, ", which only the instruction behind it may");
          }
          CheckNowhere("the output", ins.out_addr, ins.out_row_stride, ins.out_pixel_stride);
          open_ = true;
          shape_ = {ins.out_h, ins.out_w, OutChannels(ins), ins.out_bits};
        }
      },
      instruction);
}

void ReadForwardedOperands(Machine& machine) {
  for (const View& view : machine.forwarded.operands) machine.sram.Read(view, machine.actor);
}

void Forward(Machine& machine, const int16_t* values, int64_t count) {
  machine.forwarded.values.insert(machine.forwarded.values.end(), values, values + count);
}

}  // namespace qaccel
