#include "store/disk_check.h"

#include <algorithm>
#include <cerrno>
#include <new>
#include <span>

#include "base/assert.h"
#include "base/checksum.h"

namespace kvstore {
namespace {

constexpr uint32_t kReadBytes = 4u << 20;
constexpr size_t kReadsInFlight = 8;
// Reading over a gap this wide is cheaper than another read.
constexpr uint64_t kGapBytesMax = 64u << 10;

uint64_t rounded(uint64_t bytes) { return (bytes + kDiskGranuleBytes - 1) / kDiskGranuleBytes * kDiskGranuleBytes; }

uint64_t end_of(const BlockRow& row) { return row.offset + rounded(row.length); }

bool meet(const DiskRange& range, uint64_t begin, uint64_t end) {
  return range.offset < end && begin < range.offset + range.bytes;
}

bool any_meets(std::span<const DiskRange> ranges, uint64_t begin, uint64_t end) {
  return std::ranges::any_of(ranges, [&](const DiskRange& range) { return meet(range, begin, end); });
}

}  // namespace

// Some neighbouring blocks in one go, or one block, in pieces if it is larger than the buffer.
struct DiskCheck::Read {
  static constexpr std::align_val_t kAlignment{kDiskGranuleBytes};
  struct Free {
    void operator()(std::byte* memory) const { operator delete[](memory, kAlignment); }
  };

