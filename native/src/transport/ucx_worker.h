// One UCP worker with its endpoints: active messages in and out, nothing about blocks.
//
// Two active messages exist: a frame (wire/frame.h, at most kFrameBytesMax) and a chunk (a ChunkHeader as UCX's user
// header, a piece of a block as payload). A worker belongs to one thread at a time; its owner serialises calls.
//
// Workers find each other by UCX worker addresses, which travel over the control plane and in the hello frame. UCX's
// own listener is not used: it parses what any stranger sends (and was seen to abort on random bytes), while the
// sockets behind worker addresses drop a stranger at the first eight bytes.
#pragma once

#include <ucp/api/ucp.h>

#include <memory>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "transport/ucx_context.h"
#include "wire/codec.h"

namespace kvstore {

class UcxEndpoint;

// Learns when the memory behind a chunk is no longer needed by UCX.
class ChunkSender {
 public:
  virtual ~ChunkSender() = default;
  virtual void on_chunk_sent(uint64_t cookie, bool sent) = 0;
};

// What a worker tells its owner, from inside `progress`.
class UcxEvents {
 public:
  virtual ~UcxEvents() = default;
  // The peer is gone or misbehaved in UCX's eyes. Called once; the owner should `close` the endpoint later.
  virtual void on_lost(UcxEndpoint& endpoint) = 0;
  virtual void on_frame(UcxEndpoint& endpoint, ByteView frame) = 0;
  // Eager: the payload is valid during the call only.
  virtual void on_chunk(UcxEndpoint& endpoint, ByteView header, ByteView payload) = 0;
  // Rendezvous: where the payload shall go, or nullptr to refuse it; `on_placed` follows if it was accepted.
  virtual std::byte* place_chunk(UcxEndpoint& endpoint, ByteView header, size_t payload_bytes) = 0;
  virtual void on_placed(UcxEndpoint& endpoint, ByteView header, bool received) = 0;
};

class UcxWorker {
 public:
  UcxWorker(const UcxProfile& profile, UcxEvents& events);  // throws std::runtime_error
  ~UcxWorker();
  UcxWorker(const UcxWorker&) = delete;
  UcxWorker& operator=(const UcxWorker&) = delete;

  // Registers memory that chunks will be sent from, so that no registration happens on the way.
  void register_memory(void* data, size_t bytes);
  // Where other workers find this one.
  [[nodiscard]] const Bytes& address() const { return address_; }
  // Begins to connect, or takes up a connection that the peer began; failure shows as `on_lost`. Not from inside
  // `progress`. Throws std::runtime_error.
  UcxEndpoint& connect(ByteView address);
  // Frames from peers that `connect` was not called for: greetings, or nothing of interest.
  [[nodiscard]] std::vector<Bytes> take_strangers() { return std::exchange(strangers_, {}); }

  // Runs callbacks; true if anything happened.
  bool progress() { return ucp_worker_progress(handle_) != 0; }
  // True: `event_fd` will become readable on the next event. False: there is work, call `progress`.
  bool arm();
  [[nodiscard]] int event_fd() const { return event_fd_; }
  [[nodiscard]] const UcxProfile& profile() const { return context_.profile(); }

  // No endpoint is open or closing.
  [[nodiscard]] bool quiet() const { return endpoints_.empty() && closing_.empty(); }
  // Frees closed endpoints whose sends have ended. Call outside `progress`.
  void reap();

 private:
  friend class UcxEndpoint;
  struct FrameSend;
  struct ChunkSend;
  struct Placement;

  static ucs_status_t on_am_frame(void* arg, const void* header, size_t header_bytes, void* data, size_t bytes,
                                  const ucp_am_recv_param_t* param);
  static ucs_status_t on_am_chunk(void* arg, const void* header, size_t header_bytes, void* data, size_t bytes,
                                  const ucp_am_recv_param_t* param);
  static void on_error(void* arg, ucp_ep_h handle, ucs_status_t status);
  static void on_place_done(void* request, ucs_status_t status, size_t bytes, void* arg);

  void set_handler(unsigned id, ucp_am_recv_callback_t callback);
  UcxEndpoint* find(const ucp_am_recv_param_t* param);
  ucs_status_t place(UcxEndpoint& endpoint, ByteView header, void* data, size_t bytes);

  static constexpr size_t kStrangersMax = 256;  // between two calls of take_strangers; more are dropped

  UcxContext context_;
  UcxEvents& events_;
  ucp_worker_h handle_ = nullptr;
  int event_fd_ = -1;
  ucp_mem_h memory_ = nullptr;
  const std::byte* memory_begin_ = nullptr;
  size_t memory_bytes_ = 0;
  Bytes address_;
  std::vector<Bytes> strangers_;
  std::unordered_map<ucp_ep_h, std::unique_ptr<UcxEndpoint>> endpoints_;
  std::vector<std::unique_ptr<UcxEndpoint>> closing_;
};

class UcxEndpoint {
 public:
  // Copies the frame. Does nothing on a lost endpoint.
  void send_frame(ByteView frame);
  // `payload` must stay readable until `sender->on_chunk_sent(cookie, ...)`, which may come from inside this call.
  void send_chunk(const ChunkHeader& header, ByteView payload, ChunkSender* sender, uint64_t cookie);
  // Drops the connection now. The object lives on inside the worker until UCX lets go of it.
  void close();

  [[nodiscard]] bool lost() const { return lost_; }
  [[nodiscard]] const UcxProfile& profile() const { return worker_.profile(); }
  [[nodiscard]] uint32_t sends_in_flight() const { return sends_in_flight_; }
  // The transports that UCX chose for it, such as "tcp/lo"; may change until the first reply arrived.
  [[nodiscard]] std::string lanes() const;

  void* owner = nullptr;  // for the worker's owner

 private:
  friend class UcxWorker;
  explicit UcxEndpoint(UcxWorker& worker) : worker_(worker) {}

  UcxWorker& worker_;
  ucp_ep_h handle_ = nullptr;
  ucs_status_ptr_t close_request_ = nullptr;
  bool lost_ = false;
  bool closed_ = false;
  uint32_t sends_in_flight_ = 0;
  uint32_t placements_in_flight_ = 0;
};

}  // namespace kvstore
