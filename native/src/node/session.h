// One client's session: requests in, answers out. What differs by lane (how bytes travel) is in the subclasses.
//
// A session lives on one data thread and is never called from another.
#pragma once

#include <cstdint>
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
  // Work that needs no event from the peer; true if something was done.
  virtual bool poll() { return false; }
  // A block that get `request_id` waits for may be there now.
  void wake(uint64_t request_id);
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

  // A piece of a put: copied and summed in one pass. False on a protocol error.
  [[nodiscard]] bool on_piece(const ChunkHeader& chunk, const std::byte* data);
  // Rendezvous: where the piece belongs, or nullptr if nobody waits for it; then what became of it.
  [[nodiscard]] std::byte* place_piece(const ChunkHeader& chunk);
  void piece_placed(const ChunkHeader& chunk, bool received);
  void abort_puts();

  NodeContext& context_;

 private:
  struct ParkedGet {
    Request request;
    uint64_t deadline_ns;
  };

  bool on_hello(const Request& request);
  [[nodiscard]] bool allowed(FrameKind kind) const;
  void dispatch(Request request);
  void refuse(const Request& request, Status status);
  void on_get(Request request);
  void serve_get(const Request& request);
  [[nodiscard]] bool all_visible(const Request& request) const;
  void end_wait(uint64_t request_id, bool serve);
  void on_put(const Request& request);
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

  static constexpr size_t kRequestsOpenMax = 4096;  // of each kind, a session

  const uint64_t id_;
  const uint32_t thread_;
  const uint64_t opened_ns_;
  bool greeted_ = false;
  bool said_bye_ = false;
  uint32_t verbs_ = 0;
  std::unordered_map<uint64_t, PutState> puts_;
  std::unordered_map<uint64_t, ParkedGet> parked_;
};

}  // namespace kvstore