  std::unique_ptr<std::byte[], Free> data{new (kAlignment) std::byte[kReadBytes]};
  size_t first = 0;     // of the blocks
  size_t end = 0;       // behind the last of them
  uint64_t offset = 0;  // of what is in flight
  uint32_t bytes = 0;
  uint64_t summed_bytes = 0;  // of a block in pieces
  uint32_t crc = 0;
  int error = 0;
};

DiskCheck::DiskCheck(Disk& disk, std::vector<DiskRange> lost)
    : disk_(disk), lost_(std::move(lost)), reserved_(disk.reserved()) {
  for (size_t i = 0; i < kReadsInFlight; ++i) {
    reads_.push_back(std::make_unique<Read>());
    idle_.push_back(reads_.back().get());
  }
}

DiskCheck::~DiskCheck() {
  std::unique_lock lock(mutex_);
  ended_.wait(lock, [&] { return idle_.size() + ended_reads_.size() == reads_.size(); });
}

void DiskCheck::add(std::string_view catalog_key, std::string_view value) {
  if (const std::optional<BlockRow> row = decode_block(catalog_key, value)) {
    blocks_.push_back({*row});
  } else if (std::optional<PinRow> pin = decode_pin(catalog_key, value)) {
    pins_.push_back(std::move(*pin));
  } else if (!catalog_key.starts_with('m')) {
    findings_.push_back({"malformed", std::string(catalog_key), 0});
  }
}

uint64_t DiskCheck::plan() {
  look_at_pins();
  look_at_places();
  uint64_t bytes = 0;
  for (const Block& block : blocks_) {
    if (block.why == nullptr) bytes += block.row.length;
  }
  return bytes;
}

bool DiskCheck::read(std::chrono::milliseconds budget) {
  const auto end = std::chrono::steady_clock::now() + budget;
  while (!concluded_) {
    while (!idle_.empty() && take_next(idle_.back())) {
      Read* read = idle_.back();
      idle_.pop_back();
      start(read);
    }
    if (idle_.size() == reads_.size()) {
      conclude();
      break;
    }
    Read* read = nullptr;
    {
      std::unique_lock lock(mutex_);
      if (!ended_.wait_until(lock, end, [&] { return !ended_reads_.empty(); })) return false;
      read = ended_reads_.front();
      ended_reads_.pop_front();
    }
    proceed(read);
    if (std::chrono::steady_clock::now() >= end) return false;
  }
  return true;
}

// A pin keeps a block of the same catalog.
void DiskCheck::look_at_pins() {
  std::vector<Key> keys;
  keys.reserve(blocks_.size());
  for (const Block& block : blocks_) keys.push_back(block.row.key);
  const auto less = [](const Key& a, const Key& b) { return a.bytes < b.bytes; };
  std::sort(keys.begin(), keys.end(), less);
  for (const PinRow& pin : pins_) {
    if (std::binary_search(keys.begin(), keys.end(), pin.key, less)) {
      ++sound_pins_;
    } else {
      findings_.push_back({"orphaned", catalog_key_of_pin(pin.key, pin.owner), 0});
    }
  }
}

void DiskCheck::look_at_places() {
  for (Block& block : blocks_) block.why = trouble_with_place(block.row);
  std::sort(blocks_.begin(), blocks_.end(), [](const Block& a, const Block& b) { return a.row.offset < b.row.offset; });
  Block* furthest = nullptr;
  for (Block& block : blocks_) {
    if (block.why != nullptr) continue;
    if (furthest != nullptr && block.row.offset < end_of(furthest->row)) block.contested = furthest->contested = true;
    if (furthest == nullptr || end_of(block.row) > end_of(furthest->row)) furthest = &block;
  }
}

const char* DiskCheck::trouble_with_place(const BlockRow& row) const {
  const uint64_t capacity = disk_.capacity_bytes();
  const bool inside = row.length > 0 && row.offset % kDiskGranuleBytes == 0 && row.offset <= capacity &&
                      rounded(row.length) <= capacity - row.offset;
  if (!inside || reserved_between(row.offset, end_of(row))) return "outside";
  return any_meets(lost_, row.offset, end_of(row)) ? "lost" : nullptr;
}

bool DiskCheck::reserved_between(uint64_t begin, uint64_t end) const {
  const auto after = std::ranges::partition_point(
      reserved_, [&](const DiskRange& range) { return range.offset + range.bytes <= begin; });
  return after != reserved_.end() && meet(*after, begin, end);
}

// Fills in which blocks are read next, and where; false when there are no more.
bool DiskCheck::take_next(Read* read) {
  const bool alone = !singly_.empty();
  if (alone) {
    read->first = singly_.front();
    singly_.pop_front();
  } else {
    while (next_ < blocks_.size() && blocks_[next_].why != nullptr) ++next_;
    if (next_ == blocks_.size()) return false;
    read->first = next_++;
  }
  const BlockRow& first = blocks_[read->first].row;
  uint64_t end = end_of(first);
  read->end = read->first + 1;
  for (; !alone && next_ < blocks_.size(); ++next_) {
    const Block& block = blocks_[next_];
    if (block.why != nullptr) break;
    const uint64_t new_end = std::max(end, end_of(block.row));
    const bool fits = new_end - first.offset <= kReadBytes && block.row.offset <= end + kGapBytesMax;
    if (!fits || reserved_between(first.offset, new_end)) break;
    end = new_end;
    read->end = next_ + 1;
  }
  read->offset = first.offset;
  read->bytes = static_cast<uint32_t>(std::min<uint64_t>(end - first.offset, kReadBytes));
  read->summed_bytes = 0;
  read->crc = 0;
  return true;
}

void DiskCheck::start(Read* read) {
  disk_.read(read->offset, read->data.get(), read->bytes, [this, read](int error) {
    const std::lock_guard lock(mutex_);
    read->error = error;
    ended_reads_.push_back(read);
    ended_.notify_one();
  });
}

void DiskCheck::proceed(Read* read) {
  Block& first = blocks_[read->first];
  const bool single = read->end == read->first + 1;
  if (read->error != 0 && single) {
    first.why = "unreadable";
    bytes_read_ += first.row.length - read->summed_bytes;
  } else if (read->error != 0) {
    for (size_t i = read->first; i < read->end; ++i) singly_.push_back(i);
  } else if (single) {
    const auto wanted = static_cast<uint32_t>(std::min<uint64_t>(read->bytes, first.row.length - read->summed_bytes));
    read->crc = crc32c(read->data.get(), wanted, read->crc);
    read->summed_bytes += wanted;
    bytes_read_ += wanted;
    if (read->summed_bytes < first.row.length) {
      read->offset += read->bytes;
      read->bytes =
          static_cast<uint32_t>(std::min<uint64_t>(rounded(first.row.length - read->summed_bytes), kReadBytes));
      start(read);
      return;
    }
    judge(&first, read->crc);
  } else {
    for (size_t i = read->first; i < read->end; ++i) {
      const BlockRow& row = blocks_[i].row;
      judge(&blocks_[i], crc32c(read->data.get() + (row.offset - read->offset), row.length));
      bytes_read_ += row.length;
    }
  }
  idle_.push_back(read);
}

void DiskCheck::judge(Block* block, uint32_t crc) {
  if (crc != block->row.crc) block->why = block->contested ? "overlaps" : "corrupt";
}

// Of two rows whose sums are both right, the newer one tells whose bytes they are.
void DiskCheck::settle_contested() {
  Block* kept = nullptr;
  for (Block& block : blocks_) {
    if (block.why != nullptr || !block.contested) continue;
    if (kept != nullptr && block.row.offset < end_of(kept->row)) {
      const bool newer = block.row.stamp > kept->row.stamp;
      (newer ? *kept : block).why = "overlaps";
      if (!newer) continue;
    }
    kept = &block;
  }
}

void DiskCheck::conclude() {
  settle_contested();
  for (const Block& block : blocks_) {
    if (block.why != nullptr) {
      findings_.push_back({block.why, catalog_key_of_block(block.row.key), block.row.length});
    } else {
      ++sound_blocks_;
      sound_bytes_ += block.row.length;
    }
  }
  concluded_ = true;
}

}  // namespace kvstore
