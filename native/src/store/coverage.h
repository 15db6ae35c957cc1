// Which blocks of a conversation are used again when it comes back: most of what it was read before, less of what its
// last request added (documents that an engine drops again, the last block that was not yet full).
//
// Counted for each part of a conversation. Not thread-safe: the owner locks.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <utility>

#include "store/request_history.h"

namespace kvstore {

class Coverage {
 public:
  enum class Part : uint8_t {};

  static Part end() { return Part{0}; }         // the last block of a request
  static Part reused() { return Part{1}; }      // used again before
  static Part superseded() { return Part{2}; }  // left behind once already
  // Added by the last request, which began the conversation or came back to it.
  static Part added(bool came_back, uint8_t size) {
    return static_cast<Part>(3 + (came_back ? ReturnClass::kSizes : 0) + size);
  }

  // While a conversation comes back: a block of this part was used, or was there and was not.
  void used(Part part) { ++blocks_[static_cast<size_t>(part)].used; }
  void unused(Part part) { ++blocks_[static_cast<size_t>(part)].unused; }
  // The return is over. Its blocks fare alike, so it counts once for each part, however many blocks that had.
  void end_return() {
    for (size_t part = 0; part < kParts; ++part) {
      const Blocks blocks = std::exchange(blocks_[part], {});
      if (blocks.used + blocks.unused > 0) count(part, blocks.used / (blocks.used + blocks.unused));
    }
  }

  // The share of returns that use the part.
  [[nodiscard]] float share(Part part) const { return shares_[static_cast<size_t>(part)]; }

 private:
  static constexpr size_t kParts = 3 + 2 * ReturnClass::kSizes;
  static constexpr float kBelief = 4;  // strength, in returns, of what is believed beforehand
  static constexpr float kShareBefore = 0.8F;
  static constexpr float kReturnsMax = 1024;  // then older returns lose half of their weight

  struct Blocks {
    float used = 0;
    float unused = 0;
  };
  struct Counts {
    float used = kBelief * kShareBefore;
    float returns = kBelief;
  };

  void count(size_t part, float used) {
    Counts& counts = counts_[part];
    counts.used += used;
    counts.returns += 1;
    if (counts.returns > kReturnsMax) counts = {counts.used / 2, counts.returns / 2};
    shares_[part] = counts.used / counts.returns;
  }

  std::array<Blocks, kParts> blocks_;
  std::array<Counts, kParts> counts_;
  std::array<float, kParts> shares_ = [] {
    std::array<float, kParts> shares;
    shares.fill(kShareBefore);
    return shares;
  }();
};

}  // namespace kvstore
