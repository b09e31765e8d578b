// One engine's transfer as the bursts that it asks the DRAM channel for (ISA manual, "dram").
#pragma once

#include <algorithm>
#include <cstdint>

#include "view.h"

namespace qaccel {

class Transfer {
 public:
  Transfer() = default;
  // The bytes of a view, as the runs that the manual cuts it into.
  Transfer(const View& view, int64_t bytes_per_cycle, int64_t burst_beats)
      : view_(view), bytes_per_cycle_(bytes_per_cycle), burst_beats_(burst_beats) {
    if (view_.Dense()) {
      view_.bytes *= view_.pixels;
      view_.pixels = 1;
    }
    if (view_.pixels == 1 && (view_.rows == 1 || view_.row_stride == view_.bytes)) {
      view_.bytes *= view_.rows;
      view_.rows = 1;
    }
    BeginRun();
  }

  bool done() const { return row_ == view_.rows; }

  // Beats of the next burst, which is then over.
  int64_t TakeBurst() {
    const int64_t beats = std::min(beats_, burst_beats_);
    beats_ -= beats;
    if (beats_ == 0) {
      if (++pixel_ == view_.pixels) {
        pixel_ = 0;
        ++row_;
      }
      if (!done()) BeginRun();
    }
    return beats;
  }

 private:
  void BeginRun() {
    const int64_t first = view_.Pixel(row_, pixel_);
    beats_ = (first + view_.bytes - 1) / bytes_per_cycle_ - first / bytes_per_cycle_ + 1;
  }

  View view_{0, 0, 0, 1, 0, 0};
  int64_t bytes_per_cycle_ = 1, burst_beats_ = 1;
  int64_t row_ = 0, pixel_ = 0, beats_ = 0;
};

}  // namespace qaccel
