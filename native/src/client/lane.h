// A session with one node, seen from the client: sends requests, matches answers to them, and keeps their deadlines.
// What differs by lane (how bytes travel) is in the subclasses.
//
// A lane is driven by one thread at a time; its owner, Client, serialises calls.
#pragma once

#include <atomic>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "client/transfer.h"

namespace kvstore {

struct ClientCounters {
  std::atomic<uint64_t> batches, blocks_read, blocks_written, bytes_read, bytes_written;
  std::atomic<uint64_t> misses, timeouts, unavailable, corrupt, conflicts, late_chunks, sessions, sessions_lost;
};

// The node did not answer in time while a session was being opened.
struct OpenTimeout : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Leases that borrowers gave back, from any thread; the driver passes them on to the node.
class ReleaseQueue {
 public:
  explicit ReleaseQueue(std::function<void()> wake) : wake_(std::move(wake)) {}
  void push(uint64_t request_id) {
    const std::scoped_lock lock(mutex_);
    ids_.push_back(request_id);
    waiting_.store(true, std::memory_order_release);
    if (wake_) wake_();
  }
  [[nodiscard]] std::vector<uint64_t> take() {
    if (!waiting_.load(std::memory_order_acquire)) return {};
    const std::scoped_lock lock(mutex_);
    waiting_.store(false, std::memory_order_relaxed);
    return std::exchange(ids_, {});
  }
  // The client is going away: nobody is left to wake.
  void detach() {
    const std::scoped_lock lock(mutex_);
    wake_ = nullptr;
  }

 private:
  std::mutex mutex_;
  std::function<void()> wake_;
  std::vector<uint64_t> ids_;
  std::atomic<bool> waiting_{false};
};

struct LaneEnvironment {
  const Clock& clock;
  ClientCounters& counters;
  std::atomic<uint64_t>& next_request_id;  // of the client: never reused, so that late answers find nobody
  std::shared_ptr<ReleaseQueue> releases;
  uint64_t max_block_bytes;
  std::function<void(const std::shared_ptr<Batch>&)> on_done;
};

class Lane {
 public:
  explicit Lane(const LaneEnvironment& environment, uint32_t chunk_bytes);
  virtual ~Lane() = default;
  Lane(const Lane&) = delete;
  Lane& operator=(const Lane&) = delete;

  // Sends a batch on its way. Its statuses are set as answers come; `on_done` is called exactly once.
  void start(const std::shared_ptr<Batch>& batch);
  // Runs what can be run without waiting; true if anything happened.
  bool progress();
  // Ends what is past its deadline, pings a silent node, and declares it lost when it stays silent.
  void keep_time(uint64_t now_ns);
  // Ends everything that is pending.
  void fail_all(Status status);

  [[nodiscard]] bool lost() const { return lost_; }
  // When `keep_time` is needed next, at the latest.
  [[nodiscard]] uint64_t next_deadline_ns() const { return next_deadline_ns_; }
  [[nodiscard]] const std::string& description() const { return description_; }

  // Before and after blocking. False: there is work, do not block. Otherwise `fd` becomes readable with it.
  [[nodiscard]] virtual bool prepare_sleep() = 0;
  virtual void end_sleep() {}
  [[nodiscard]] virtual int event_fd() const = 0;

 protected:
  using TransferPtr = std::shared_ptr<Transfer>;

  // The lane's own work: receive, copy. True if anything happened.
  virtual bool progress_lane() = 0;
  virtual void check_alive() {}
  virtual void send_frame(const Bytes& frame) = 0;
  // Sends bytes [offset, offset + bytes) of a block of a put and returns their CRC32C in *crc; false: no room now.
  [[nodiscard]] virtual bool send_piece(Transfer& transfer, ChunkHeader chunk, uint32_t* crc) = 0;
  // The node's answer to a get, its entries being checked and stored in the transfer.
  virtual void on_get_reply(const TransferPtr& transfer) = 0;
  // A get was answered after its deadline.
  virtual void on_late_get_reply(const Reply& reply) {}
  // Called when a transfer ends before its time: on return nothing may write to the caller's memory any more.
  virtual void abandon(Transfer& transfer) {}

  void on_frame(ByteView frame);
  // What the node says of itself when the session begins.
  void welcomed(const HelloReply& hello) { puts_in_turns_ = hello.disk_bytes > 0; }
  // The node said something, be it only a piece of a block.
  void heard();
  // Asks for `count` keys of the batch, from `first` on.
  void launch(const std::shared_ptr<Batch>& batch, uint32_t first, uint32_t count);
  [[nodiscard]] TransferPtr find(uint64_t request_id) const;
  // The node has answered all that it will: what it had no room for is asked for again, the rest is done.
  void complete(const TransferPtr& transfer);
  void finish(const TransferPtr& transfer);
  void settle_block(Transfer& transfer, uint32_t index, bool intact);
  void report(Report reason, const Key& key, uint32_t crc);
  void send_bare(FrameKind kind, uint64_t request_id);
  // CRC32C of bytes [offset, offset + bytes) of a block in the caller's memory.
  [[nodiscard]] static uint32_t checksum_of(const Transfer& transfer, uint32_t index, uint32_t offset, uint32_t bytes);
  [[nodiscard]] bool sending() const { return !sending_.empty(); }

  LaneEnvironment environment_;
  std::string description_;
  bool lost_ = false;

 private:
  void on_reply(const Reply& reply);
  void on_grant(const TransferPtr& transfer, const Reply& reply);
  void on_put_reply(const TransferPtr& transfer, const Reply& reply);
  bool pump_puts();
  bool pump_put(const TransferPtr& transfer);
  void compare_existing(Transfer& transfer, uint32_t index);
  void maybe_finish_put(const TransferPtr& transfer);
  static void settle_put(Transfer& transfer);
  void ask_again(Transfer& transfer);
  void expire(uint64_t now_ns);
  void end_early(const TransferPtr& transfer, Status status);

  const uint32_t chunk_bytes_;
  bool puts_in_turns_ = false;
  std::unordered_map<uint64_t, TransferPtr> pending_;
  std::deque<TransferPtr> sending_;  // puts with bytes to hand over
  uint64_t next_deadline_ns_ = UINT64_MAX;
  uint64_t heard_ns_ = 0;            // when the node last said anything
  uint64_t expecting_since_ns_ = 0;  // since when an answer is owed; 0: none is
  uint64_t pinged_ns_ = 0;
};

}  // namespace kvstore
