// Blocks of a request in the order of their chain.
#pragma once

#include <algorithm>
#include <span>
#include <vector>

#include "store/eviction.h"

namespace kvstore {

class DepthOrder {
 public:
  // Ascending by depth; valid until the next call. Copies only what is not in order already.
  std::span<const TouchedBlock> operator()(std::span<const TouchedBlock> blocks) {
    const auto shallower = [](const TouchedBlock& a, const TouchedBlock& b) { return a.depth < b.depth; };
    if (std::is_sorted(blocks.begin(), blocks.end(), shallower)) return blocks;
    sorted_.assign(blocks.begin(), blocks.end());
    std::sort(sorted_.begin(), sorted_.end(), shallower);
    return sorted_;
  }
  [[nodiscard]] size_t memory_bytes() const { return sorted_.capacity() * sizeof(TouchedBlock); }

 private:
  std::vector<TouchedBlock> sorted_;
};

}  // namespace kvstore
