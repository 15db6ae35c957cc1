// Policies that keep all blocks in the order in which they would go.
#include <set>
#include <tuple>
#include <unordered_map>

#include "bench/policies/policies.h"
#include "store/depth_order.h"

namespace kvstore::bench {

namespace {

struct Held {
  uint64_t priority = 0;  // least goes first; then the oldest stamp, then the greatest depth
  uint64_t stamp = 0;
  uint32_t depth = 0;
  uint64_t uses = 0;
};

class RankedPolicy : public EvictionPolicy {
 public:
  void on_insert(Stamp stamp, std::span<const TouchedBlock> blocks) override {
    for (const TouchedBlock& block : by_depth_(blocks)) use(stamp, block, &held_[block.slot]);
  }
  void on_touch(Stamp stamp, std::span<const TouchedBlock> blocks) override {
    for (const TouchedBlock& block : by_depth_(blocks)) {
      const auto held = held_.find(block.slot);
      if (held == held_.end() || held->second.stamp >= static_cast<uint64_t>(stamp)) continue;
      order_.erase(rank(block.slot, held->second));
      use(stamp, block, &held->second);
    }
  }
  void on_remove(uint32_t slot) override {
    order_.erase(rank(slot, held_.at(slot)));
    held_.erase(slot);
  }
  uint32_t victim(Stamp now, const std::function<bool(uint32_t)>& evictable, uint32_t limit) override {
    const size_t most = std::min<size_t>(limit, size());
    for (size_t refused = 0; refused < most; ++refused) {
      const uint32_t slot = std::get<3>(*order_.begin());
      Held& held = held_.at(slot);
      if (evictable(slot)) {
        on_victim(held.priority);
        return slot;
      }
      order_.erase(order_.begin());
      use(now, {slot, held.depth}, &held);
    }
    return kNone;
  }

  bool contains(uint32_t slot) const override { return held_.contains(slot); }
  size_t size() const override { return held_.size(); }
  size_t memory_bytes() const override {
    // A node of either container has its value and three pointers' worth of links; the map has a bucket beside.
    return size() * (sizeof(Rank) + sizeof(std::pair<const uint32_t, Held>) + 7 * sizeof(void*));
  }
  bool consistent() const override {
    for (const auto& [slot, held] : held_) {
      if (!order_.contains(rank(slot, held))) return false;
    }
    return order_.size() == held_.size();
  }

 protected:
  virtual uint64_t priority_of(const Held& held) = 0;
  virtual void on_victim(uint64_t priority) = 0;

 private:
  using Rank = std::tuple<uint64_t, uint64_t, int64_t, uint32_t>;
  static Rank rank(uint32_t slot, const Held& held) {
    return {held.priority, held.stamp, -static_cast<int64_t>(held.depth), slot};
  }

  void use(Stamp stamp, const TouchedBlock& block, Held* held) {
    ++held->uses;
    held->stamp = static_cast<uint64_t>(stamp);
    held->depth = block.depth;
    held->priority = priority_of(*held);
    order_.insert(rank(block.slot, *held));
  }

  std::unordered_map<uint32_t, Held> held_;  // by slot
  std::set<Rank> order_;
  DepthOrder by_depth_;
};

class PlainLruPolicy final : public RankedPolicy {
  uint64_t priority_of(const Held&) override { return ++uses_; }
  void on_victim(uint64_t) override {}

  uint64_t uses_ = 0;
};

class LfuPolicy final : public RankedPolicy {
  uint64_t priority_of(const Held& held) override { return held.uses + age_; }
  void on_victim(uint64_t priority) override { age_ = priority; }

  uint64_t age_ = 0;
};

}  // namespace

std::unique_ptr<EvictionPolicy> make_plain_lru_policy() { return std::make_unique<PlainLruPolicy>(); }
std::unique_ptr<EvictionPolicy> make_lfu_policy() { return std::make_unique<LfuPolicy>(); }

}  // namespace kvstore::bench
