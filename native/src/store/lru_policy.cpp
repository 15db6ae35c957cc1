// The LRU policy: blocks of one stamp form a group, and groups are a list from the oldest stamp to the youngest. Within
// a group blocks are a list from the deepest to the shallowest, so the victim is always the first block of the first
// group. Lists are intrusive, in arrays indexed by slot and by group: 16 bytes a block, 24 a group plus its place in
// the table that finds a group by its stamp.
#include "base/assert.h"
#include "store/chunked_array.h"
#include "store/depth_order.h"
#include "store/eviction.h"
#include "store/prefetch.h"
#include "store/slot_table.h"

namespace kvstore {

namespace {

// A request's group is made when its first block arrives; requests that began later may have theirs already. The place
// by stamp is looked for among this many of them. A request later than that takes its place there, which keeps every
// call O(1): its blocks are still one group, and deeper still goes before shallower.
constexpr int kYoungerGroupsPassed = 64;

// Scatters stamps, which are nearly consecutive: a table probed linearly must not be filled in long runs.
uint32_t tag_of(Stamp stamp) {
  return static_cast<uint32_t>((static_cast<uint64_t>(stamp) * 0x9e3779b97f4a7c15) >> 32);
}

class LruPolicy final : public EvictionPolicy {
 public:
  void on_insert(Stamp stamp, std::span<const TouchedBlock> blocks) override;
  void on_touch(Stamp stamp, std::span<const TouchedBlock> blocks) override;
  void on_remove(uint32_t slot) override;
  uint32_t victim(Stamp now, const std::function<bool(uint32_t)>& evictable, uint32_t limit) override;

  bool contains(uint32_t slot) const override { return slot < nodes_.size() && nodes_[slot].group != kNone; }
  size_t size() const override { return size_; }
  size_t memory_bytes() const override;
  bool consistent() const override;

 private:
  struct Node {
    uint32_t deeper = kNone;
    uint32_t shallower = kNone;
    uint32_t group = kNone;  // kNone: the policy does not hold the slot
    uint32_t depth = 0;
  };

  struct Group {
    Stamp stamp{};
    uint32_t older = kNone;
    uint32_t younger = kNone;  // in the list of unused groups: the next of them
    uint32_t deepest = kNone;
    uint32_t shallowest = kNone;
  };

  void prefetch_neighbours(const Node& node) const;
  uint32_t find_group(Stamp stamp) const;
  uint32_t make_group(Stamp stamp);
  void drop_group(uint32_t group);
  void link(uint32_t slot, uint32_t depth, Stamp stamp);
  void link_between(uint32_t slot, uint32_t deeper, uint32_t shallower, Group& group);
  void unlink(uint32_t slot);
  uint32_t check_group(uint32_t group) const;

