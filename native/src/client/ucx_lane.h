// A lane over UCX: TCP or shared memory with eager chunks, RDMA with rendezvous.
#pragma once

#include <map>
#include <utility>

#include "client/lane.h"
#include "transport/socket_address.h"
#include "transport/ucx_worker.h"

namespace kvstore {

class UcxLane final : public Lane, public UcxEvents, private ChunkSender {
 public:
  // Connects and says hello. `listener` is the TCP port behind `address`, or no valid address where there is none.
  // Throws OpenTimeout or std::runtime_error.
  UcxLane(const LaneEnvironment& environment, const UcxProfile& profile, const SocketAddress& listener,
          ByteView address, std::span<const std::byte, kTokenBytes> token, uint64_t deadline_ns);
  ~UcxLane() override;

  [[nodiscard]] bool prepare_sleep() override { return worker_->arm(); }
  [[nodiscard]] int event_fd() const override { return worker_->event_fd(); }

 private:
  bool progress_lane() override;
  void send_frame(const Bytes& frame) override { endpoint_->send_frame(frame); }
  bool send_piece(Transfer& transfer, ChunkHeader chunk, uint32_t* crc) override;
  void on_get_reply(const TransferPtr& transfer) override;
  void abandon(Transfer& transfer) override;

  void on_lost(UcxEndpoint&) override { lost_ = true; }
  void on_frame(UcxEndpoint& endpoint, ByteView frame) override;
  void on_chunk(UcxEndpoint& endpoint, ByteView header, ByteView payload) override;
  std::byte* place_chunk(UcxEndpoint& endpoint, ByteView header, size_t payload_bytes) override;
  void on_placed(UcxEndpoint& endpoint, ByteView header, bool received) override;
  void on_chunk_sent(uint64_t cookie, bool sent) override;

  void say_bye();
  void greet(std::span<const std::byte, kTokenBytes> token, uint64_t deadline_ns);
  // The get that a chunk belongs to, its buffer being as long as the block; nullptr if nobody waits for it.
  [[nodiscard]] TransferPtr receiver_of(const ChunkHeader& chunk);
  void received(const TransferPtr& transfer, const ChunkHeader& chunk, uint32_t crc);
  void maybe_finish_get(const TransferPtr& transfer);
  [[nodiscard]] std::byte* make_room(Transfer& transfer, const ChunkHeader& chunk);
  ByteView gather(const Transfer& transfer, const ChunkHeader& chunk, Bytes* bounce, uint32_t* crc) const;

  // What UCX is sending from: the transfer keeps the caller's memory alive, the bounce holds gathered pieces.
  struct Sending {
    TransferPtr transfer;
    Bytes bounce;
  };
  static constexpr uint64_t kWindowBytes = 2 << 20;  // of puts in UCX's hands before the last chunk is added

  bool greeted_ = false;
  UcxEndpoint* endpoint_ = nullptr;
  std::unordered_map<uint32_t, Sending> in_flight_;                                // by cookie
  std::unordered_map<uint64_t, std::unique_ptr<class ReceivedBlocks>> receiving_;  // borrows, by request
  std::map<std::pair<uint64_t, uint32_t>, Bytes> scattered_;  // rendezvous into scattered buffers, by request and block
  uint32_t next_cookie_ = 1;                                  // may wrap: few are alive at once
  uint64_t bytes_in_flight_ = 0;
  std::vector<TransferPtr> orphans_;   // ended with receives that UCX would not give up: their memory stays
  std::unique_ptr<UcxWorker> worker_;  // last: its end still calls back into the members above
};

}  // namespace kvstore
