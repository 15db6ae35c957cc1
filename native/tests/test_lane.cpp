// The turns, times and last words of a session, against a node that answers whatever the test wants.
#include <deque>

#include "check.h"
#include "client/lane.h"

namespace kvstore {
namespace {

constexpr uint32_t kBlockBytes = 4'096;
constexpr uint32_t kTimeoutMs = 1'000;

// A lane whose other end is the test: requests pile up in `requests`, and `answer_...` is what the node says. Bytes
// travel at once, in both directions.
class ScriptedLane final : public Lane {
 public:
  ScriptedLane(const LaneEnvironment& environment, uint64_t disk_bytes) : Lane(environment, kBlockBytes) {
    welcomed({.disk_bytes = disk_bytes});
  }

  [[nodiscard]] bool prepare_sleep() override { return true; }
  [[nodiscard]] int event_fd() const override { return -1; }

  [[nodiscard]] Request next_request() {
    CHECK(!requests.empty());
    Request request = requests.front();
    requests.pop_front();
    return request;
  }

  void answer_entries(const Request& request, FrameKind kind, const std::vector<Status>& statuses) {
    std::vector<BlockEntry> entries;
    for (const Status status : statuses) entries.push_back({static_cast<uint8_t>(status), {}, kBlockBytes, 0, 0, 0});
    answer_raw_entries(request, kind, entries);
  }
  void answer_raw_entries(const Request& request, FrameKind kind, const std::vector<BlockEntry>& entries) {
    on_frame(encode_entries(answer_to(request, kind), entries));
    while (progress()) continue;
  }
  void answer_statuses(const Request& request, const std::vector<Status>& statuses) {
    on_frame(encode_statuses(answer_to(request, FrameKind::kPutReply), statuses));
  }

  std::deque<Request> requests;

 private:
  bool progress_lane() override { return false; }
  void send_frame(const Bytes& frame) override {
    const std::optional<Request> request = decode_request(frame);
    CHECK(request.has_value());
    if (request->header.kind != FrameKind::kReport) requests.push_back(*request);
  }
  bool send_piece(Transfer&, ChunkHeader, uint32_t* crc) override {
    *crc = 0;
    return true;
  }
  void on_get_reply(const TransferPtr& transfer) override {
    for (uint32_t i = 0; i < transfer->key_count; ++i) transfer->status(i) = transfer->entry_status(i);
    complete(transfer);
  }

  static FrameHeader answer_to(const Request& request, FrameKind kind) {
    FrameHeader header;
    header.kind = kind;
    header.request_id = request.header.request_id;
    return header;
  }
};

struct LaneFixture {
  explicit LaneFixture(uint64_t node_disk_bytes = 1 << 30) : disk_bytes(node_disk_bytes) {}

  const uint64_t disk_bytes;
  ManualClock clock;
  ClientCounters counters{};
  std::atomic<uint64_t> next_request_id{1};
  uint32_t batches_done = 0;
  std::vector<std::byte> bytes = std::vector<std::byte>(kBlockBytes);
  ScriptedLane lane{{clock, counters, next_request_id, std::make_shared<ReleaseQueue>([] {}), kBlockBytesLimit,
                     [this](const std::shared_ptr<Batch>& batch) {
                       batch->done = true;
                       ++batches_done;
                     }},
                    disk_bytes};