  ChunkedArray<Node> nodes_;    // by slot
  ChunkedArray<Group> groups_;  // by group number
  SlotTable groups_by_stamp_;
  uint32_t groups_made_ = 0;  // group numbers ever used
  uint32_t unused_group_ = kNone;
  uint32_t oldest_ = kNone;
  uint32_t youngest_ = kNone;
  uint32_t last_linked_ = kNone;  // where a request that arrives piece by piece probably goes on
  size_t size_ = 0;
  DepthOrder by_depth_;  // ascending, so that each block but the first of a new group goes to its deep end
};

void LruPolicy::on_insert(Stamp stamp, std::span<const TouchedBlock> blocks) {
  for (const TouchedBlock& block : by_depth_(blocks)) {
    while (block.slot >= nodes_.size()) nodes_.grow();
    KVSTORE_ASSERT(nodes_[block.slot].group == kNone);
    link(block.slot, block.depth, stamp);
    ++size_;
  }
}

void LruPolicy::on_touch(Stamp stamp, std::span<const TouchedBlock> blocks) {
  // A batch may touch blocks from all over: fetch their nodes together, then the neighbours that will be relinked.
  for (const TouchedBlock& block : blocks) {
    if (block.slot < nodes_.size()) prefetch(&nodes_[block.slot]);
  }
  for (const TouchedBlock& block : blocks) {
    if (contains(block.slot)) prefetch_neighbours(nodes_[block.slot]);
  }
  for (const TouchedBlock& block : by_depth_(blocks)) {
    if (!contains(block.slot) || groups_[nodes_[block.slot].group].stamp >= stamp) continue;
    unlink(block.slot);
    link(block.slot, block.depth, stamp);
  }
}

void LruPolicy::prefetch_neighbours(const Node& node) const {
  if (node.deeper != kNone) prefetch(&nodes_[node.deeper]);
  if (node.shallower != kNone) prefetch(&nodes_[node.shallower]);
  prefetch(&groups_[node.group]);
}

void LruPolicy::on_remove(uint32_t slot) {
  KVSTORE_ASSERT(contains(slot));
  unlink(slot);
  --size_;
}

uint32_t LruPolicy::victim(Stamp now, const std::function<bool(uint32_t)>& evictable, uint32_t limit) {
  for (uint32_t refused = 0; refused < limit && oldest_ != kNone; ++refused) {
    const uint32_t slot = groups_[oldest_].deepest;
    if (evictable(slot)) return slot;
    if (groups_[oldest_].stamp >= now) return kNone;  // all were refused, and this is the first of them again
    const uint32_t depth = nodes_[slot].depth;
    unlink(slot);
    link(slot, depth, now);
  }
  return kNone;
}

uint32_t LruPolicy::find_group(Stamp stamp) const {
  if (youngest_ != kNone && groups_[youngest_].stamp == stamp) return youngest_;
  return groups_by_stamp_.find(tag_of(stamp), [&](uint32_t group) { return groups_[group].stamp == stamp; });
}

uint32_t LruPolicy::make_group(Stamp stamp) {
  uint32_t number = unused_group_;
  if (number != kNone) {
    unused_group_ = groups_[number].younger;
  } else {
    number = groups_made_++;
    if (number >= groups_.size()) groups_.grow();
  }
  groups_by_stamp_.insert(tag_of(stamp), number);

  uint32_t younger = kNone;
  uint32_t older = youngest_;
  for (int passed = 0; passed < kYoungerGroupsPassed && older != kNone && groups_[older].stamp > stamp; ++passed) {
    younger = older;
    older = groups_[older].older;
  }
  groups_[number] = {stamp, older, younger, kNone, kNone};
  (older == kNone ? oldest_ : groups_[older].younger) = number;
  (younger == kNone ? youngest_ : groups_[younger].older) = number;
  return number;
}

void LruPolicy::drop_group(uint32_t number) {
  Group& group = groups_[number];
  (group.older == kNone ? oldest_ : groups_[group.older].younger) = group.younger;
  (group.younger == kNone ? youngest_ : groups_[group.younger].older) = group.older;
  groups_by_stamp_.erase(tag_of(group.stamp), number);
  group.younger = unused_group_;
  unused_group_ = number;
}

void LruPolicy::link(uint32_t slot, uint32_t depth, Stamp stamp) {
  uint32_t number = find_group(stamp);
  if (number == kNone) number = make_group(stamp);
  Group& group = groups_[number];
  Node& node = nodes_[slot];
  node.group = number;
  node.depth = depth;
  if (group.deepest == kNone || depth >= nodes_[group.deepest].depth) {
    link_between(slot, kNone, group.deepest, group);
  } else if (depth <= nodes_[group.shallowest].depth) {
    link_between(slot, group.shallowest, kNone, group);
  } else {
    // Strictly between the ends, so both walks stop inside the list.
    const bool nearby = last_linked_ != slot && contains(last_linked_) && nodes_[last_linked_].group == number;
    uint32_t deeper = nearby ? last_linked_ : group.deepest;
    while (nodes_[deeper].depth < depth) deeper = nodes_[deeper].deeper;
    while (nodes_[nodes_[deeper].shallower].depth > depth) deeper = nodes_[deeper].shallower;
    link_between(slot, deeper, nodes_[deeper].shallower, group);
  }
  last_linked_ = slot;
}

void LruPolicy::link_between(uint32_t slot, uint32_t deeper, uint32_t shallower, Group& group) {
  nodes_[slot].deeper = deeper;
  nodes_[slot].shallower = shallower;
  (deeper == kNone ? group.deepest : nodes_[deeper].shallower) = slot;
  (shallower == kNone ? group.shallowest : nodes_[shallower].deeper) = slot;
}

void LruPolicy::unlink(uint32_t slot) {
  Node& node = nodes_[slot];
  Group& group = groups_[node.group];
  (node.deeper == kNone ? group.deepest : nodes_[node.deeper].shallower) = node.shallower;
  (node.shallower == kNone ? group.shallowest : nodes_[node.shallower].deeper) = node.deeper;
  if (group.deepest == kNone) drop_group(node.group);
  node.group = kNone;
}

size_t LruPolicy::memory_bytes() const {
  return sizeof(*this) + nodes_.memory_bytes() + groups_.memory_bytes() + groups_by_stamp_.memory_bytes() +
         by_depth_.memory_bytes();
}

// The number of blocks in the group, or 0 if anything is wrong: a group is never empty.
uint32_t LruPolicy::check_group(uint32_t number) const {
  const Group& group = groups_[number];
  uint32_t blocks = 0;
  uint32_t previous = kNone;
  for (uint32_t slot = group.deepest; slot != kNone; slot = nodes_[slot].shallower) {
    const Node& node = nodes_[slot];
    if (++blocks > size_ || node.group != number || node.deeper != previous) return 0;
    if (previous != kNone && nodes_[previous].depth < node.depth) return 0;
    previous = slot;
  }
  return group.shallowest == previous && find_group(group.stamp) == number ? blocks : 0;
}

bool LruPolicy::consistent() const {
  size_t blocks = 0;
  uint32_t groups = 0;
  uint32_t previous = kNone;
  for (uint32_t group = oldest_; group != kNone; group = groups_[group].younger) {
    const uint32_t in_group = check_group(group);
    if (++groups > groups_made_ || in_group == 0 || groups_[group].older != previous) return false;
    blocks += in_group;
    previous = group;
  }
  return youngest_ == previous && blocks == size_ && groups == groups_by_stamp_.size() && groups_by_stamp_.consistent();
}

}  // namespace

std::unique_ptr<EvictionPolicy> make_lru_policy() { return std::make_unique<LruPolicy>(); }

}  // namespace kvstore
