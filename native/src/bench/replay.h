// Replays a trace of requests against an eviction policy: the policy's real code, with blocks that have no bytes.
//
// A request is a chain of blocks. The leading blocks that are present are its usable hits; what comes after the first
// missing one cannot be used, present or not. Then the request's missing blocks are stored: room for all of them is
// made first, as a put reserves before it publishes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "store/eviction.h"

namespace kvstore::bench {

// Blocks are numbered from 0 without gaps. `blocks` has the chains one after the other, `lengths` the blocks of each.
struct Trace {
  std::vector<uint32_t> blocks;
  std::vector<uint32_t> lengths;
  uint32_t unique_blocks = 0;
};

// Throws std::invalid_argument unless the lengths add up, no request has a block twice, and each block always has the
// same predecessor in its chain.
[[nodiscard]] Trace make_trace(std::span<const uint32_t> blocks, std::span<const uint32_t> lengths);

enum class Stamps {
  kOneARequest,  // what a request reads and what it writes age together
  kAsEngines,    // an engine reads and writes in two requests of the store
};

struct ReplayResult {
  uint64_t references = 0;    // blocks asked for
  uint64_t usable_hits = 0;   // leading blocks that were present
  uint64_t operations = 0;    // blocks that the policy was told of or asked for
  uint64_t policy_ns = 0;     // in the policy, and in the replay's own record of which block has which slot
  uint64_t policy_bytes = 0;  // at the end
  uint64_t blocks_held = 0;   // at the end
};

// Throws std::invalid_argument if a request is larger than the capacity, which counts blocks.
[[nodiscard]] ReplayResult replay(const Trace& trace, uint32_t capacity, EvictionPolicy& policy, Stamps stamps);

// The most usable hits that are possible with this capacity, by Belady's rule: what is used furthest in the future goes
// first, and of one request the deeper. Who uses a block uses all before it in its chain, so a block's next use is
// never after that of the deeper ones; hence no prefix goes before its suffix, all hits are usable, and the rule's
// optimality for hits is one for usable hits. A block may go as it comes.
[[nodiscard]] uint64_t belady_hits(const Trace& trace, uint32_t capacity);

[[nodiscard]] std::vector<std::string> policy_names();
// Throws std::invalid_argument for a name that is not among `policy_names`.
[[nodiscard]] std::unique_ptr<EvictionPolicy> make_policy(std::string_view name);

}  // namespace kvstore::bench
