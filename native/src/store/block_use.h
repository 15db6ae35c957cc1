// What the reuse policy knows of a block, in 8 bytes.
#pragma once

#include <bit>
#include <cstdint>

#include "store/coverage.h"
#include "store/request_history.h"

namespace kvstore {

struct BlockUse {
  static constexpr uint64_t kStampMask = (uint64_t{1} << 40) - 1;
  static constexpr uint32_t kBranchesShared = 3;  // with so many continuations no single conversation decides

  uint64_t stamp : 40 = 0;  // of the youngest request that touched the block
  uint64_t turn : 3 = 0;    // with `size` and `gap`: the kind of the last request that ended here
  uint64_t size : 3 = 0;
  uint64_t gap : 2 = 0;
  uint64_t reused : 1 = 0;      // not new to its conversation
  uint64_t extended : 1 = 0;    // has or had a block after it
  uint64_t superseded : 1 = 0;  // the conversation went on without it
  uint64_t shared : 1 = 0;      // many conversations part here or below
  uint64_t branches : 2 = 0;    // continuations seen, at most kBranchesShared
  uint64_t usual_gap : 6 = 0;   // of a shared block: about the median of the stamps between its uses, as a power of 2

  [[nodiscard]] uint64_t age(uint64_t now) const { return now > stamp ? now - stamp : 0; }

  [[nodiscard]] ReturnClass kind() const {
    if (shared) return {0, static_cast<uint8_t>(usual_gap), ReturnClass::kShared};
    return {static_cast<uint8_t>(turn), static_cast<uint8_t>(size), static_cast<uint8_t>(gap)};
  }
  void set_kind(const ReturnClass& kind) {
    turn = kind.turn & 7;
    size = kind.size & 7;
    gap = kind.gap & 3;
  }

  [[nodiscard]] Coverage::Part part() const {
    if (superseded) return Coverage::superseded();
    if (!extended) return Coverage::end();
    return reused ? Coverage::reused() : Coverage::added(turn > 0, static_cast<uint8_t>(size));
  }

  void touch_shared(uint64_t now) {
    const auto new_gap = static_cast<uint64_t>(std::bit_width(age(now)));
    // One step at a time is a running median.
    usual_gap = !shared ? new_gap : usual_gap + (new_gap > usual_gap) - (new_gap < usual_gap);
    shared = 1;
    superseded = 0;
    stamp = now;
  }
  void touch_own(uint64_t now) {
    reused = 1;
    shared = 0;
    superseded = 0;
    stamp = now;
  }
};
static_assert(sizeof(BlockUse) == 8);

}  // namespace kvstore
