// One client's session: requests in, answers out. What differs by lane (how bytes travel) is in the subclasses.
//
// A session lives on one data thread and is never called from another.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <unordered_map>
#include <vector>

#include "node/node_context.h"
#include "node/put_state.h"
#include "wire/codec.h"

namespace kvstore {

// Blocks looked up for a get: an entry for each key, a lease where the status is kOk.
struct GetResult {
  uint64_t request_id = 0;
  std::vector<BlockEntry> entries;
  std::vector<Lease> leases;  // one for each entry; meaningful where its status is kOk

  // With kOk the entry says where the leased block is.
  void set_status(size_t index, Status status) {
    BlockEntry& entry = entries[index];
    entry.status = static_cast<uint8_t>(status);
    if (status != Status::kOk) return;
    const Lease& lease = leases[index];
    entry.length = lease.length;
    entry.crc = lease.crc;
    entry.generation = lease.generation;
    entry.offset = lease.offset;
  }
};

class Session {
 public:
  Session(NodeContext& context, uint64_t id, uint32_t thread);
  virtual ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  [[nodiscard]] uint64_t id() const { return id_; }
  // The methods below return false when the session must end: the peer broke the protocol or stopped reading.
  [[nodiscard]] bool on_frame(ByteView frame);
  [[nodiscard]] virtual bool on_tick(uint64_t now_ns);
  // There may be room for puts that wait for it.
  void on_room() { retry_parked_puts(context_.clock.now_ns()); }
  // Work that needs no event from the peer; true if something was done.
  virtual bool poll() { return false; }
  // What request `request_id` waits for may be there now.
  void wake(uint64_t request_id);
  // A block came from disk. False when nobody waits for it any more: the lease is the caller's.
  [[nodiscard]] bool on_fetched(const FetchedBlock& fetched);
  // The client ended the session itself.
  [[nodiscard]] bool said_bye() const { return said_bye_; }
  // True when nothing outside refers to the session any more.
  [[nodiscard]] virtual bool finished() const = 0;

 protected:
  virtual void send(const Bytes& frame) = 0;
  // Hands the bytes over and sees to it that the leases are released.
  virtual void deliver(GetResult result) = 0;
  virtual void on_release(uint64_t request_id) = 0;
  [[nodiscard]] virtual HelloReply welcome() = 0;
  // Answers a hello; a lane may attach what it must.
  virtual void send_welcome(const HelloReply& reply) { send(encode_hello_reply(reply)); }

  // Answers kBusy for the blocks from `first` on and releases what is leased of them.
  void cut_off(GetResult* result, size_t first) const;

  // A piece of a put: copied and summed in one pass. False on a protocol error.
  [[nodiscard]] bool on_piece(const ChunkHeader& chunk, const std::byte* data);
  // Rendezvous: where the piece belongs, or nullptr if nobody waits for it; then what became of it.
  [[nodiscard]] std::byte* place_piece(const ChunkHeader& chunk);
  void piece_placed(const ChunkHeader& chunk, bool received);
  void abort_puts();

  NodeContext& context_;

 private:
  struct Parked {
    Request request;
    uint64_t deadline_ns;
  };
  // A get some of whose blocks are being read from disk.
  struct ColdGet {
    GetResult result;
    uint32_t pending = 0;
  };

  bool on_hello(const Request& request);
  // One for all frames of a client's call.
  [[nodiscard]] Stamp stamp_of(const Request& request);
  // When a request that waits is answered at the latest: while the client still listens.
  [[nodiscard]] uint64_t answer_by_ns(const Request& request) const;
  [[nodiscard]] bool allowed(FrameKind kind) const;
  void dispatch(Request request);
  void refuse(const Request& request, Status status);
  void on_get(Request request);
  void serve_get(const Request& request);
  [[nodiscard]] bool all_visible(const Request& request) const;
  void end_wait(uint64_t request_id, bool serve);
  void limit_turn(const Request& request, GetResult* result) const;
  [[nodiscard]] bool try_get(const Request& request, bool now_or_never);
  void retry_starved_gets(uint64_t now_ns);
  [[nodiscard]] bool fetch_cold(const Request& request, Stamp stamp, GetResult result, bool now_or_never);
  [[nodiscard]] FetchDone fetched_listener(uint64_t request_id, uint32_t index);
  void deliver_cold(uint64_t request_id);
  void forget_cold(uint64_t request_id);
  void on_put(Request request);
  bool grant_put(const Request& request, bool now_or_never);
  void retry_parked_puts(uint64_t now_ns);
  void settle_durable_puts();
  [[nodiscard]] bool all_durable(PutState& put);
  void watch_durable(uint64_t request_id, PutState& put);
  void drop_put(uint64_t request_id);
  void on_match(const Request& request);
  void on_status_verb(const Request& request);
  void on_report(const Request& request);
  void examine(const Key& key, uint32_t crc);
  void on_cancel(uint64_t request_id);
  PutBlock* open_block(const ChunkHeader& chunk, PutState** put);
  void finish_piece(PutState& put, PutBlock& block, const ChunkHeader& chunk, bool intact);
  void fail_block(PutState& put, PutBlock& block, Status status);
  void settle_put(uint64_t request_id);
  void abort_open_blocks(PutState& put);

  struct BatchStamp {
    uint32_t batch = 0;
    Stamp stamp{};
  };

  static constexpr size_t kRequestsOpenMax = 4096;  // of each kind, a session
  static constexpr size_t kBatchesRemembered = 32;  // calls of one client that overlap
  static constexpr uint32_t kTimeoutMsMax = 600'000;

  const uint64_t id_;
  const uint32_t thread_;
  const uint64_t opened_ns_;
  bool greeted_ = false;
  bool said_bye_ = false;
  uint32_t verbs_ = 0;
  std::array<BatchStamp, kBatchesRemembered> batch_stamps_{};
  size_t next_batch_stamp_ = 0;
  std::unordered_map<uint64_t, PutState> puts_;
  std::unordered_map<uint64_t, Parked> parked_;
  std::map<uint64_t, Parked> parked_puts_;  // by request, which is the order in which they came
  std::unordered_map<uint64_t, ColdGet> cold_gets_;
  std::map<uint64_t, Parked> starved_gets_;  // they wait for room to read into
};

}  // namespace kvstore
