// A lane over the same-host channel: gets copy out of the mapped arena, puts go through staging.
#pragma once

#include "client/lane.h"
#include "transport/local_channel.h"

namespace kvstore {

class MappedLane final : public Lane {
 public:
  // Connects and says hello. Throws OpenTimeout, std::runtime_error or std::system_error.
  MappedLane(const LaneEnvironment& environment, const std::string& socket_path,
             std::span<const std::byte, kTokenBytes> token, uint64_t deadline_ns);
  ~MappedLane() override;

  [[nodiscard]] bool prepare_sleep() override;
  void end_sleep() override;
  [[nodiscard]] int event_fd() const override { return socket_->fd(); }

 private:
  bool progress_lane() override;
  void check_alive() override;
  void send_frame(const Bytes& frame) override;
  bool send_piece(Transfer& transfer, ChunkHeader chunk, uint32_t* crc) override;
  void on_get_reply(const TransferPtr& transfer) override;
  void on_late_get_reply(const Reply& reply) override;

  void greet(std::span<const std::byte, kTokenBytes> token, uint64_t deadline_ns);
  void open_mappings(const Reply& reply, int fds[2]);
  bool read_next_block();
  void read_block(Transfer& transfer, uint32_t index);
  void end_get(const TransferPtr& transfer);
  bool flush_outbox();
  void ring_node();
  [[nodiscard]] bool staging_free() const;

  static constexpr size_t kFramesAPoll = 16;

  std::shared_ptr<LocalSocket> socket_;
  std::unique_ptr<LocalSegment> segment_;
  std::shared_ptr<ArenaView> arena_;
  std::deque<Bytes> outbox_;         // frames that wait for room in the ring
  std::deque<TransferPtr> reading_;  // gets with blocks to copy
  uint64_t pieces_staged_ = 0;
  Bytes frame_;
};

}  // namespace kvstore
