// The blocks of a policy as a forest of prefixes: a block's parent is the block before it in its chain.
//
// A block whose prefix is gone cannot be used, so only leaves are worth evicting; they are listed, for sampling. Depth
// grows from parent to child, so there are no cycles. A removed block's children go to its parent.
//
// 24 bytes a block and 4 a leaf. Not thread-safe: the owner locks.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "store/chunked_array.h"
#include "store/prefetch.h"

namespace kvstore {

class PrefixTree {
 public:
  static constexpr uint32_t kNone = UINT32_MAX;

  // `parent` is kNone or a shallower block in the tree.
  void add(uint32_t slot, uint32_t depth, uint32_t parent);
  void move(uint32_t slot, uint32_t parent);
  void remove(uint32_t slot);

  [[nodiscard]] bool contains(uint32_t slot) const { return slot < nodes_.size() && nodes_[slot].depth != kNone; }
  [[nodiscard]] size_t size() const { return size_; }
  [[nodiscard]] uint64_t slots() const { return nodes_.size(); }  // every slot in the tree is below
  void prefetch_node(uint32_t slot) const {
    if (slot < nodes_.size()) prefetch(&nodes_[slot]);
  }

  // Of a block in the tree.
  [[nodiscard]] uint32_t depth(uint32_t slot) const { return nodes_[slot].depth; }
  [[nodiscard]] uint32_t parent(uint32_t slot) const { return nodes_[slot].parent; }
  [[nodiscard]] uint32_t newest_child(uint32_t slot) const { return nodes_[slot].child; }
  [[nodiscard]] uint32_t next_child(uint32_t child) const { return nodes_[child].next; }  // of the same parent
  [[nodiscard]] bool is_leaf(uint32_t slot) const { return nodes_[slot].child == kNone; }

  [[nodiscard]] std::span<const uint32_t> leaves() const { return leaves_; }

  [[nodiscard]] size_t memory_bytes() const { return nodes_.memory_bytes() + leaves_.capacity() * sizeof(uint32_t); }
  [[nodiscard]] bool consistent() const;  // every invariant, slow: for tests

 private:
  struct Node {
    uint32_t parent = kNone;
    uint32_t child = kNone;  // the newest; the others follow by `next`
    uint32_t next = kNone;   // among the children of one parent
    uint32_t previous = kNone;
    uint32_t leaf = kNone;   // place in leaves_
    uint32_t depth = kNone;  // kNone: not in the tree
  };

  void attach(uint32_t slot, uint32_t parent);
  void detach(uint32_t slot);
  void list_leaf(uint32_t slot);
  void unlist_leaf(uint32_t slot);

  ChunkedArray<Node> nodes_;  // by slot
  std::vector<uint32_t> leaves_;
  size_t size_ = 0;
};

}  // namespace kvstore
