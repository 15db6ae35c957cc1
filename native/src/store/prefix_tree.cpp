#include "store/prefix_tree.h"

#include "base/assert.h"

namespace kvstore {

void PrefixTree::add(uint32_t slot, uint32_t depth, uint32_t parent) {
  while (slot >= nodes_.size()) nodes_.grow();
  KVSTORE_ASSERT(nodes_[slot].depth == kNone && depth != kNone);
  nodes_[slot] = Node{};
  nodes_[slot].depth = depth;
  list_leaf(slot);
  if (parent != kNone) attach(slot, parent);
  ++size_;
}

void PrefixTree::move(uint32_t slot, uint32_t parent) {
  detach(slot);
  if (parent != kNone) attach(slot, parent);
}

void PrefixTree::remove(uint32_t slot) {
  const uint32_t parent = nodes_[slot].parent;
  while (nodes_[slot].child != kNone) move(nodes_[slot].child, parent);
  detach(slot);
  unlist_leaf(slot);
  nodes_[slot].depth = kNone;
  --size_;
}

void PrefixTree::attach(uint32_t slot, uint32_t parent) {
  Node& node = nodes_[slot];
  Node& above = nodes_[parent];
  KVSTORE_ASSERT(above.depth < node.depth);
  if (above.child == kNone) {
    unlist_leaf(parent);
  } else {
    nodes_[above.child].previous = slot;
  }
  node.parent = parent;
  node.next = above.child;
  node.previous = kNone;
  above.child = slot;
}

void PrefixTree::detach(uint32_t slot) {
  Node& node = nodes_[slot];
  if (node.parent == kNone) return;
  Node& above = nodes_[node.parent];
  (node.previous == kNone ? above.child : nodes_[node.previous].next) = node.next;
  if (node.next != kNone) nodes_[node.next].previous = node.previous;
  if (above.child == kNone) list_leaf(node.parent);
  node.parent = node.next = node.previous = kNone;
}

void PrefixTree::list_leaf(uint32_t slot) {
  nodes_[slot].leaf = static_cast<uint32_t>(leaves_.size());
  leaves_.push_back(slot);
}

void PrefixTree::unlist_leaf(uint32_t slot) {
  const uint32_t place = nodes_[slot].leaf;
  leaves_[place] = leaves_.back();
  nodes_[leaves_[place]].leaf = place;
  leaves_.pop_back();
  nodes_[slot].leaf = kNone;
}

bool PrefixTree::consistent() const {
  size_t blocks = 0;
  size_t leaves = 0;
  size_t children = 0;
  size_t roots = 0;
  for (uint32_t slot = 0; slot < nodes_.size(); ++slot) {
    const Node& node = nodes_[slot];
    if (node.depth == kNone) continue;
    ++blocks;
    roots += node.parent == kNone;
    if ((node.child == kNone) != (node.leaf != kNone)) return false;
    if (node.leaf != kNone && (node.leaf >= leaves_.size() || leaves_[node.leaf] != slot)) return false;
    leaves += node.leaf != kNone;
    uint32_t previous = kNone;
    for (uint32_t child = node.child; child != kNone; child = nodes_[child].next) {
      if (++children > size_ || nodes_[child].parent != slot || nodes_[child].previous != previous) return false;
      if (nodes_[child].depth == kNone || nodes_[child].depth <= node.depth) return false;
      previous = child;
    }
  }
  return blocks == size_ && leaves == leaves_.size() && children + roots == blocks;
}

}  // namespace kvstore
