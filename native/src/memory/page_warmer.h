// Brings the pages of shared memory that exist already into this process's page table, ahead of whoever reads them.
//
// The first touch of each page by a process costs a fault, 0.3 us for 4 KiB: as long as copying it twice, and the
// kernel has no cheaper way. A thread in the background pays that instead, about 80 ms a GiB, once for each page; pages
// that the owner of the memory takes later are found by looking whether there are more of them. Holes stay holes.
//
// The thread has ordinary priority: it works with the process's mappings locked, in short steps, and a thread that the
// scheduler leaves waiting must not hold that lock.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <stop_token>
#include <thread>
#include <vector>

namespace kvstore {

class PageWarmer {
 public:
  // `data` maps all of the file behind `fd`; both must outlive this. Memory in huge pages is left alone, and so is all
  // where the kernel is older than 5.14.
  PageWarmer(int fd, std::byte* data);

 private:
  struct Range {
    int64_t begin;
    int64_t end;
  };

  void run(const std::stop_token& stop);
  bool warm_new(const std::stop_token& stop);
  bool warm(int64_t begin, int64_t end, const std::stop_token& stop) const;
  [[nodiscard]] std::vector<Range> existing() const;

  const int fd_;
  std::byte* const data_;
  std::vector<Range> warm_;  // ascending, apart
  std::mutex mutex_;
  std::condition_variable_any stopped_;
  std::jthread thread_;  // last: it ends before what it uses
};

}  // namespace kvstore
