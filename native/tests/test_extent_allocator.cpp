#include "memory/extent_allocator.h"

#include <algorithm>
#include <random>
#include <stdexcept>
#include <vector>

#include "check.h"

using kvstore::Extent;
using kvstore::ExtentAllocator;

namespace {

constexpr uint64_t kGranule = ExtentAllocator::kGranuleBytes;
constexpr uint64_t kMiB = 1 << 20;

// One byte a granule: who holds it. The plainest possible description of a space.
class ByteMap {
 public:
  explicit ByteMap(uint64_t capacity_bytes) : owners_(capacity_bytes / kGranule, 0) {}

  void take(uint64_t offset, uint64_t bytes) { fill(offset, bytes, 0, 1); }
  void give_back(uint64_t offset, uint64_t bytes) { fill(offset, bytes, 1, 0); }

  [[nodiscard]] uint64_t used_bytes() const {
    return static_cast<uint64_t>(std::count(owners_.begin(), owners_.end(), 1)) * kGranule;
  }

  [[nodiscard]] uint64_t largest_free_bytes() const {
    uint64_t largest = 0;
    uint64_t run = 0;
    for (const uint8_t owner : owners_) {
      run = owner == 0 ? run + 1 : 0;
      largest = std::max(largest, run);
    }
    return largest * kGranule;
  }

 private:
  void fill(uint64_t offset, uint64_t bytes, uint8_t expected, uint8_t value) {
    CHECK_EQ(offset % kGranule, 0u);
    const uint64_t first = offset / kGranule;
    const uint64_t last = (offset + bytes + kGranule - 1) / kGranule;
    CHECK(last <= owners_.size());
    for (uint64_t granule = first; granule < last; ++granule) {
      CHECK_EQ(int{owners_[granule]}, int{expected});
      owners_[granule] = value;
    }
  }

