// The default policy. A request goes on with a conversation or begins one. Three things are learned while serving: when
// conversations of a kind come back (ReturnModel); which of their blocks are used again when they do (Coverage); and
// how often a block at which many conversations part, such as the end of a system prompt, is used.
//
// Only leaves of the prefix tree are candidates, so suffixes go before prefixes whatever the model believes. Victims
// are the worst of a random sample, of which the worst so far are kept for the next search: exact ranks would have to
// be kept up while all of them change with age. The sample is seeded: equal calls have equal results.
//
// 32 bytes a block and 4 a leaf; some 50 for each request remembered, of which there are an eighth of the blocks, or
// kRequestsRemembered if that is more.
#include <algorithm>
#include <array>
#include <bit>
#include <vector>

#include "store/block_use.h"
#include "store/chunked_array.h"
#include "store/coverage.h"
#include "store/depth_order.h"
#include "store/eviction.h"
#include "store/open_requests.h"
#include "store/prefetch.h"
#include "store/prefix_tree.h"
#include "store/request_history.h"
#include "store/return_model.h"

namespace kvstore {

namespace {

constexpr size_t kRequestsRemembered = 4096;
constexpr size_t kBlocksARequest = 8;  // requests are remembered for a multiple of the time blocks are
constexpr size_t kFitsAWindow = 8;     // the model is fitted anew when this part of the requests is new
constexpr size_t kRequestsAFitMin = 64;

constexpr uint64_t kSharedAbsencesARecord = 4;

constexpr size_t kSampled = 8;
constexpr size_t kCandidatesKept = 16;
constexpr uint32_t kRefusedMax = 8;  // then the candidates are mostly in use, and all blocks are asked in turn

class ReusePolicy final : public EvictionPolicy {
 public:
  void on_insert(Stamp stamp, std::span<const TouchedBlock> blocks) override;
  void on_touch(Stamp stamp, std::span<const TouchedBlock> blocks) override;
  void on_remove(uint32_t slot) override;
  uint32_t victim(Stamp stamp, const std::function<bool(uint32_t)>& evictable, uint32_t limit) override;

  bool contains(uint32_t slot) const override { return tree_.contains(slot); }
  size_t size() const override { return tree_.size(); }
  size_t memory_bytes() const override;
  bool consistent() const override;

 private:
  struct Candidate {
    uint32_t slot = kNone;
    uint32_t rank = 0;
  };

  void begin(uint64_t now);
  void end_return();
  bool recognise(OpenRequest* request, std::span<const TouchedBlock> blocks, uint32_t shared_depth);
  void reconcile(const TouchedBlock& block, uint32_t previous);
  void insert(OpenRequest* request, const TouchedBlock& block);
  void watch_shared(const TouchedBlock& block, uint64_t now);
  void record(OpenRequest* request, uint32_t which, uint32_t digest);
  uint32_t open_record(uint64_t stamp);

  uint32_t rank(uint32_t slot, uint64_t now) const;
  void gather_candidates(uint64_t now);
  void refuse(uint32_t slot, uint64_t now);
  uint32_t ask_in_turn(const std::function<bool(uint32_t)>& evictable, uint32_t limit, uint64_t now);
  uint64_t draw();

