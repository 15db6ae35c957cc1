// What other threads tell a data thread: that a request should look again, or that a block has come from disk.
#pragma once

#include <functional>
#include <utility>

#include "node/waiters.h"
#include "store/block_store.h"

namespace kvstore {

// A block of a get, read from disk. The lease belongs to whoever takes it out of the mail.
struct FetchedBlock {
  uint64_t session = 0;
  uint64_t request = 0;
  uint32_t index = 0;  // of the key in its request
  Status status = Status::kMiss;
  Lease lease;  // where the status is kOk
};

class Mailboxes {
 public:
  using Deliver = std::function<void(uint32_t thread, const FetchedBlock&)>;

  // Set once, before the data threads start.
  void deliver_with(Deliver deliver) { deliver_ = std::move(deliver); }
  void post(uint32_t thread, const FetchedBlock& fetched) const { deliver_(thread, fetched); }

 private:
  Deliver deliver_;
};

}  // namespace kvstore
