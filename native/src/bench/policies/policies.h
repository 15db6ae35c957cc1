// Policies from the literature, made aware of chains, for comparison in replays. Simple rather than fast: no node uses
// them.
#pragma once

#include <memory>

#include "store/eviction.h"

namespace kvstore::bench {

// Least recently used block by block, as if blocks were unrelated: the start of a chain goes first.
[[nodiscard]] std::unique_ptr<EvictionPolicy> make_plain_lru_policy();

// Least frequently used with dynamic ageing (Arlitt et al., "Evaluating content management techniques for web proxy
// caches", 2000): a block's priority is its uses plus the priority of the last victim at the time of its last use. Of
// equal priority the older request goes first, and the deeper block.
[[nodiscard]] std::unique_ptr<EvictionPolicy> make_lfu_policy();

// S3-FIFO (Yang et al., "FIFO queues are all you need for cache eviction", SOSP 2023): a small queue of a tenth for new
// blocks, a main one for those used again or known from before. A request's blocks enter a queue deepest first.
[[nodiscard]] std::unique_ptr<EvictionPolicy> make_s3_fifo_policy();

}  // namespace kvstore::bench
