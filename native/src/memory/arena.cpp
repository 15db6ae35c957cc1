#include "memory/arena.h"

#include <fcntl.h>
#include <sys/mman.h>

#include <cerrno>
#include <system_error>

namespace kvstore {

namespace {

constexpr uint64_t kHugePageBytes = 2 << 20;
constexpr uint64_t kPageBytes = 4096;  // the smallest there is: to touch a larger one twice is harmless
constexpr int kSegmentSeals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;
constexpr int kArenaSeals = kSegmentSeals | F_SEAL_FUTURE_WRITE;

uint64_t round_up_to_huge_page(uint64_t bytes) {
  if (bytes > UINT64_MAX - kHugePageBytes) throw std::system_error(ENOMEM, std::generic_category(), "kvstore-arena");
  return (bytes + kHugePageBytes - 1) / kHugePageBytes * kHugePageBytes;
}

}  // namespace

Arena::Arena(uint64_t bytes, bool huge_pages) {
  constexpr const char* kName = "kvstore-arena";
  const uint64_t rounded = round_up_to_huge_page(bytes);
  if (huge_pages) {
    try {
      memory_ = std::make_unique<MappedMemfd>(kName, rounded, kArenaSeals, MappedMemfd::Pages::kHuge);
      huge_pages_ = true;
      return;
    } catch (const std::system_error&) {
      // None reserved, or too few: the usual case.
    }
  }
  memory_ = std::make_unique<MappedMemfd>(kName, rounded, kArenaSeals, MappedMemfd::Pages::kNormal);
}

void Arena::prefault() {
  // An atomic "or 0" is a write that changes nothing, even beside other writers.
  for (uint64_t offset = 0; offset < bytes(); offset += kPageBytes) {
    __atomic_fetch_or(reinterpret_cast<uint8_t*>(data() + offset), uint8_t{0}, __ATOMIC_RELAXED);
  }
}

ArenaView::ArenaView(int fd, uint64_t bytes)
    : memory_(fd, bytes, kArenaSeals, PROT_READ), warmer_(memory_.fd(), memory_.data()) {}

SharedSegment::SharedSegment(uint64_t bytes)
    : memory_("kvstore-segment", bytes, kSegmentSeals, MappedMemfd::Pages::kNormal) {}

SharedSegment::SharedSegment(int fd, uint64_t bytes) : memory_(fd, bytes, kSegmentSeals, PROT_READ | PROT_WRITE) {}

}  // namespace kvstore
