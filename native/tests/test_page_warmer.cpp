// Pages that exist are in the page table before they are read; holes stay holes, and later pages follow.
#include "memory/page_warmer.h"

#include <sys/mman.h>
#include <sys/stat.h>

#include <chrono>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <string>
#include <thread>

#include "check.h"
#include "memory/mapped_memfd.h"

using kvstore::MappedMemfd;
using kvstore::PageWarmer;

namespace {

constexpr uint64_t kMiB = 1 << 20;
constexpr uint64_t kBytes = 64 * kMiB;

// A second mapping of the memory, as another process has it.
class Reader {
 public:
  explicit Reader(const MappedMemfd& memory)
      : data_(static_cast<std::byte*>(mmap(nullptr, kBytes, PROT_READ, MAP_SHARED, memory.fd(), 0))) {
    CHECK(data_ != MAP_FAILED);
  }
  ~Reader() { munmap(data_, kBytes); }
  Reader(const Reader&) = delete;
  Reader& operator=(const Reader&) = delete;

  [[nodiscard]] std::byte* data() const { return data_; }

  // Of this mapping, in the page table.
  [[nodiscard]] uint64_t resident_bytes() const {
    char begin[32];
    std::snprintf(begin, sizeof(begin), "%lx-", reinterpret_cast<unsigned long>(data_));
    std::ifstream maps("/proc/self/smaps");
    bool mine = false;
    for (std::string line; std::getline(maps, line);) {
      if (line.rfind(begin, 0) == 0) mine = true;
      if (mine && line.rfind("Rss:", 0) == 0) return std::stoull(line.substr(4)) << 10;
    }
    return 0;
  }

  void wait_for(uint64_t bytes) const {
    for (int i = 0; i < 2'000 && resident_bytes() < bytes; ++i)
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    CHECK_EQ(resident_bytes(), bytes);
  }

 private:
  std::byte* const data_;
};

MappedMemfd new_memory() { return {"test", kBytes, 0, MappedMemfd::Pages::kNormal}; }

// As some kernels are set up to do for shared memory, where there is nothing to warm.
bool takes_huge_pages(const MappedMemfd& memory) {
  struct stat status;
  CHECK(fstat(memory.fd(), &status) == 0);
  return status.st_blksize > 64 << 10;
}

uint64_t taken_bytes(const MappedMemfd& memory) {
  struct stat status;
  CHECK(fstat(memory.fd(), &status) == 0);
  return static_cast<uint64_t>(status.st_blocks) * 512;
}

}  // namespace

TEST(page_warmer, pages_that_exist_are_entered_and_holes_stay_holes) {
  const MappedMemfd memory = new_memory();
  if (takes_huge_pages(memory)) return;
  std::memset(memory.data() + 3 * kMiB, 1, 2 * kMiB);
  std::memset(memory.data() + 20 * kMiB, 2, 5 * kMiB);
  const Reader reader(memory);
  CHECK_EQ(reader.resident_bytes(), 0u);
  const PageWarmer warmer(memory.fd(), reader.data());
  reader.wait_for(7 * kMiB);
  CHECK_EQ(taken_bytes(memory), 7 * kMiB);
}

TEST(page_warmer, pages_that_come_later_follow) {
  const MappedMemfd memory = new_memory();
  if (takes_huge_pages(memory)) return;
  const Reader reader(memory);
  const PageWarmer warmer(memory.fd(), reader.data());
  std::memset(memory.data() + 10 * kMiB, 1, kMiB);
  reader.wait_for(kMiB);
  // Before, after, and next to what is there.
  std::memset(memory.data() + 40 * kMiB, 2, kMiB);
  std::memset(memory.data() + 1 * kMiB, 3, kMiB);
  std::memset(memory.data() + 11 * kMiB, 4, kMiB);
  reader.wait_for(4 * kMiB);
  CHECK_EQ(taken_bytes(memory), 4 * kMiB);
}

TEST(page_warmer, ends_in_the_middle) {
  const MappedMemfd memory = new_memory();
  std::memset(memory.data(), 1, kBytes);
  for (int i = 0; i < 20; ++i) {
    const Reader reader(memory);
    const PageWarmer warmer(memory.fd(), reader.data());
  }
}
