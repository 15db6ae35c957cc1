#include <list>
#include <unordered_map>
#include <unordered_set>

#include "bench/policies/policies.h"
#include "store/depth_order.h"

namespace kvstore::bench {

namespace {

constexpr size_t kSmallShare = 10;  // the small queue holds one block in so many
constexpr uint32_t kUsesMax = 3;

class S3FifoPolicy final : public EvictionPolicy {
 public:
  void on_insert(Stamp, std::span<const TouchedBlock> blocks) override {
    const auto chain = by_depth_(blocks);
    for (size_t at = chain.size(); at-- > 0;) {
      const TouchedBlock& block = chain[at];
      enter(ghosts_.erase(block.digest) > 0 ? main_ : small_, block.slot, block.digest);
    }
  }
  void on_touch(Stamp, std::span<const TouchedBlock> blocks) override {
    for (const TouchedBlock& block : blocks) {
      const auto held = held_.find(block.slot);
      if (held != held_.end()) held->second.uses = std::min(held->second.uses + 1, kUsesMax);
    }
  }
  void on_remove(uint32_t slot) override {
    const auto held = held_.find(slot);
    held->second.queue->erase(held->second.place);
    held_.erase(held);
  }
  uint32_t victim(Stamp, const std::function<bool(uint32_t)>& evictable, uint32_t limit) override {
    for (uint32_t refused = 0; !held_.empty() && refused < std::min<size_t>(limit, size());) {
      // Where blocks are refused the queues take turns, so that each is asked about.
      const bool small_is_due = small_.size() * kSmallShare >= size() || refused % 2 == 1;
      std::list<uint32_t>& queue = main_.empty() || (small_is_due && !small_.empty()) ? small_ : main_;
      const uint32_t slot = queue.front();
      Held& held = held_.at(slot);
      const bool stays = &queue == &small_ ? held.uses > 1 : held.uses > 0;
      if (!stays && evictable(slot)) {
        if (&queue == &small_) remember(held.digest);
        return slot;
      }
      refused += !stays;
      held.uses = &queue == &small_ || held.uses == 0 ? 0 : held.uses - 1;
      main_.splice(main_.end(), queue, held.place);
      held.queue = &main_;
    }
    return kNone;
  }

  bool contains(uint32_t slot) const override { return held_.contains(slot); }
  size_t size() const override { return held_.size(); }
  size_t memory_bytes() const override {
    // A list has two links a node, a hash table one and a bucket.
    return size() * (sizeof(std::pair<const uint32_t, Held>) + sizeof(uint32_t) + 4 * sizeof(void*)) +
           ghosts_.size() * (2 * sizeof(uint32_t) + 4 * sizeof(void*));
  }
  bool consistent() const override {
    for (const auto& [slot, held] : held_) {
      if (*held.place != slot) return false;
    }
    return small_.size() + main_.size() == size() && ghosts_.size() <= ghost_order_.size();
  }

 private:
  struct Held {
    std::list<uint32_t>* queue;
    std::list<uint32_t>::iterator place;
    uint32_t digest;
    uint32_t uses = 0;
  };

  void enter(std::list<uint32_t>& queue, uint32_t slot, uint32_t digest) {
    held_.emplace(slot, Held{&queue, queue.insert(queue.end(), slot), digest});
  }
  // As many as there are blocks.
  void remember(uint32_t digest) {
    if (ghosts_.insert(digest).second) ghost_order_.push_back(digest);
    for (; ghost_order_.size() > size(); ghost_order_.pop_front()) ghosts_.erase(ghost_order_.front());
  }

  std::unordered_map<uint32_t, Held> held_;  // by slot
  std::list<uint32_t> small_;
  std::list<uint32_t> main_;
  std::unordered_set<uint32_t> ghosts_;
  std::list<uint32_t> ghost_order_;  // may name some that are back already
  DepthOrder by_depth_;
};

}  // namespace

std::unique_ptr<EvictionPolicy> make_s3_fifo_policy() { return std::make_unique<S3FifoPolicy>(); }

}  // namespace kvstore::bench
