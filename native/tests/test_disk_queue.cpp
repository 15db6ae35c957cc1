// What goes to the kernel and when: limits for each direction, pieces of large requests, and what comes back
// incomplete.
#include <cerrno>
#include <deque>
#include <memory>
#include <optional>
#include <vector>

#include "check.h"
#include "disk/io_queue.h"

namespace kvstore {
namespace {

constexpr uint32_t kKiB = 1 << 10;
constexpr uint32_t kMiB = 1 << 20;

std::unique_ptr<IoRequest> request(IoDirection direction, uint32_t bytes) {
  auto made = std::make_unique<IoRequest>();
  made->direction = direction;
  made->bytes = bytes;
  return made;
}

// Hands out everything and moves all of it; returns how many pieces there were.
size_t drain(IoQueue& queue, IoDirection direction) {
  size_t pieces = 0;
  while (const auto piece = queue.next(direction)) {
    ++pieces;
    (void)queue.finish(*piece, static_cast<int>(piece->bytes));
  }
  return pieces;
}

}  // namespace

TEST(disk_queue, the_depth_holds_for_each_direction_alone) {
  IoQueue queue(2);
  for (const IoDirection direction : {IoDirection::kWrite, IoDirection::kRead}) {
    for (int i = 0; i < 4; ++i) queue.push(request(direction, 4 * kKiB));
  }
  std::vector<IoPiece> out;
  for (const IoDirection direction : {IoDirection::kWrite, IoDirection::kRead}) {
    for (int i = 0; i < 2; ++i) {
      const auto piece = queue.next(direction);
      CHECK(piece.has_value());
      out.push_back(*piece);
    }
    CHECK(queue.waiting(direction) && !queue.next(direction));
  }
  for (const IoPiece& piece : out) CHECK(queue.finish(piece, 4 * kKiB) != nullptr);
  CHECK_EQ(drain(queue, IoDirection::kRead), 2u);
  CHECK(!queue.idle());
  CHECK_EQ(drain(queue, IoDirection::kWrite), 2u);
  CHECK(queue.idle());
}

TEST(disk_queue, writes_stand_back_while_there_are_reads) {
  IoQueue queue(256);
  for (int i = 0; i < 64; ++i) queue.push(request(IoDirection::kWrite, 2 * kMiB));
  std::deque<IoPiece> out;
  const auto hand_out = [&] {
    while (const auto piece = queue.next(IoDirection::kWrite)) out.push_back(*piece);
    uint64_t bytes = 0;
    for (const IoPiece& piece : out) bytes += piece.bytes;
    return bytes;
  };
  const auto end_one = [&] {
    (void)queue.finish(out.front(), static_cast<int>(out.front().bytes));
    out.pop_front();
  };
  CHECK_EQ(hand_out(), IoQueue::kWriteBytesOut);
  queue.push(request(IoDirection::kRead, 4 * kKiB));
  while (out.size() > 1) {
    end_one();
    const uint64_t bytes = hand_out();
    CHECK(bytes >= IoQueue::kWriteBytesBesideReads);
    if (bytes == IoQueue::kWriteBytesBesideReads) break;
  }
  const auto read = queue.next(IoDirection::kRead);
  CHECK(read.has_value());
  end_one();
  CHECK_EQ(hand_out(), IoQueue::kWriteBytesBesideReads);  // while it is out, too
  CHECK(queue.finish(*read, 4 * kKiB) != nullptr);
  CHECK_EQ(hand_out(), IoQueue::kWriteBytesBesideReads);  // and for a while afterwards: the next may follow soon
  for (uint64_t bytes = 0; bytes < IoQueue::kWriteBytesAfterRead; bytes += IoQueue::kWritePieceBytesMax) {
    end_one();
    hand_out();
  }
  CHECK_EQ(hand_out(), IoQueue::kWriteBytesOut);
  while (!out.empty()) {
    end_one();
    hand_out();
  }
  CHECK(queue.idle());
}

TEST(disk_queue, keeps_the_order_of_arrival) {
  IoQueue queue(8);
  std::vector<IoRequest*> pushed;
  for (int i = 0; i < 5; ++i) {
    auto made = request(IoDirection::kRead, 4 * kKiB);
    pushed.push_back(made.get());
    queue.push(std::move(made));
  }
  for (IoRequest* expected : pushed) {
    const auto piece = queue.next(IoDirection::kRead);
    CHECK(piece && piece->request == expected);
    CHECK(queue.finish(*piece, 4 * kKiB).get() == expected);
  }
}

TEST(disk_queue, large_requests_go_out_in_pieces_that_cover_them) {
  for (const uint32_t bytes : {4 * kKiB, 2 * kMiB, 2 * kMiB + 4 * kKiB, 64 * kMiB}) {
    IoQueue queue(256);
    queue.push(request(IoDirection::kRead, bytes));
    std::vector<IoPiece> pieces;
    uint32_t covered = 0;
    while (const auto piece = queue.next(IoDirection::kRead)) {
      CHECK_EQ(piece->at, covered);
      covered += piece->bytes;
      pieces.push_back(*piece);
    }
    CHECK_EQ(covered, bytes);
    for (size_t i = 0; i < pieces.size(); ++i) {
      const auto ended = queue.finish(pieces[i], static_cast<int>(pieces[i].bytes));
      CHECK_EQ(ended != nullptr, i + 1 == pieces.size());
      CHECK(ended == nullptr || ended->error == 0);
    }
    CHECK(queue.idle());
  }
}

TEST(disk_queue, a_short_transfer_is_continued_where_it_stopped) {
  IoQueue queue(1);
  queue.push(request(IoDirection::kRead, 64 * kKiB));
  const auto piece = queue.next(IoDirection::kRead);
  CHECK(queue.finish(*piece, 20 * kKiB + 100) == nullptr);
  const auto rest = queue.next(IoDirection::kRead);
  CHECK(rest && rest->at == 20 * kKiB && rest->bytes == 44 * kKiB);
  const auto ended = queue.finish(*rest, 44 * kKiB);
  CHECK(ended != nullptr && ended->error == 0);
}

TEST(disk_queue, the_end_of_the_file_is_an_error) {
  for (const int moved : {0, 100, 4095}) {
    IoQueue queue(1);
    queue.push(request(IoDirection::kRead, 8 * kKiB));
    const auto ended = queue.finish(*queue.next(IoDirection::kRead), moved);
    CHECK(ended != nullptr && ended->error == EIO);
  }
}

TEST(disk_queue, interruptions_are_tried_again_but_not_for_ever) {
  for (const int error : {EINTR, EAGAIN}) {
    IoQueue queue(1);
    queue.push(request(IoDirection::kWrite, 8 * kKiB));
    std::unique_ptr<IoRequest> ended;
    int attempts = 0;
    while (ended == nullptr) {
      ended = queue.finish(*queue.next(IoDirection::kWrite), -error);
      CHECK(++attempts < 1'000);
    }
    CHECK(attempts > 10);
    CHECK_EQ(ended->error, error);
    CHECK(queue.idle());
  }
}

TEST(disk_queue, the_first_error_of_a_request_is_its_error_once_all_pieces_are_back) {
  IoQueue queue(8);
  queue.push(request(IoDirection::kRead, 3 * kMiB / 2));
  std::vector<IoPiece> pieces;
  while (const auto piece = queue.next(IoDirection::kRead)) pieces.push_back(*piece);
  CHECK(pieces.size() >= 3);
  CHECK(queue.finish(pieces[0], -ENOSPC) == nullptr);
  CHECK(queue.finish(pieces[1], -EIO) == nullptr);
  std::unique_ptr<IoRequest> ended;
  for (size_t i = 2; i < pieces.size(); ++i) ended = queue.finish(pieces[i], static_cast<int>(pieces[i].bytes));
  CHECK(ended != nullptr && ended->error == ENOSPC);
}

TEST(disk_queue, refuses_what_direct_io_would_refuse) {
  IoQueue queue(1);
  CHECK_ABORTS(queue.push(request(IoDirection::kRead, 0)));
  CHECK_ABORTS(queue.push(request(IoDirection::kRead, 100)));
}

}  // namespace kvstore
