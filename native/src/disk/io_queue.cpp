#include "disk/io_queue.h"

#include <algorithm>
#include <cerrno>
#include <utility>

#include "base/assert.h"

namespace kvstore {

namespace {

// The kernel asks to try again only for a moment (a signal, no memory for a request); this many times in one request
// is a fault like another.
constexpr uint32_t kRetriesMax = 100;
// A direct transfer may only be continued where a block of the device begins.
constexpr uint32_t kBlockBytes = 4096;

}  // namespace

void IoQueue::push(std::unique_ptr<IoRequest> request) {
  KVSTORE_ASSERT(request->bytes > 0 && request->bytes % kBlockBytes == 0 && request->offset % kBlockBytes == 0);
  if (request->direction == IoDirection::kRead) write_bytes_after_read_ = kWriteBytesAfterRead;
  lane(request->direction).requests.push_back(std::move(request));
}

IoPiece IoQueue::front(const Lane& from) {
  if (!from.again.empty()) return from.again.front();
  if (from.requests.empty()) return {};
  IoRequest* const request = from.requests.front().get();
  const uint32_t bytes_max = request->direction == IoDirection::kRead ? kReadPieceBytesMax : kWritePieceBytesMax;
  return {request, request->bytes_out, std::min(request->bytes - request->bytes_out, bytes_max)};
}

bool IoQueue::may_go(IoDirection direction, uint32_t bytes) const {
  const Lane& from = lane(direction);
  if (from.out == depth_) return false;
  if (direction == IoDirection::kRead || from.out == 0) return true;
  const bool beside_reads =
      lane(IoDirection::kRead).out > 0 || waiting(IoDirection::kRead) || write_bytes_after_read_ > 0;
  return from.bytes_out + bytes <= (beside_reads ? kWriteBytesBesideReads : kWriteBytesOut);
}

std::optional<IoPiece> IoQueue::next(IoDirection direction) {
  Lane& from = lane(direction);
  const IoPiece piece = front(from);
  if (piece.bytes == 0 || !may_go(direction, piece.bytes)) return std::nullopt;
  if (!from.again.empty()) {
    from.again.pop_front();
  } else {
    IoRequest& request = *piece.request;
    request.bytes_out += piece.bytes;
    ++request.pieces_out;
    // From here to its last `finish` a request that is wholly out is owned by its pieces.
    if (request.bytes_out == request.bytes) {
      (void)from.requests.front().release();
      from.requests.pop_front();
    }
  }
  ++from.out;
  from.bytes_out += piece.bytes;
  if (direction == IoDirection::kWrite)
    write_bytes_after_read_ -= std::min<uint64_t>(write_bytes_after_read_, piece.bytes);
  return piece;
}

// What became of a piece: an errno if it has ended badly, 0 otherwise, with what is left of it in `piece`.
int IoQueue::settle(IoPiece* piece, int result) {
  if (result < 0) {
    const bool momentary = result == -EINTR || result == -EAGAIN;
    return momentary && ++piece->request->retries <= kRetriesMax ? 0 : -result;
  }
  const uint32_t moved = static_cast<uint32_t>(result);
  if (moved >= piece->bytes) {
    piece->bytes = 0;
    return 0;
  }
  const uint32_t usable = moved - moved % kBlockBytes;
  if (usable == 0) return EIO;  // the file ends here
  piece->at += usable;
  piece->bytes -= usable;
  return 0;
}

std::unique_ptr<IoRequest> IoQueue::finish(const IoPiece& piece, int result) {
  IoRequest* const request = piece.request;
  Lane& from = lane(request->direction);
  --from.out;
  from.bytes_out -= piece.bytes;
  IoPiece rest = piece;
  const int error = settle(&rest, result);
  if (request->error == 0) request->error = error;
  if (error == 0 && rest.bytes > 0) {
    from.again.push_back(rest);
    return nullptr;
  }
  --request->pieces_out;
  if (request->pieces_out > 0 || request->bytes_out < request->bytes) return nullptr;
  return std::unique_ptr<IoRequest>(request);
}

bool IoQueue::waiting(IoDirection direction) const {
  const Lane& from = lane(direction);
  return !from.again.empty() || !from.requests.empty();
}

bool IoQueue::idle() const {
  return std::all_of(lanes_.begin(), lanes_.end(),
                     [](const Lane& from) { return from.out == 0 && from.again.empty() && from.requests.empty(); });
}

}  // namespace kvstore