  std::vector<uint8_t> owners_;
};

struct Held {
  Extent extent;
  uint64_t bytes;
};

using SizeSource = uint64_t (*)(std::mt19937_64&);

uint64_t any_size(std::mt19937_64& random) {
  const int log2 = static_cast<int>(random() % 12);  // each power of two as likely: granules to megabytes
  return 1 + random() % (kGranule << log2);
}

uint64_t block_size(std::mt19937_64& random) {
  constexpr uint64_t kSizes[] = {64 << 10, 256 << 10, 257 << 10, 1 << 20, (1 << 20) + 1, 2 << 20};
  return kSizes[random() % std::size(kSizes)];
}

// Random allocations and frees beside the byte map. `fill` is the share of the space that the run hovers around.
void run_against_byte_map(uint64_t seed, uint64_t capacity_bytes, double fill, SizeSource size_of, int steps) {
  std::mt19937_64 random(seed);
  ExtentAllocator allocator(capacity_bytes);
  ByteMap map(capacity_bytes);
  std::vector<Held> held;
  for (int step = 0; step < steps; ++step) {
    const bool below = static_cast<double>(allocator.used_bytes()) < fill * static_cast<double>(capacity_bytes);
    if (random() % 100 < (below ? 70u : 30u)) {
      const uint64_t bytes = size_of(random);
      const uint64_t largest = map.largest_free_bytes();
      const std::optional<Extent> extent = allocator.allocate(bytes);
      const uint64_t rounded = ExtentAllocator::rounded(bytes);
      if (extent) {
        map.take(extent->offset, bytes);
        held.push_back({*extent, bytes});
      } else {
        CHECK(largest < rounded + rounded / 32 + kGranule);  // the promised bound on fragmentation
      }
    } else if (!held.empty()) {
      const size_t index = random() % held.size();
      allocator.free(held[index].extent.handle);
      map.give_back(held[index].extent.offset, held[index].bytes);
      held[index] = held.back();
      held.pop_back();
    }
    if (step % 64 == 0) {
      CHECK(allocator.consistent());
      CHECK_EQ(allocator.used_bytes(), map.used_bytes());
      CHECK_EQ(allocator.largest_free_bytes(), map.largest_free_bytes());
    }
  }
  for (const Held& each : held) allocator.free(each.extent.handle);
  CHECK(allocator.consistent());
  CHECK_EQ(allocator.used_bytes(), 0u);
  CHECK_EQ(allocator.largest_free_bytes(), allocator.capacity_bytes());
}

TEST(extent_allocator, agrees_with_a_byte_map) {
  for (uint64_t seed = 1; seed <= 4; ++seed) {
    run_against_byte_map(seed, 16 * kMiB, 0.5, any_size, 4000);
    run_against_byte_map(seed, 16 * kMiB + 12345, 1.0, any_size, 4000);
    run_against_byte_map(seed, 48 * kMiB, 1.0, block_size, 4000);
    run_against_byte_map(seed, 31 * kGranule, 1.0, any_size, 2000);
  }
}

TEST(extent_allocator, merges_with_both_neighbours) {
  ExtentAllocator allocator(3 * kMiB);
  const auto a = allocator.allocate(kMiB);
  const auto b = allocator.allocate(kMiB);
  const auto c = allocator.allocate(kMiB);
  CHECK(a && b && c);
  CHECK(!allocator.allocate(1));
  allocator.free(a->handle);
  allocator.free(c->handle);
  CHECK_EQ(allocator.largest_free_bytes(), kMiB);
  allocator.free(b->handle);
  CHECK_EQ(allocator.largest_free_bytes(), 3 * kMiB);
  CHECK(allocator.consistent());
  CHECK(allocator.allocate(3 * kMiB));
}

TEST(extent_allocator, rounds_to_the_granule_and_no_further) {
  ExtentAllocator allocator(64 * kMiB);
  CHECK_EQ(ExtentAllocator::rounded(1), kGranule);
  CHECK_EQ(ExtentAllocator::rounded(kGranule), kGranule);
  CHECK_EQ(ExtentAllocator::rounded(kGranule + 1), 2 * kGranule);
  uint64_t expected = 0;
  for (const uint64_t bytes : {uint64_t{1}, kGranule, kGranule + 1, kMiB + 1, 33 * kMiB - 1}) {
    CHECK(allocator.allocate(bytes));
    expected += ExtentAllocator::rounded(bytes);
    CHECK_EQ(allocator.used_bytes(), expected);
  }
}

TEST(extent_allocator, one_size_uses_the_whole_space) {
  constexpr uint64_t kBlock = 65 * kGranule;  // not where a class starts: the next class up has no such extent
  constexpr uint64_t kBlocks = 500;
  ExtentAllocator allocator(kBlock * kBlocks);
  std::vector<uint32_t> handles;
  while (const auto extent = allocator.allocate(kBlock)) handles.push_back(extent->handle);
  CHECK_EQ(handles.size(), kBlocks);
  CHECK_EQ(allocator.used_bytes(), allocator.capacity_bytes());
  for (size_t index = 0; index < kBlocks; index += 2) allocator.free(handles[index]);
  for (size_t index = 0; index < kBlocks; index += 2) CHECK(allocator.allocate(kBlock));
  CHECK_EQ(allocator.used_bytes(), allocator.capacity_bytes());
}

TEST(extent_allocator, reuses_handles_and_bookkeeping) {
  ExtentAllocator allocator(64 * kMiB);
  const uint64_t before = allocator.metadata_bytes();
  for (int round = 0; round < 20'000; ++round) {
    const auto a = allocator.allocate(kMiB);
    const auto b = allocator.allocate(3 * kMiB);
    CHECK(a && b);
    allocator.free(a->handle);
    allocator.free(b->handle);
  }
  CHECK_EQ(allocator.metadata_bytes(), before);
  CHECK(allocator.consistent());
}

TEST(extent_allocator, a_tebibyte_takes_no_memory_of_its_own) {
  constexpr uint64_t kTiB = uint64_t{1} << 40;
  ExtentAllocator allocator(kTiB);
  CHECK(allocator.metadata_bytes() < 256 << 10);
  constexpr uint64_t kExtents = 100'000;
  uint64_t last = 0;
  for (uint64_t index = 0; index < kExtents; ++index) {
    const auto extent = allocator.allocate(10 * kMiB);
    CHECK(extent);
    last = std::max(last, extent->offset);
  }
  CHECK(last > kTiB / 2);
  CHECK(allocator.metadata_bytes() < kExtents * 32);
  CHECK(allocator.consistent());
}

TEST(extent_allocator, the_largest_space_is_whole) {
  ExtentAllocator allocator(ExtentAllocator::kMaxCapacityBytes);
  CHECK_EQ(allocator.largest_free_bytes(), ExtentAllocator::kMaxCapacityBytes);
  const auto all = allocator.allocate(ExtentAllocator::kMaxCapacityBytes);
  CHECK(all);
  CHECK_EQ(allocator.largest_free_bytes(), 0u);
  CHECK(!allocator.allocate(1));
  allocator.free(all->handle);
  const auto low = allocator.allocate(uint64_t{9} << 40);
  const auto high = allocator.allocate(uint64_t{6} << 40);
  CHECK(low && high);
  CHECK(high->offset >= low->offset + (uint64_t{9} << 40));
  allocator.free(low->handle);
  allocator.free(high->handle);
  const auto first_half = allocator.allocate(uint64_t{8} << 40);
  const auto divider = allocator.allocate(1);
  CHECK(first_half && divider);
  allocator.free(first_half->handle);
  CHECK(!allocator.allocate(ExtentAllocator::kMaxCapacityBytes - kGranule));  // enough in all, but in two pieces
  CHECK(allocator.consistent());
}

TEST(extent_allocator, refuses_what_cannot_fit) {
  ExtentAllocator allocator(kMiB);
  CHECK(!allocator.allocate(kMiB + 1));
  CHECK(!allocator.allocate(UINT64_MAX));
  CHECK(allocator.allocate(kMiB));
  ExtentAllocator empty(kGranule - 1);
  CHECK_EQ(empty.capacity_bytes(), 0u);
  CHECK(!empty.allocate(1));
  CHECK(empty.consistent());
  bool thrown = false;
  try {
    ExtentAllocator too_large(ExtentAllocator::kMaxCapacityBytes + 1);
  } catch (const std::invalid_argument&) {
    thrown = true;
  }
  CHECK(thrown);
}

TEST(extent_allocator, rebuilds_a_space_from_a_list) {
  std::mt19937_64 random(17);
  ExtentAllocator first(kMiB);
  std::vector<std::pair<Extent, uint64_t>> kept;
  std::vector<Extent> freed;
  while (true) {
    const uint64_t bytes = 1 + random() % (5 * kGranule);
    const std::optional<Extent> extent = first.allocate(bytes);
    if (!extent) break;
    if (random() % 3 == 0) {
      freed.push_back(*extent);
    } else {
      kept.emplace_back(*extent, bytes);
    }
  }
  for (const Extent& extent : freed) first.free(extent.handle);
  std::sort(kept.begin(), kept.end(), [](const auto& a, const auto& b) { return a.first.offset < b.first.offset; });

  ExtentAllocator again(kMiB);
  std::vector<uint32_t> handles;
  for (const auto& [extent, bytes] : kept) {
    const std::optional<Extent> placed = again.allocate_at(extent.offset, bytes);
    CHECK(placed && placed->offset == extent.offset);
    CHECK(again.consistent());
    handles.push_back(placed->handle);
  }
  CHECK_EQ(again.used_bytes(), first.used_bytes());
  CHECK_EQ(again.largest_free_bytes(), first.largest_free_bytes());
  for (const uint32_t handle : handles) again.free(handle);
  CHECK_EQ(again.largest_free_bytes(), kMiB);
  CHECK(again.consistent());
}

TEST(extent_allocator, places_nothing_where_it_cannot_be) {
  ExtentAllocator allocator(10 * kGranule);
  CHECK(allocator.allocate_at(2 * kGranule, 3 * kGranule - 1));
  CHECK(!allocator.allocate_at(2 * kGranule, 1));             // taken
  CHECK(!allocator.allocate_at(4 * kGranule, 1));             // the end of what is taken
  CHECK(!allocator.allocate_at(0, kGranule));                 // free, but before what was placed
  CHECK(!allocator.allocate_at(9 * kGranule, kGranule + 1));  // past the end
  CHECK(!allocator.allocate_at(10 * kGranule, 1));
  CHECK(!allocator.allocate_at(5 * kGranule, UINT64_MAX));
  CHECK_EQ(allocator.used_bytes(), 3 * kGranule);
  CHECK(allocator.allocate_at(5 * kGranule, 5 * kGranule));  // to the last byte
  CHECK(!allocator.allocate_at(9 * kGranule, 1));
  CHECK(allocator.allocate(2 * kGranule).has_value());  // the gap at the start
  CHECK(!allocator.allocate(1));
  CHECK(allocator.consistent());
  CHECK_ABORTS(static_cast<void>(allocator.allocate_at(kGranule + 1, 1)));
  ExtentAllocator empty(0);
  CHECK(!empty.allocate_at(0, 1));
}

TEST(extent_allocator, misuse_aborts) {
  ExtentAllocator allocator(kMiB);
  const auto a = allocator.allocate(kGranule);
  const auto b = allocator.allocate(kGranule);
  CHECK(a && b);
  CHECK_ABORTS(static_cast<void>(allocator.allocate(0)));
  CHECK_ABORTS(allocator.free(12345));
  CHECK_ABORTS(allocator.free(UINT32_MAX));
  allocator.free(a->handle);
  CHECK_ABORTS(allocator.free(a->handle));  // a free extent
  allocator.free(b->handle);
  CHECK_ABORTS(allocator.free(b->handle));  // a handle that names nothing since its extent was merged
}

}  // namespace
