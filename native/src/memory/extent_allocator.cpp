#include "memory/extent_allocator.h"

#include <algorithm>
#include <bit>
#include <stdexcept>
#include <string>

#include "base/assert.h"

namespace kvstore {

namespace {

// How many extents of its own class a request looks at before it goes one class up.
constexpr int kProbes = 4;

}  // namespace

ExtentAllocator::ExtentAllocator(uint64_t capacity_bytes) : capacity_granules_(capacity_bytes / kGranuleBytes) {
  if (capacity_bytes > kMaxCapacityBytes) {
    throw std::invalid_argument("an extent allocator manages at most " + std::to_string(kMaxCapacityBytes) +
                                " bytes, but " + std::to_string(capacity_bytes) + " were asked for: split the space");
  }
  for (auto& heads : heads_) heads.fill(kNone);
  if (capacity_granules_ == 0) return;
  const uint32_t whole = acquire_node();
  node(whole) = {0, static_cast<uint32_t>(capacity_granules_), kNone, kNone, kNone, kNone};
  last_ = whole;
  link_free(whole);
}

ExtentAllocator::SizeClass ExtentAllocator::class_of(uint32_t granules) {
  if (granules < kSplit) return {0, granules};
  const uint32_t log2 = std::bit_width(granules) - 1;
  return {log2 - kSplitBits + 1, (granules >> (log2 - kSplitBits)) - kSplit};
}

// The smallest size that starts a class and is at least `granules`.
uint64_t ExtentAllocator::round_up_to_class(uint32_t granules) {
  if (granules < kSplit) return granules;
  const uint64_t class_width = uint64_t{1} << (std::bit_width(granules) - 1 - kSplitBits);
  return (granules + class_width - 1) & ~(class_width - 1);
}

uint32_t ExtentAllocator::find_free(uint32_t granules) const {
  const SizeClass own = class_of(granules);
  uint32_t candidate = heads_[own.power][own.split];
  for (int probe = 0; probe < kProbes && candidate != kNone; ++probe) {
    if (node(candidate).granules >= granules) return candidate;
    candidate = node(candidate).next_free;
  }

  const uint64_t start = round_up_to_class(granules);
  if (start > UINT32_MAX) return kNone;
  const SizeClass first = class_of(static_cast<uint32_t>(start));
  const uint32_t splits = split_bitmaps_[first.power] & (UINT32_MAX << first.split);
  if (splits != 0) return heads_[first.power][std::countr_zero(splits)];
  const uint32_t powers = power_bitmap_ & (UINT32_MAX << (first.power + 1));
  if (powers == 0) return kNone;
  const int power = std::countr_zero(powers);
  return heads_[power][std::countr_zero(split_bitmaps_[power])];
}

std::optional<Extent> ExtentAllocator::allocate(uint64_t bytes) {
  KVSTORE_ASSERT(bytes > 0);
  const uint64_t granules = granules_for(bytes);
  if (granules > capacity_granules_ - used_granules_) return std::nullopt;
  const uint32_t handle = find_free(static_cast<uint32_t>(granules));
  if (handle == kNone) return std::nullopt;
  // The node is taken before anything changes, so that running out of memory leaves the space as it was.
  const uint32_t rest = node(handle).granules > granules ? acquire_node() : kNone;
  unlink_free(handle);
  if (rest != kNone) split(handle, static_cast<uint32_t>(granules), rest);
  node(handle).previous_free = kInUse;
  used_granules_ += granules;
  return Extent{node(handle).first_granule * kGranuleBytes, handle};
}

std::optional<Extent> ExtentAllocator::allocate_at(uint64_t offset, uint64_t bytes) {
  KVSTORE_ASSERT(bytes > 0 && offset % kGranuleBytes == 0);
  const uint64_t first = offset / kGranuleBytes;
  const uint64_t granules = granules_for(bytes);
  if (first >= capacity_granules_ || granules > capacity_granules_ - first) return std::nullopt;
  if (!is_free(last_) || node(last_).first_granule > first) return std::nullopt;
  if (node(last_).first_granule < first) {  // what lies before stays free
    const uint32_t gap = last_;
    const uint32_t rest = acquire_node();
    unlink_free(gap);
    split(gap, static_cast<uint32_t>(first - node(gap).first_granule), rest);
    link_free(gap);
  }
  const uint32_t handle = last_;
  const uint32_t rest = node(handle).granules > granules ? acquire_node() : kNone;
  unlink_free(handle);
  if (rest != kNone) split(handle, static_cast<uint32_t>(granules), rest);
  node(handle).previous_free = kInUse;
  used_granules_ += granules;
  return Extent{offset, handle};
}

void ExtentAllocator::free(uint32_t handle) {
  KVSTORE_ASSERT(handle < node_count_);
  KVSTORE_ASSERT(node(handle).granules > 0 && !is_free(handle));
  used_granules_ -= node(handle).granules;
  const uint32_t next = node(handle).next;
  if (next != kNone && is_free(next)) {
    unlink_free(next);
    merge_with_next(handle);
  }
  const uint32_t previous = node(handle).previous;
  if (previous != kNone && is_free(previous)) {
    unlink_free(previous);
    merge_with_next(previous);
    handle = previous;
  }
  link_free(handle);
}

// Cuts an extent to `granules`; what is left becomes a free extent after it, with the handle `rest`.
void ExtentAllocator::split(uint32_t handle, uint32_t granules, uint32_t rest) {
  Node& front = node(handle);
  node(rest) = {front.first_granule + granules, front.granules - granules, handle, front.next, kNone, kNone};
  (front.next != kNone ? node(front.next).previous : last_) = rest;
  front.next = rest;
  front.granules = granules;
  link_free(rest);
}

// Neither extent may be in a free list. The lower one keeps its handle, so the first extent is always handle 0.
void ExtentAllocator::merge_with_next(uint32_t handle) {
  Node& front = node(handle);
  const uint32_t absorbed = front.next;
  front.granules += node(absorbed).granules;
  front.next = node(absorbed).next;
  (front.next != kNone ? node(front.next).previous : last_) = handle;
  release_node(absorbed);
}

void ExtentAllocator::link_free(uint32_t handle) {
  Node& extent = node(handle);
  const auto [power, split] = class_of(extent.granules);
  uint32_t& head = heads_[power][split];
  extent.previous_free = kNone;
  extent.next_free = head;
  if (head != kNone) node(head).previous_free = handle;
  head = handle;
  power_bitmap_ |= 1u << power;
  split_bitmaps_[power] |= 1u << split;
}

void ExtentAllocator::unlink_free(uint32_t handle) {
  const Node& extent = node(handle);
  if (extent.next_free != kNone) node(extent.next_free).previous_free = extent.previous_free;
  if (extent.previous_free != kNone) {
    node(extent.previous_free).next_free = extent.next_free;
    return;
  }
  const auto [power, split] = class_of(extent.granules);
  heads_[power][split] = extent.next_free;
  if (extent.next_free != kNone) return;
  split_bitmaps_[power] &= ~(1u << split);
  if (split_bitmaps_[power] == 0) power_bitmap_ &= ~(1u << power);
}

uint32_t ExtentAllocator::acquire_node() {
  if (unused_head_ != kNone) {
    const uint32_t handle = unused_head_;
    unused_head_ = node(handle).next_free;
    return handle;
  }
  KVSTORE_ASSERT(node_count_ < kInUse);
  if (node_count_ == blocks_.size() * kNodesPerBlock) blocks_.push_back(std::make_unique<Node[]>(kNodesPerBlock));
  return node_count_++;
}

void ExtentAllocator::release_node(uint32_t handle) {
  node(handle) = {0, 0, kNone, kNone, kNone, unused_head_};
  unused_head_ = handle;
}

uint64_t ExtentAllocator::largest_free_bytes() const {
  if (power_bitmap_ == 0) return 0;
  const uint32_t power = std::bit_width(power_bitmap_) - 1;
  const uint32_t split = std::bit_width(split_bitmaps_[power]) - 1;
  uint64_t largest = 0;
  for (uint32_t handle = heads_[power][split]; handle != kNone; handle = node(handle).next_free) {
    largest = std::max<uint64_t>(largest, node(handle).granules);
  }
  return largest * kGranuleBytes;
}

uint64_t ExtentAllocator::metadata_bytes() const {
  return sizeof(*this) + blocks_.capacity() * sizeof(blocks_[0]) + blocks_.size() * kNodesPerBlock * sizeof(Node);
}

bool ExtentAllocator::consistent() const { return space_consistent() && classes_consistent(); }

// The extents tile the space in order, no two free ones touch, and every node is either among them or unused.
bool ExtentAllocator::space_consistent() const {
  uint64_t position = 0;
  uint64_t used = 0;
  uint32_t nodes = 0;
  uint32_t previous = kNone;
  for (uint32_t handle = capacity_granules_ > 0 ? 0 : kNone; handle != kNone; handle = node(handle).next) {
    const Node& extent = node(handle);
    if (++nodes > node_count_) return false;
    if (extent.granules == 0 || extent.first_granule != position || extent.previous != previous) return false;
    if (is_free(handle) && previous != kNone && is_free(previous)) return false;
    if (!is_free(handle)) used += extent.granules;
    position += extent.granules;
    previous = handle;
  }
  for (uint32_t handle = unused_head_; handle != kNone; handle = node(handle).next_free) {
    if (++nodes > node_count_ || node(handle).granules != 0) return false;
  }
  return previous == last_ && position == capacity_granules_ && used == used_granules_ && nodes == node_count_;
}

// Every free extent is in the list of its class, and the bitmaps say which lists are not empty.
bool ExtentAllocator::classes_consistent() const {
  uint64_t free_granules = 0;
  uint32_t visited = 0;
  for (uint32_t power = 0; power < kPowers; ++power) {
    if ((split_bitmaps_[power] != 0) != ((power_bitmap_ >> power & 1) != 0)) return false;
    for (uint32_t split = 0; split < kSplit; ++split) {
      const uint32_t head = heads_[power][split];
      if ((head != kNone) != ((split_bitmaps_[power] >> split & 1) != 0)) return false;
      uint32_t previous = kNone;
      for (uint32_t handle = head; handle != kNone; handle = node(handle).next_free) {
        const Node& extent = node(handle);
        if (++visited > node_count_ || extent.previous_free != previous || extent.granules == 0) return false;
        const SizeClass expected = class_of(extent.granules);
        if (expected.power != power || expected.split != split) return false;
        free_granules += extent.granules;
        previous = handle;
      }
    }
  }
  return free_granules == capacity_granules_ - used_granules_;
}

}  // namespace kvstore