  PrefixTree tree_;
  ChunkedArray<BlockUse> uses_;  // by slot
  OpenRequests open_;
  RequestHistory history_;
  ReturnModel model_;
  Coverage coverage_;
  DepthOrder by_depth_;
  size_t requests_since_fit_ = 0;
  uint64_t newest_stamp_ = 0;
  uint32_t returned_to_ = kNone;  // the deepest block used by the newest request, if a conversation came back with it
  std::vector<Candidate> candidates_;
  uint64_t random_state_ = 0x9e3779b97f4a7c15;
  uint32_t hand_ = 0;  // the slot asked last when all are asked in turn
};

// ---- requests

void ReusePolicy::on_touch(Stamp stamp, std::span<const TouchedBlock> blocks) {
  const uint64_t now = static_cast<uint64_t>(stamp) & BlockUse::kStampMask;
  for (const TouchedBlock& block : blocks) {
    tree_.prefetch_node(block.slot);
    if (block.slot < uses_.size()) prefetch(&uses_[block.slot]);
  }
  const std::span<const TouchedBlock> chain = by_depth_(blocks);
  const TouchedBlock* deepest_shared = nullptr;
  const TouchedBlock* deepest = nullptr;
  for (const TouchedBlock& block : chain) {
    if (!contains(block.slot)) continue;
    if (uses_[block.slot].branches == BlockUse::kBranchesShared) deepest_shared = &block;
    if (uses_[block.slot].stamp < now) deepest = &block;
  }
  if (deepest == nullptr) return;
  begin(now);
  OpenRequest& request = open_.touching(now);
  const uint32_t shared_depth = deepest_shared == nullptr ? 0 : deepest_shared->depth + 1;
  const bool own = deepest->depth >= shared_depth;
  const bool returned = own && recognise(&request, chain, shared_depth);
  if (own && request.recognised_depth == 0) {
    const BlockUse& end = uses_[deepest->slot];
    request.kind.turn = static_cast<uint8_t>(std::min<uint64_t>(end.turn + 1, ReturnClass::kTurns - 1));
    request.kind.gap = model_.gap_class(end.age(now));
  }
  uint32_t previous = kNone;
  for (const TouchedBlock& block : chain) {
    if (!contains(block.slot)) continue;
    reconcile(block, previous);
    previous = block.slot;
    BlockUse& use = uses_[block.slot];
    if (use.stamp >= now) continue;
    if (returned && block.depth >= shared_depth) coverage_.used(use.part());
    block.depth < shared_depth ? use.touch_shared(now) : use.touch_own(now);
  }
  if (deepest_shared != nullptr) watch_shared(*deepest_shared, now);
  if (request.deepest == kNone || deepest->depth >= request.deepest_depth) {
    request.deepest = deepest->slot;
    request.deepest_depth = deepest->depth;
  }
  if (!own) return;
  if (returned || returned_to_ != kNone) returned_to_ = deepest->slot;
  // Where blocks remain below, the conversation parts from its past here; else its past was longer, perhaps.
  const bool parts = !tree_.is_leaf(deepest->slot);
  request.known_depth = parts ? deepest->depth + 1 : std::max(request.known_depth, deepest->depth + 1);
  uses_[deepest->slot].set_kind(request.kind);
  record(&request, 0, deepest->digest);
}

// Calls for one request may be many. What came before this one is over when a younger one begins.
void ReusePolicy::begin(uint64_t now) {
  if (now <= newest_stamp_) return;
  end_return();
  newest_stamp_ = now;
}

// A conversation came back as far as `returned_to_`: what it had below is left behind.
void ReusePolicy::end_return() {
  if (returned_to_ == kNone) return;
  const uint64_t stamp = uses_[returned_to_].stamp;
  for (uint32_t below = tree_.newest_child(returned_to_); below != kNone; below = tree_.newest_child(below)) {
    BlockUse& use = uses_[below];
    if (use.superseded || use.stamp >= stamp) break;
    coverage_.unused(use.part());
    use.superseded = 1;
    coverage_.unused(use.part());  // nor is it as what it is from now on
  }
  coverage_.end_return();
  returned_to_ = kNone;
}

// Which conversation the blocks belong to: what the deepest of them says that a past request is known by. True if that
// request's conversation has come back with this one.
bool ReusePolicy::recognise(OpenRequest* request, std::span<const TouchedBlock> blocks, uint32_t shared_depth) {
  for (size_t at = blocks.size(); at-- > 0;) {
    const TouchedBlock& block = blocks[at];
    if (block.depth < shared_depth || block.depth < request->recognised_depth) return false;
    const uint32_t number = block.digest == 0 ? RequestHistory::kNone : history_.find(block.digest);
    if (number == RequestHistory::kNone) continue;
    request->recognised_depth = block.depth + 1;
    if (number == request->record) return false;
    PastRequest& past = history_[number];
    if (past.kind.shared()) return false;
    const uint64_t gap = std::max<uint64_t>(1, request->stamp - std::min(request->stamp, past.stamp));
    request->known_depth = std::max(request->known_depth, past.end_depth);
    if (past.kind.size == 0 && gap <= OpenRequests::kSameRequestStamps) {
      request->kind = past.kind;
      request->record = number;
      past.stamp = request->stamp;
      return false;
    }
    if (past.returned_after == 0) past.returned_after = gap;
    request->kind.turn = std::min<uint8_t>(past.kind.turn + 1, ReturnClass::kTurns - 1);
    request->kind.gap = model_.gap_class(gap);
    return true;
  }
  return false;
}

// Requests tell which block comes after which: believed over what was guessed when the block was inserted.
void ReusePolicy::reconcile(const TouchedBlock& block, uint32_t previous) {
  if (tree_.depth(block.slot) != block.depth) {
    tree_.remove(block.slot);
    tree_.add(block.slot, block.depth, kNone);
  }
  if (previous == kNone || tree_.parent(block.slot) == previous || tree_.depth(previous) >= block.depth) return;
  const bool follows = tree_.depth(previous) + 1 == block.depth;
  if (follows || tree_.parent(block.slot) == kNone) {
    tree_.move(block.slot, previous);
    uses_[previous].extended = 1;
  }
}

void ReusePolicy::on_insert(Stamp stamp, std::span<const TouchedBlock> blocks) {
  if (blocks.empty()) return;
  const uint64_t now = static_cast<uint64_t>(stamp) & BlockUse::kStampMask;
  const std::span<const TouchedBlock> chain = by_depth_(blocks);
  end_return();
  begin(now);
  OpenRequest& request = open_.inserting(now, chain.front().depth);
  recognise(&request, chain, 0);
  const TouchedBlock* last_known = nullptr;
  const TouchedBlock* first_new = nullptr;
  for (const TouchedBlock& block : chain) {
    insert(&request, block);
    if (uses_[block.slot].reused) last_known = &block;
    if (first_new == nullptr && !uses_[block.slot].reused) first_new = &block;
  }
  request.kind.size = static_cast<uint8_t>(std::min<uint32_t>(std::bit_width(request.added), ReturnClass::kSizes - 1));
  for (const TouchedBlock& block : chain) uses_[block.slot].set_kind(request.kind);
  uses_[request.deepest].set_kind(request.kind);
  if (last_known != nullptr) record(&request, 0, last_known->digest);
  if (first_new != nullptr && !request.named) {
    record(&request, 1, first_new->digest);
    request.named = true;
  }
  if (request.record == kNone) return;
  history_[request.record].kind = request.kind;
  history_[request.record].end_depth = request.deepest_depth;
}

void ReusePolicy::insert(OpenRequest* request, const TouchedBlock& block) {
  while (block.slot >= uses_.size()) uses_.grow();
  uint32_t above = request->deepest;
  uint32_t below = kNone;
  while (above != kNone && tree_.depth(above) >= block.depth) {
    below = above;
    above = tree_.parent(above);
  }
  tree_.add(block.slot, block.depth, above);
  BlockUse& use = uses_[block.slot];
  use = BlockUse{};
  use.stamp = request->stamp;
  use.reused = block.depth < request->known_depth;
  request->added += !use.reused;
  if (above != kNone) {
    BlockUse& before = uses_[above];
    before.extended = 1;
    if (below == kNone && before.branches < BlockUse::kBranchesShared) ++before.branches;
  }
  if (below != kNone && tree_.depth(below) > block.depth) {
    tree_.move(below, block.slot);
    use.extended = 1;
    use.branches = 1;
  }
  if (request->deepest == kNone || block.depth >= request->deepest_depth) {
    request->deepest = block.slot;
    request->deepest_depth = block.depth;
  }
}

// A shared block's absences are seen by the way; a sample of them is recorded.
void ReusePolicy::watch_shared(const TouchedBlock& block, uint64_t now) {
  if (block.digest == 0) return;
  const uint32_t known = history_.find(block.digest);
  if (known != RequestHistory::kNone) {
    PastRequest& past = history_[known];
    if (past.returned_after == 0) past.returned_after = std::max<uint64_t>(1, now - std::min(now, past.stamp));
  }
  if (draw() % kSharedAbsencesARecord != 0) return;
  const uint32_t number = open_record(now);
  history_[number].kind = uses_[block.slot].kind();
  history_.name(number, 0, block.digest);
}

// Makes the request known by the block.
void ReusePolicy::record(OpenRequest* request, uint32_t which, uint32_t digest) {
  if (digest == 0) return;
  if (request->record == kNone) {
    request->record = open_record(request->stamp);
    history_[request->record].kind = request->kind;
    history_[request->record].end_depth = request->deepest_depth;
  }
  history_.name(request->record, which, digest);
}

uint32_t ReusePolicy::open_record(uint64_t stamp) {
  if (++requests_since_fit_ >= std::max(kRequestsAFitMin, history_.requests().size() / kFitsAWindow)) {
    model_.fit(history_.requests(), stamp);
    requests_since_fit_ = 0;
  }
  return history_.open(stamp, std::max(kRequestsRemembered, size() / kBlocksARequest));
}

// ---- eviction

void ReusePolicy::on_remove(uint32_t slot) {
  if (slot == returned_to_) end_return();
  const uint32_t parent = tree_.parent(slot);
  open_.forget(slot, parent, parent == kNone ? 0 : tree_.depth(parent));
  tree_.remove(slot);
  if (parent == kNone || !tree_.is_leaf(parent)) return;
  const BlockUse& gone = uses_[slot];
  BlockUse& use = uses_[parent];
  // The end of a chain knew most about the request that touched all of it.
  if (!use.shared && !gone.superseded && use.stamp <= gone.stamp) {
    use.set_kind(gone.kind());
    use.stamp = gone.stamp;
  }
  for (Candidate& candidate : candidates_) {
    if (candidate.slot == slot) candidate.slot = parent;
  }
}

// The block's value in half octaves: what is learned is not exact enough to tell nearer values apart, and what was used
// last goes last among equals.
uint32_t ReusePolicy::rank(uint32_t slot, uint64_t now) const {
  constexpr int kBitsBelowHalfOctaves = 22;  // of a positive float, whose bits rise with it
  const BlockUse& use = uses_[slot];
  // The newest request may be the one that the space is for: without the start of its chain the rest is useless.
  if (use.stamp == newest_stamp_) return UINT32_MAX;
  const float returns = model_.value(use.kind(), use.age(now));
  const float value = use.shared ? returns : returns * coverage_.share(use.part());
  return std::bit_cast<uint32_t>(value) >> kBitsBelowHalfOctaves;
}

// Leaves the candidates with the worst in front. The sample is from all over memory, so its misses must overlap.
void ReusePolicy::gather_candidates(uint64_t now) {
  const std::span<const uint32_t> leaves = tree_.leaves();
  if (leaves.size() <= kSampled + kCandidatesKept) {
    candidates_.clear();
    for (const uint32_t slot : leaves) candidates_.push_back({slot, 0});
  } else {
    std::erase_if(candidates_,
                  [this](const Candidate& one) { return !contains(one.slot) || !tree_.is_leaf(one.slot); });
    std::array<const uint32_t*, kSampled> sampled;
    for (const uint32_t*& leaf : sampled) {
      leaf = &leaves[draw() % leaves.size()];
      prefetch(leaf);
    }
    for (const uint32_t* leaf : sampled) prefetch(&uses_[*leaf]);
    for (const uint32_t* leaf : sampled) {
      const auto is_same = [leaf](const Candidate& candidate) { return candidate.slot == *leaf; };
      if (std::none_of(candidates_.begin(), candidates_.end(), is_same)) candidates_.push_back({*leaf, 0});
    }
  }
  for (Candidate& candidate : candidates_) candidate.rank = rank(candidate.slot, now);
  std::sort(candidates_.begin(), candidates_.end(), [this](const Candidate& a, const Candidate& b) {
    if (a.rank != b.rank) return a.rank < b.rank;
    if (uses_[a.slot].stamp != uses_[b.slot].stamp) return uses_[a.slot].stamp < uses_[b.slot].stamp;
    return tree_.depth(a.slot) > tree_.depth(b.slot);
  });
  if (candidates_.size() > kCandidatesKept) candidates_.resize(kCandidatesKept);
}

uint32_t ReusePolicy::victim(Stamp stamp, const std::function<bool(uint32_t)>& evictable, uint32_t limit) {
  const uint64_t now = static_cast<uint64_t>(stamp) & BlockUse::kStampMask;
  gather_candidates(now);
  uint32_t refused = 0;
  for (const Candidate& candidate : candidates_) {
    if (refused == std::min(limit, kRefusedMax)) break;
    if (evictable(candidate.slot)) return candidate.slot;
    refuse(candidate.slot, now);
    ++refused;
  }
  return ask_in_turn(evictable, limit - refused, now);
}

void ReusePolicy::refuse(uint32_t slot, uint64_t now) {
  uses_[slot].stamp = std::max<uint64_t>(uses_[slot].stamp, now);
}

// Most ends of chains are in use. Whatever is not may go then, the deepest of its chain first.
uint32_t ReusePolicy::ask_in_turn(const std::function<bool(uint32_t)>& evictable, uint32_t limit, uint64_t now) {
  uint32_t asked = 0;
  for (uint64_t looked = 0; looked < tree_.slots() && asked < limit; ++looked) {
    hand_ = hand_ + 1 < tree_.slots() ? hand_ + 1 : 0;
    if (!contains(hand_)) continue;
    ++asked;
    if (!evictable(hand_)) {
      refuse(hand_, now);
      continue;
    }
    uint32_t deepest = hand_;
    for (uint32_t below = tree_.newest_child(deepest); below != kNone && asked < limit; ++asked) {
      if (!evictable(below)) break;
      deepest = below;
      below = tree_.newest_child(deepest);
    }
    return deepest;
  }
  return kNone;
}

uint64_t ReusePolicy::draw() {
  random_state_ ^= random_state_ << 13;
  random_state_ ^= random_state_ >> 7;
  random_state_ ^= random_state_ << 17;
  return random_state_;
}

size_t ReusePolicy::memory_bytes() const {
  return sizeof(*this) + tree_.memory_bytes() + uses_.memory_bytes() + history_.memory_bytes() +
         by_depth_.memory_bytes() + candidates_.capacity() * sizeof(Candidate);
}

bool ReusePolicy::consistent() const { return tree_.consistent() && history_.consistent(); }

}  // namespace

std::unique_ptr<EvictionPolicy> make_reuse_policy() { return std::make_unique<ReusePolicy>(); }

}  // namespace kvstore
