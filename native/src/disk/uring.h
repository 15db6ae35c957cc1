// The submission and completion rings that one thread shares with the kernel, by raw system calls.
//
// Made, used and destroyed by one thread (so the kernel keeps the work of completions for the moment when that thread
// asks for them, instead of interrupting it).
#pragma once

#include <linux/io_uring.h>

#include <cstddef>
#include <cstdint>

namespace kvstore {

class Uring {
 public:
  // `entries`: submissions that may lie in the ring unseen by the kernel. Throws std::system_error where the kernel
  // refuses io_uring, be it only its use.
  explicit Uring(uint32_t entries);
  ~Uring();
  Uring(const Uring&) = delete;
  Uring& operator=(const Uring&) = delete;

  // Puts one entry into the ring, for the next `submit_and_wait`. The caller never has more than `entries` under way.
  void prepare(const io_uring_sqe& entry);
  // Tells the kernel what was prepared and waits for a completion. May return without one, short of memory or at a
  // signal: then take what is there and call it again. 0, or the errno of a call that the kernel refuses.
  [[nodiscard]] int submit_and_wait();
  // The next completion, if there is one.
  [[nodiscard]] bool take(io_uring_cqe* completion);

 private:
  void map_rings(const io_uring_params& parameters);
  void try_out();

  struct Mapping {
    ~Mapping();
    void map(int fd, size_t length, uint64_t offset);
    [[nodiscard]] uint32_t* word(uint32_t at) const;
    void* address = nullptr;
    size_t bytes = 0;
  };
  struct Descriptor {
    ~Descriptor();
    int fd = -1;
  };

  Descriptor ring_;
  Mapping queues_;  // both: IORING_FEAT_SINGLE_MMAP
  Mapping entries_;
  uint32_t* submission_head_ = nullptr;  // the kernel moves it
  uint32_t* submission_tail_ = nullptr;
  uint32_t submission_mask_ = 0;
  uint32_t* completion_head_ = nullptr;
  uint32_t* completion_tail_ = nullptr;  // the kernel moves it
  uint32_t completion_mask_ = 0;
  io_uring_cqe* completions_ = nullptr;
};

}  // namespace kvstore