  std::shared_ptr<Batch> start(Verb verb, uint32_t count, bool durable = false) {
    auto batch = std::make_shared<Batch>();
    batch->verb = verb;
    batch->keys.resize(count);
    batch->pieces = {{bytes.data(), kBlockBytes}};
    if (verb != Verb::kBorrow) batch->blocks.assign(count, {0, 1, kBlockBytes});
    batch->statuses.assign(count, Status::kMiss);
    batch->views.resize(count);
    batch->durable = durable;
    batch->wait_ms = 400;
    batch->timeout_ms = kTimeoutMs;
    batch->deadline_ns = clock.now_ns() + uint64_t{kTimeoutMs} * 1'000'000;
    lane.start(batch);
    return batch;
  }
};

using Statuses = std::vector<Status>;
constexpr Status kOk = Status::kOk;
constexpr Status kBusy = Status::kBusy;

}  // namespace

TEST(lane, a_get_takes_as_many_turns_as_the_node_has_room_for) {
  LaneFixture fixture;
  const auto batch = fixture.start(Verb::kGet, 5);
  const Request first = fixture.lane.next_request();
  fixture.lane.answer_entries(first, FrameKind::kGetReply, {kOk, Status::kMiss, kBusy, kBusy, kBusy});
  const Request second = fixture.lane.next_request();
  CHECK_EQ(second.keys.size(), 3u);
  CHECK_EQ(second.header.first_depth, 2u);
  CHECK(second.header.request_id != first.header.request_id);
  CHECK(!batch->done);
  fixture.lane.answer_entries(second, FrameKind::kGetReply, {kOk, kBusy, kBusy});
  fixture.lane.answer_entries(fixture.lane.next_request(), FrameKind::kGetReply, {kOk, kOk});
  CHECK(batch->done);
  CHECK((batch->statuses == Statuses{kOk, Status::kMiss, kOk, kOk, kOk}));
  CHECK(fixture.lane.requests.empty());
  CHECK_EQ(fixture.batches_done, 1u);
}

TEST(lane, a_turn_without_progress_is_the_last) {
  LaneFixture fixture;
  const auto nothing = fixture.start(Verb::kGet, 2);
  fixture.lane.answer_entries(fixture.lane.next_request(), FrameKind::kGetReply, {kBusy, kBusy});
  CHECK(nothing->done && (nothing->statuses == Statuses{kBusy, kBusy}));
  const auto misses = fixture.start(Verb::kGet, 2);
  fixture.lane.answer_entries(fixture.lane.next_request(), FrameKind::kGetReply, {Status::kMiss, kBusy});
  CHECK(misses->done && (misses->statuses == Statuses{Status::kMiss, kBusy}));
  const auto put = fixture.start(Verb::kPut, 3);
  const Request first = fixture.lane.next_request();
  fixture.lane.answer_entries(first, FrameKind::kPutGrant, {kOk, kBusy, kBusy});
  fixture.lane.answer_statuses(first, {kOk, kBusy, kBusy});
  fixture.lane.answer_entries(fixture.lane.next_request(), FrameKind::kPutGrant, {kBusy, kBusy});
  CHECK(put->done && (put->statuses == Statuses{kOk, kBusy, kBusy}));
  CHECK(fixture.lane.requests.empty());
}

TEST(lane, a_put_asks_for_the_rest_after_the_reply_to_what_was_granted) {
  LaneFixture fixture;
  const auto batch = fixture.start(Verb::kPut, 4);
  const Request first = fixture.lane.next_request();
  fixture.lane.answer_entries(first, FrameKind::kPutGrant, {kOk, Status::kTooLarge, kBusy, kBusy});
  CHECK(fixture.lane.requests.empty());
  fixture.lane.answer_statuses(first, {kOk, Status::kTooLarge, kBusy, kBusy});
  const Request second = fixture.lane.next_request();
  CHECK_EQ(second.keys.size(), 2u);
  fixture.lane.answer_entries(second, FrameKind::kPutGrant, {kOk, kOk});
  CHECK(!batch->done);
  fixture.lane.answer_statuses(second, {kOk, Status::kCorrupt});
  CHECK(batch->done);
  CHECK((batch->statuses == Statuses{kOk, Status::kTooLarge, kOk, Status::kCorrupt}));
  CHECK_EQ(fixture.counters.blocks_written.load(), 2u);
}

// Blocks that are there already cost no room, and no reply follows them: the next turn begins with the grant.
TEST(lane, blocks_that_were_there_are_progress) {
  LaneFixture fixture;
  const auto batch = fixture.start(Verb::kPut, 2);
  fixture.lane.answer_entries(fixture.lane.next_request(), FrameKind::kPutGrant, {Status::kExists, kBusy});
  const Request second = fixture.lane.next_request();
  fixture.lane.answer_entries(second, FrameKind::kPutGrant, {kOk});
  fixture.lane.answer_statuses(second, {kOk});
  CHECK((batch->statuses == Statuses{Status::kConflict, kOk}));
}

TEST(lane, a_part_that_another_part_left_no_room_goes_on_after_it) {
  LaneFixture fixture;
  const auto batch = fixture.start(Verb::kGet, kKeysMax + 1);
  const Request beginning = fixture.lane.next_request();
  const Request end = fixture.lane.next_request();
  CHECK_EQ(end.keys.size(), 1u);
  CHECK_EQ(beginning.keys.size(), kKeysMax);
  fixture.lane.answer_entries(beginning, FrameKind::kGetReply, Statuses(kKeysMax, kBusy));
  CHECK(fixture.lane.requests.empty() && !batch->done);
  fixture.lane.answer_entries(end, FrameKind::kGetReply, {kOk});
  const Request again = fixture.lane.next_request();
  CHECK_EQ(again.header.first_depth, 0u);
  // To the node all of them are one request.
  CHECK(beginning.header.batch != 0);
  CHECK(end.header.batch == beginning.header.batch && again.header.batch == beginning.header.batch);
  fixture.lane.answer_entries(again, FrameKind::kGetReply, Statuses(kKeysMax, kOk));
  CHECK(batch->done);
  CHECK((batch->statuses == Statuses(kKeysMax + 1, kOk)));
}

TEST(lane, parts_that_all_find_no_room_are_busy) {
  LaneFixture fixture;
  const auto batch = fixture.start(Verb::kPut, kKeysMax + 1);
  fixture.lane.answer_entries(fixture.lane.next_request(), FrameKind::kPutGrant, Statuses(kKeysMax, kBusy));
  const Request end = fixture.lane.next_request();
  fixture.lane.answer_entries(end, FrameKind::kPutGrant, {kBusy});
  CHECK(batch->done && fixture.lane.requests.empty());
  CHECK((batch->statuses == Statuses(kKeysMax + 1, kBusy)));
}

// Another turn would have the node evict the beginning of the chain for its end.
TEST(lane, a_put_has_one_turn_where_memory_is_all_there_is) {
  LaneFixture fixture(0);
  const auto batch = fixture.start(Verb::kPut, 2);
  const Request request = fixture.lane.next_request();
  fixture.lane.answer_entries(request, FrameKind::kPutGrant, {kOk, kBusy});
  fixture.lane.answer_statuses(request, {kOk, kBusy});
  CHECK(batch->done && fixture.lane.requests.empty());
  CHECK((batch->statuses == Statuses{kOk, kBusy}));
}

TEST(lane, a_borrow_has_one_turn) {
  LaneFixture fixture;
  const auto batch = fixture.start(Verb::kBorrow, 2);
  fixture.lane.answer_entries(fixture.lane.next_request(), FrameKind::kGetReply, {kOk, kBusy});
  CHECK(batch->done && fixture.lane.requests.empty());
}

// Was the batch's whole timeout, also for what was sent late.
TEST(lane, a_request_says_what_is_left_of_the_time) {
  LaneFixture fixture;
  const auto batch = fixture.start(Verb::kGet, 4);
  const Request first = fixture.lane.next_request();
  CHECK_EQ(first.header.timeout_ms, kTimeoutMs);
  CHECK_EQ(first.wait_ms, 400u);
  fixture.clock.advance_ms(150);
  fixture.lane.answer_entries(first, FrameKind::kGetReply, {kOk, kBusy, kBusy, kBusy});
  const Request second = fixture.lane.next_request();
  CHECK_EQ(second.header.timeout_ms, kTimeoutMs - 150);
  CHECK_EQ(second.wait_ms, 250u);
  fixture.clock.advance_ms(849);
  fixture.lane.answer_entries(second, FrameKind::kGetReply, {kOk, kBusy, kBusy});
  const Request third = fixture.lane.next_request();
  CHECK_EQ(third.header.timeout_ms, 1u);
  CHECK_EQ(third.wait_ms, 0u);
  fixture.clock.advance_ms(1);
  fixture.lane.answer_entries(third, FrameKind::kGetReply, {kOk, kBusy});
  CHECK(batch->done && fixture.lane.requests.empty());
  CHECK((batch->statuses == Statuses{kOk, kOk, kOk, kBusy}));
}

TEST(lane, a_turn_that_ends_late_leaves_earlier_turns_as_they_are) {
  LaneFixture fixture;
  const auto batch = fixture.start(Verb::kPut, 2);
  const Request first = fixture.lane.next_request();
  fixture.lane.answer_entries(first, FrameKind::kPutGrant, {kOk, kBusy});
  fixture.lane.answer_statuses(first, {kOk, kBusy});
  const Request second = fixture.lane.next_request();
  fixture.clock.advance_ms(kTimeoutMs);
  fixture.lane.keep_time(fixture.clock.now_ns());
  CHECK(batch->done);
  CHECK((batch->statuses == Statuses{kOk, Status::kTimeout}));
  const Request cancel = fixture.lane.next_request();
  CHECK(cancel.header.kind == FrameKind::kCancel && cancel.header.request_id == second.header.request_id);
}

TEST(lane, a_durable_put_waits_for_the_word_on_what_was_found) {
  LaneFixture fixture;
  const uint32_t crc = crc32c(fixture.bytes.data(), kBlockBytes);
  const auto batch = fixture.start(Verb::kPut, 3, true);
  const Request request = fixture.lane.next_request();
  CHECK(request.durable);
  const auto found = static_cast<uint8_t>(Status::kExists);
  const std::vector<BlockEntry> entries{
      {found, {}, kBlockBytes, crc, 0, 0}, {found, {}, kBlockBytes, crc, 0, 0}, {found, {}, kBlockBytes, ~crc, 0, 0}};
  fixture.lane.answer_raw_entries(request, FrameKind::kPutGrant, entries);
  CHECK(!batch->done);
  fixture.lane.answer_statuses(request, Statuses{Status::kExists, Status::kNotDurable, Status::kNotDurable});
  CHECK(batch->done);
  // The conflict stays one: whether the other writer's bytes are durable is not this one's concern.
  CHECK((batch->statuses == Statuses{Status::kExists, Status::kNotDurable, Status::kConflict}));
  CHECK_EQ(fixture.counters.blocks_written.load(), 0u);
}

TEST(lane, blocks_in_memory_alone_count_as_written) {
  LaneFixture fixture;
  const auto batch = fixture.start(Verb::kPut, 2, true);
  const Request request = fixture.lane.next_request();
  fixture.lane.answer_entries(request, FrameKind::kPutGrant, {kOk, kBusy});
  fixture.lane.answer_statuses(request, {Status::kNotDurable, kBusy});
  CHECK_EQ(fixture.lane.next_request().keys.size(), 1u);
  CHECK(!batch->done);
  CHECK(batch->statuses[0] == Status::kNotDurable);
  CHECK_EQ(fixture.counters.blocks_written.load(), 1u);
}

}  // namespace kvstore
