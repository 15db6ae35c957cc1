// The part of a batch that travels in one request frame (at most kKeysMax keys), and its progress.
#pragma once

#include <algorithm>
#include <cstring>
#include <memory>
#include <span>
#include <vector>

#include "base/checksum.h"
#include "client/batch.h"
#include "wire/codec.h"

namespace kvstore {

struct BlockProgress {
  uint32_t bytes = 0;  // received (get) or handed to the lane (put)
  uint32_t crc = 0;    // of those bytes
};

class Transfer {
 public:
  Transfer(std::shared_ptr<Batch> owner, uint64_t request_id, uint32_t first, uint32_t count)
      : batch(std::move(owner)), id(request_id), first_key(first), key_count(count), progress(count) {}

  [[nodiscard]] std::span<const Key> keys() const { return {batch->keys.data() + first_key, key_count}; }
  [[nodiscard]] const BlockPieces& block(uint32_t index) const { return batch->blocks[first_key + index]; }
  [[nodiscard]] Status& status(uint32_t index) { return batch->statuses[first_key + index]; }
  [[nodiscard]] Status entry_status(uint32_t index) const { return static_cast<Status>(entries[index].status); }
  [[nodiscard]] bool wants_bytes() const { return batch->verb == Verb::kGet || batch->verb == Verb::kBorrow; }

  // The request frame for this part of the batch, if it is sent at this moment.
  [[nodiscard]] Bytes request_frame(uint64_t now_ns) const;

  // Calls visit(piece bytes, in order) over [offset, offset + bytes) of a block.
  template <class Visit>
  void for_each_piece(uint32_t index, uint32_t offset, uint32_t bytes, Visit visit) const {
    const BlockPieces& range = block(index);
    uint64_t skip = offset;
    for (uint32_t i = 0; i < range.count && bytes > 0; ++i) {
      const Piece& piece = batch->pieces[range.first + i];
      if (skip >= piece.bytes) {
        skip -= piece.bytes;
        continue;
      }
      const auto take = static_cast<uint32_t>(std::min<uint64_t>(piece.bytes - skip, bytes));
      visit(piece.data + skip, take);
      bytes -= take;
      skip = 0;
    }
  }

  std::shared_ptr<Batch> batch;
  const uint64_t id;
  const uint32_t first_key;
  const uint32_t key_count;
  std::vector<BlockProgress> progress;
  std::vector<BlockEntry> entries;    // the node's grant (put) or reply (get), once it came
  uint32_t next_block = 0;            // put: the one being sent
  std::vector<Status> last_word;      // put: of the node, once it came
  uint32_t placements_in_flight = 0;  // get over RDMA: receives that still write to the caller's memory
};

}  // namespace kvstore
