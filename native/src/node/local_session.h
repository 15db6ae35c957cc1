// A session over the same-host channel: gets are answered with places in the arena, puts arrive through staging.
#pragma once

#include "node/session.h"
#include "transport/local_channel.h"

namespace kvstore {

class LocalSession final : public Session {
 public:
  LocalSession(NodeContext& context, uint64_t id, uint32_t thread, LocalSocket socket);
  ~LocalSession() override;

  [[nodiscard]] int fd() const { return socket_.fd(); }
  // The socket is readable: a greeting, a doorbell or the end.
  [[nodiscard]] bool on_socket();
  // Takes frames and pieces out of the ring; `broken()` tells a peer that must go.
  bool poll() override;
  [[nodiscard]] bool on_tick(uint64_t now_ns) override;
  [[nodiscard]] bool broken() const { return broken_; }
  // About to block: true if the ring is empty and the client will ring.
  [[nodiscard]] bool prepare_sleep();
  void end_sleep();
  [[nodiscard]] bool finished() const override { return true; }

 protected:
  void send(const Bytes& frame) override;
  void deliver(GetResult result) override;
  void on_release(uint64_t request_id) override;
  [[nodiscard]] HelloReply welcome() override;
  void send_welcome(const HelloReply& reply) override;

 private:
  struct Held {
    std::vector<Lease> leases;
    uint64_t bytes = 0;
  };

  void on_staged_piece(ByteView record);
  void flush_backlog();
  void ring_client();

  static constexpr size_t kFramesAPoll = 16;         // then other sessions have their turn
  static constexpr size_t kBacklogFramesMax = 8192;  // answers that wait for room in the ring

  LocalSocket socket_;
  std::unique_ptr<LocalSegment> segment_;
  std::unordered_map<uint64_t, Held> held_;
  uint64_t held_bytes_ = 0;
  std::vector<Bytes> backlog_;
  uint64_t pieces_consumed_ = 0;
  bool broken_ = false;
  Bytes frame_;
};

}  // namespace kvstore
