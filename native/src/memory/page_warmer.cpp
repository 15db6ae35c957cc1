#include "memory/page_warmer.h"

#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>

namespace kvstore {

namespace {

constexpr int64_t kStepBytes = 256 << 10;  // some 20 us
constexpr int64_t kPageBytesMax = 64 << 10;
// Between looks: short while pages are being added.
constexpr std::chrono::milliseconds kShortPause{50};
constexpr std::chrono::milliseconds kLongPause{1000};

}  // namespace

PageWarmer::PageWarmer(int fd, std::byte* data)
    : fd_(fd), data_(data), thread_([this](const std::stop_token& stop) { run(stop); }) {}

void PageWarmer::run(const std::stop_token& stop) {
  auto pause = kShortPause;
  blkcnt_t pages_seen = 0;
  while (!stop.stop_requested()) {
    struct stat status;
    if (fstat(fd_, &status) != 0 || status.st_blksize > kPageBytesMax) return;
    const bool more = status.st_blocks != pages_seen;
    pages_seen = status.st_blocks;
    if (more && !warm_new(stop)) return;
    pause = more ? kShortPause : std::min(pause * 2, kLongPause);
    std::unique_lock lock(mutex_);
    stopped_.wait_for(lock, stop, pause, [] { return false; });
  }
}

bool PageWarmer::warm_new(const std::stop_token& stop) {
  std::vector<Range> now = existing();
  auto known = warm_.begin();
  for (const Range& range : now) {
    int64_t at = range.begin;
    for (; known != warm_.end() && known->begin < range.end; ++known) {
      if (!warm(at, known->begin, stop)) return false;
      at = known->end;
    }
    if (!warm(at, range.end, stop)) return false;
  }
  warm_ = std::move(now);
  return true;
}

bool PageWarmer::warm(int64_t begin, int64_t end, const std::stop_token& stop) const {
  for (int64_t at = begin; at < end; at += kStepBytes) {
    if (stop.stop_requested()) return false;
    const auto bytes = static_cast<size_t>(std::min(kStepBytes, end - at));
    if (madvise(data_ + at, bytes, MADV_POPULATE_READ) != 0) return false;
  }
  return true;
}

// Looking moves the place in a file that others share, but they name theirs in each call as well.
std::vector<PageWarmer::Range> PageWarmer::existing() const {
  std::vector<Range> ranges;
  int64_t end = 0;
  while (true) {
    const int64_t begin = lseek(fd_, end, SEEK_DATA);
    if (begin < 0) return ranges;
    end = lseek(fd_, begin, SEEK_HOLE);
    if (end < 0) return ranges;
    ranges.push_back({begin, end});
  }
}

}  // namespace kvstore
