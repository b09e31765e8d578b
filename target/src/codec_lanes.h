// How a tile's weights are shared out among the lanes of the decoder (ISA manual, "Weight streams").
#pragma once

#include <algorithm>
#include <cstdint>

#include "codec.h"

namespace qaccel {

// Weights that a lane's state holds at the end.
inline int64_t HeldWeights(int64_t bits) { return isa::kStreamStateBits / bits; }

// One lane's weights in its order, as indices into the tile.
struct LaneWalk {
  int64_t index, column, step, row_weights, count;

  LaneWalk(const TileShape& tile, int64_t lane, int64_t lanes)
      : index(lane), column(lane), step(lanes), row_weights(tile.row_weights), count(tile.count) {}

  void Next() {
    index += row_weights;
    if (index >= count) index = column += step;
  }
};

// n(l): weights of a lane.
inline int64_t LaneWeights(const TileShape& tile, int64_t lane, int64_t lanes) {
  const int64_t columns = std::min(tile.row_weights, tile.count);
  const int64_t rows = tile.count / tile.row_weights, rest = tile.count % tile.row_weights;
  auto columns_below = [&](int64_t end) { return end > lane ? CeilDiv(end - lane, lanes) : 0; };
  return rows * columns_below(columns) + columns_below(rest);
}

}  // namespace qaccel
