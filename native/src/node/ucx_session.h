// A session over a UCX lane: the node streams blocks as chunks and holds their leases until UCX has sent them.
#pragma once

#include <deque>

#include "node/session.h"
#include "transport/ucx_worker.h"

namespace kvstore {

class UcxSession final : public Session, private ChunkSender {
 public:
  UcxSession(NodeContext& context, uint64_t id, uint32_t thread, UcxEndpoint& endpoint);
  ~UcxSession() override;

  [[nodiscard]] UcxEndpoint& endpoint() const { return endpoint_; }
  // Bytes of any kind came from the client.
  void heard() { heard_ns_ = context_.clock.now_ns(); }
  [[nodiscard]] bool on_chunk(ByteView header, ByteView payload);
  [[nodiscard]] std::byte* place_chunk(ByteView header, size_t payload_bytes);
  void on_placed(ByteView header, bool received);
  // Sends what the window allows.
  bool poll() override;
  [[nodiscard]] bool on_tick(uint64_t now_ns) override;
  // The endpoint was closed: nothing new is sent, what UCX still holds will be handed back.
  void on_closed();
  [[nodiscard]] bool finished() const override { return chunks_in_flight_ == 0 && placements_in_flight_ == 0; }

 protected:
  void send(const Bytes& frame) override { endpoint_.send_frame(frame); }
  void deliver(GetResult result) override;
  void on_release(uint64_t request_id) override;
  [[nodiscard]] HelloReply welcome() override { return {}; }

 private:
  struct Stream {
    GetResult result;
    size_t block = 0;     // being sent
    uint32_t offset = 0;  // in it
    uint32_t chunks_in_flight = 0;
    bool sent = false;       // every chunk was handed to UCX, and so was the reply
    bool cancelled = false;  // the client gave up
  };

  void on_chunk_sent(uint64_t cookie, bool sent) override;
  void send_next_chunk(uint32_t cookie, Stream& stream);
  void skip_to_block(Stream& stream) const;
  void finish_stream(uint32_t cookie);

  static constexpr uint64_t kWindowBytes = 2 << 20;  // in UCX's hands before the last chunk is added

  UcxEndpoint& endpoint_;
  const size_t chunk_bytes_;
  std::unordered_map<uint32_t, Stream> streams_;
  std::deque<uint32_t> ready_;  // cookies of streams with chunks to send, in order of arrival
  uint32_t next_cookie_ = 1;    // may wrap: few are alive at once
  uint64_t bytes_in_flight_ = 0;
  uint32_t chunks_in_flight_ = 0;
  uint32_t placements_in_flight_ = 0;
  uint64_t last_progress_ns_ = 0;
  uint64_t heard_ns_ = 0;
  bool closed_ = false;
};

}  // namespace kvstore
