// The requests that may still touch or insert blocks: which conversation each goes on with, and where its chain ends.
//
// The reading and the writing of an engine's request are separate requests of the store. A write that begins one block
// below the end of what a recent request read is taken to go on with it. Not thread-safe: the owner locks.
#pragma once

#include <array>
#include <cstdint>

#include "store/request_history.h"

namespace kvstore {

struct OpenRequest {
  static constexpr uint32_t kNone = UINT32_MAX;

  uint64_t stamp = 0;
  uint32_t deepest = kNone;  // slot of the deepest block
  uint32_t deepest_depth = 0;
  uint32_t record = kNone;        // in the history
  uint32_t recognised_depth = 0;  // of the block that told which conversation this is, plus 1
  uint32_t known_depth = 0;       // blocks from here on are new to the conversation
  uint32_t added = 0;             // such blocks
  bool named = false;             // in the history by its first new block
  ReturnClass kind;
};

class OpenRequests {
 public:
  // The request of this stamp, if it is still known, or a new one. Valid until the next call.
  OpenRequest& touching(uint64_t stamp);
  // The same; a new one goes on with a recent request that ends one above `first_depth`, if there is one.
  OpenRequest& inserting(uint64_t stamp, uint32_t first_depth);
  // The block is gone; `parent` is before it in its chain.
  void forget(uint32_t slot, uint32_t parent, uint32_t parent_depth);

  // A younger request within so many stamps may be a part of the same request of an engine.
  static constexpr uint64_t kSameRequestStamps = 256;

 private:
  static constexpr uint32_t kOpenMax = 32;

  OpenRequest* find(uint64_t stamp);
  OpenRequest& replace_oldest(uint64_t stamp);

  std::array<OpenRequest, kOpenMax> requests_;
  uint32_t last_ = 0;  // the one used last
  uint32_t newest_ = 0;
};

}  // namespace kvstore
