// What the two engines share, and the two, for make_io_engine to choose from.
#pragma once

#include <cstdint>
#include <memory>
#include <utility>

#include "disk/io_queue.h"

namespace kvstore {

class QueuedEngine : public IoEngine {
 public:
  void read(int fd, uint64_t offset, std::byte* data, uint32_t bytes, Done done) final {
    push({IoDirection::kRead, fd, offset, data, bytes, std::move(done)});
  }
  void write(int fd, uint64_t offset, const std::byte* data, uint32_t bytes, Done done) final {
    push({IoDirection::kWrite, fd, offset, const_cast<std::byte*>(data), bytes, std::move(done)});
  }

 protected:
  virtual void push(IoRequest request) = 0;
};

// Throws std::system_error where the kernel refuses io_uring (too old, switched off, or hidden by a sandbox).
std::unique_ptr<IoEngine> make_uring_engine(uint32_t depth);
// Throws std::system_error when no threads can be started.
std::unique_ptr<IoEngine> make_thread_engine(uint32_t depth);

}  // namespace kvstore
