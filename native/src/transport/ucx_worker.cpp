#include "transport/ucx_worker.h"

#include <algorithm>
#include <stdexcept>

#include "base/clock.h"

namespace kvstore {
namespace {

constexpr unsigned kAmFrame = 1;
constexpr unsigned kAmChunk = 2;
constexpr uint64_t kDrainNs = 500'000'000;  // how long a dying worker waits for UCX to let go of our buffers

}  // namespace

struct UcxWorker::Placement {
  UcxWorker* worker;
  UcxEndpoint* endpoint;
  Bytes header;
};

UcxWorker::UcxWorker(const UcxProfile& profile, UcxEvents& events) : context_(profile), events_(events) {
  ucp_worker_params_t params{};
  params.field_mask = UCP_WORKER_PARAM_FIELD_THREAD_MODE;
  params.thread_mode = UCS_THREAD_MODE_SERIALIZED;
  ucs_status_t status = ucp_worker_create(context_.handle(), &params, &handle_);
  if (status != UCS_OK) throw std::runtime_error(ucx_error("cannot create a UCX worker", status));
  status = ucp_worker_get_efd(handle_, &event_fd_);
  if (status != UCS_OK) {
    ucp_worker_destroy(handle_);
    throw std::runtime_error(ucx_error("the UCX worker has no event descriptor", status));
  }
  ucp_worker_attr_t attributes{};
  attributes.field_mask = UCP_WORKER_ATTR_FIELD_ADDRESS;
  status = ucp_worker_query(handle_, &attributes);
  if (status != UCS_OK) {
    ucp_worker_destroy(handle_);
    throw std::runtime_error(ucx_error("the UCX worker has no address", status));
  }
  const auto* address = reinterpret_cast<const std::byte*>(attributes.address);
  address_.assign(address, address + attributes.address_length);
  ucp_worker_release_address(handle_, attributes.address);
  set_handler(kAmFrame, on_am_frame);
  set_handler(kAmChunk, on_am_chunk);
}

UcxWorker::~UcxWorker() {
  while (!endpoints_.empty()) endpoints_.begin()->second->close();
  const Clock& clock = SteadyClock::instance();
  const uint64_t give_up_ns = clock.now_ns() + kDrainNs;
  while (!closing_.empty() && clock.now_ns() < give_up_ns) {
    progress();
    reap();
  }
  if (memory_ != nullptr) ucp_mem_unmap(context_.handle(), memory_);
  ucp_worker_destroy(handle_);
}

void UcxWorker::set_handler(unsigned id, ucp_am_recv_callback_t callback) {
  ucp_am_handler_param_t params{};
  params.field_mask = UCP_AM_HANDLER_PARAM_FIELD_ID | UCP_AM_HANDLER_PARAM_FIELD_FLAGS | UCP_AM_HANDLER_PARAM_FIELD_CB |
                      UCP_AM_HANDLER_PARAM_FIELD_ARG;
  params.id = id;
  params.flags = UCP_AM_FLAG_WHOLE_MSG;
  params.cb = callback;
  params.arg = this;
  const ucs_status_t status = ucp_worker_set_am_recv_handler(handle_, &params);
  if (status != UCS_OK) throw std::runtime_error(ucx_error("cannot set an active message handler", status));
}

void UcxWorker::register_memory(void* data, size_t bytes) {
  ucp_mem_map_params_t params{};
  params.field_mask = UCP_MEM_MAP_PARAM_FIELD_ADDRESS | UCP_MEM_MAP_PARAM_FIELD_LENGTH |
                      UCP_MEM_MAP_PARAM_FIELD_MEMORY_TYPE | UCP_MEM_MAP_PARAM_FIELD_FLAGS;
  params.address = data;
  params.length = bytes;
  params.memory_type = UCS_MEMORY_TYPE_HOST;
  params.flags = UCP_MEM_MAP_NONBLOCK;
  const ucs_status_t status = ucp_mem_map(context_.handle(), &params, &memory_);
  if (status != UCS_OK) throw std::runtime_error(ucx_error("cannot register the arena with UCX", status));
  memory_begin_ = static_cast<const std::byte*>(data);
  memory_bytes_ = bytes;
}

UcxEndpoint& UcxWorker::connect(ByteView address) {
  std::unique_ptr<UcxEndpoint> endpoint(new UcxEndpoint(*this));
  ucp_ep_params_t params{};
  params.field_mask =
      UCP_EP_PARAM_FIELD_REMOTE_ADDRESS | UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE | UCP_EP_PARAM_FIELD_ERR_HANDLER;
  // UCX takes no length and reads as far as the address tells it to: a short one must end in zeros that are ours.
  Bytes padded(kAddressBytesMax);
  std::copy_n(address.begin(), std::min<size_t>(address.size(), padded.size()), padded.begin());
  params.address = reinterpret_cast<const ucp_address_t*>(padded.data());
  params.err_mode = UCP_ERR_HANDLING_MODE_PEER;
  params.err_handler = {on_error, endpoint.get()};
  const ucs_status_t status = ucp_ep_create(handle_, &params, &endpoint->handle_);
  if (status != UCS_OK) throw std::runtime_error(ucx_error("cannot open a UCX endpoint", status));
  return *(endpoints_[endpoint->handle_] = std::move(endpoint));
}

bool UcxWorker::arm() { return ucp_worker_arm(handle_) == UCS_OK; }

void UcxWorker::on_error(void* arg, ucp_ep_h, ucs_status_t) {
  auto* endpoint = static_cast<UcxEndpoint*>(arg);
  if (endpoint->lost_) return;
  endpoint->lost_ = true;
  if (!endpoint->closed_) endpoint->worker_.events_.on_lost(*endpoint);
}

UcxEndpoint* UcxWorker::find(const ucp_am_recv_param_t* param) {
  if ((param->recv_attr & UCP_AM_RECV_ATTR_FIELD_REPLY_EP) == 0) return nullptr;
  const auto found = endpoints_.find(param->reply_ep);
  return found == endpoints_.end() ? nullptr : found->second.get();
}

ucs_status_t UcxWorker::on_am_frame(void* arg, const void*, size_t, void* data, size_t bytes,
                                    const ucp_am_recv_param_t* param) {
  auto* worker = static_cast<UcxWorker*>(arg);
  UcxEndpoint* endpoint = worker->find(param);
  const bool eager = (param->recv_attr & UCP_AM_RECV_ATTR_FLAG_RNDV) == 0;
  // Frames are always sent eagerly; a rendezvous one comes from a peer that does not speak this protocol.
  if (!eager) return UCS_OK;
  const ByteView frame(static_cast<const std::byte*>(data), bytes);
  if (endpoint != nullptr) {
    worker->events_.on_frame(*endpoint, frame);
  } else if (worker->strangers_.size() < kStrangersMax && bytes <= kFrameBytesMax) {
    worker->strangers_.emplace_back(frame.begin(), frame.end());
  }
  return UCS_OK;
}

ucs_status_t UcxWorker::on_am_chunk(void* arg, const void* header, size_t header_bytes, void* data, size_t bytes,
                                    const ucp_am_recv_param_t* param) {
  auto* worker = static_cast<UcxWorker*>(arg);
  UcxEndpoint* endpoint = worker->find(param);
  if (endpoint == nullptr) return UCS_OK;
  const ByteView header_view(static_cast<const std::byte*>(header), header_bytes);
  if ((param->recv_attr & UCP_AM_RECV_ATTR_FLAG_RNDV) != 0) {
    // The sender chooses the threshold; on eager lanes nobody has to send so, and what does is dropped.
    return worker->profile().rendezvous ? worker->place(*endpoint, header_view, data, bytes) : UCS_OK;
  }
  worker->events_.on_chunk(*endpoint, header_view, ByteView(static_cast<const std::byte*>(data), bytes));
  return UCS_OK;
}

ucs_status_t UcxWorker::place(UcxEndpoint& endpoint, ByteView header, void* data, size_t bytes) {
  std::byte* target = events_.place_chunk(endpoint, header, bytes);
  if (target == nullptr) return UCS_OK;  // UCX drops what nobody asked for
  auto* placement = new Placement{this, &endpoint, Bytes(header.begin(), header.end())};
  ucp_request_param_t params{};
  params.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA | UCP_OP_ATTR_FLAG_NO_IMM_CMPL;
  params.cb.recv_am = on_place_done;
  params.user_data = placement;
  ++endpoint.placements_in_flight_;
  const ucs_status_ptr_t request = ucp_am_recv_data_nbx(handle_, data, target, bytes, &params);
  if (!UCS_PTR_IS_PTR(request)) on_place_done(nullptr, UCS_PTR_STATUS(request), 0, placement);
  return UCS_INPROGRESS;
}

void UcxWorker::on_place_done(void* request, ucs_status_t status, size_t, void* arg) {
  const std::unique_ptr<Placement> placement(static_cast<Placement*>(arg));
  if (request != nullptr) ucp_request_free(request);
  --placement->endpoint->placements_in_flight_;
  placement->worker->events_.on_placed(*placement->endpoint, placement->header, status == UCS_OK);
}

void UcxWorker::reap() {
  std::erase_if(closing_, [](const std::unique_ptr<UcxEndpoint>& endpoint) {
    if (endpoint->sends_in_flight_ > 0 || endpoint->placements_in_flight_ > 0) return false;
    if (endpoint->close_request_ != nullptr) {
      if (ucp_request_check_status(endpoint->close_request_) == UCS_INPROGRESS) return false;
      ucp_request_free(endpoint->close_request_);
    }
    return true;
  });
}

struct UcxWorker::FrameSend {
  UcxEndpoint* endpoint;
  Bytes frame;

  static void done(void* request, ucs_status_t status, void* arg) {
    const std::unique_ptr<FrameSend> send(static_cast<FrameSend*>(arg));
    if (request != nullptr) ucp_request_free(request);
    --send->endpoint->sends_in_flight_;
  }
};

struct UcxWorker::ChunkSend {
  UcxEndpoint* endpoint;
  ChunkHeader header;
  ChunkSender* sender;
  uint64_t cookie;

  static void done(void* request, ucs_status_t status, void* arg) {
    const std::unique_ptr<ChunkSend> send(static_cast<ChunkSend*>(arg));
    if (request != nullptr) ucp_request_free(request);
    --send->endpoint->sends_in_flight_;
    send->sender->on_chunk_sent(send->cookie, status == UCS_OK);
  }
};

void UcxEndpoint::send_frame(ByteView frame) {
  if (lost_ || closed_) return;
  auto* send = new UcxWorker::FrameSend{this, Bytes(frame.begin(), frame.end())};
  ucp_request_param_t params{};
  params.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA | UCP_OP_ATTR_FIELD_FLAGS;
  params.flags = UCP_AM_SEND_FLAG_REPLY | UCP_AM_SEND_FLAG_EAGER;
  params.cb.send = UcxWorker::FrameSend::done;
  params.user_data = send;
  ++sends_in_flight_;
  const ucs_status_ptr_t request =
      ucp_am_send_nbx(handle_, kAmFrame, nullptr, 0, send->frame.data(), send->frame.size(), &params);
  if (!UCS_PTR_IS_PTR(request)) UcxWorker::FrameSend::done(nullptr, UCS_PTR_STATUS(request), send);
}

void UcxEndpoint::send_chunk(const ChunkHeader& header, ByteView payload, ChunkSender* sender, uint64_t cookie) {
  if (lost_ || closed_) {
    sender->on_chunk_sent(cookie, false);
    return;
  }
  auto* send = new UcxWorker::ChunkSend{this, header, sender, cookie};
  ucp_request_param_t params{};
  params.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA | UCP_OP_ATTR_FIELD_FLAGS |
                        UCP_OP_ATTR_FIELD_MEMORY_TYPE;
  params.flags = UCP_AM_SEND_FLAG_REPLY;
  if (!worker_.profile().rendezvous) params.flags |= UCP_AM_SEND_FLAG_EAGER;
  params.memory_type = UCS_MEMORY_TYPE_HOST;
  params.cb.send = UcxWorker::ChunkSend::done;
  params.user_data = send;
  const bool registered = worker_.memory_ != nullptr && payload.data() >= worker_.memory_begin_ &&
                          payload.data() + payload.size() <= worker_.memory_begin_ + worker_.memory_bytes_;
  if (registered) {
    params.op_attr_mask |= UCP_OP_ATTR_FIELD_MEMH;
    params.memh = worker_.memory_;
  }
  ++sends_in_flight_;
  const ucs_status_ptr_t request =
      ucp_am_send_nbx(handle_, kAmChunk, &send->header, sizeof(send->header), payload.data(), payload.size(), &params);
  if (!UCS_PTR_IS_PTR(request)) UcxWorker::ChunkSend::done(nullptr, UCS_PTR_STATUS(request), send);
}

void UcxEndpoint::close() {
  if (closed_) return;
  closed_ = true;
  ucp_request_param_t params{};
  params.op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS;
  params.flags = UCP_EP_CLOSE_FLAG_FORCE;
  const ucs_status_ptr_t request = ucp_ep_close_nbx(handle_, &params);
  if (UCS_PTR_IS_PTR(request)) close_request_ = request;
  const auto self = worker_.endpoints_.find(handle_);
  worker_.closing_.push_back(std::move(self->second));
  worker_.endpoints_.erase(self);
}

std::string UcxEndpoint::lanes() const {
  if (lost_ || closed_) return "";
  ucp_transport_entry_t entries[8];
  ucp_ep_attr_t attributes{};
  attributes.field_mask = UCP_EP_ATTR_FIELD_TRANSPORTS;
  attributes.transports.entries = entries;
  attributes.transports.num_entries = 8;
  attributes.transports.entry_size = sizeof(ucp_transport_entry_t);
  if (ucp_ep_query(handle_, &attributes) != UCS_OK) return "";
  std::string text;
  for (unsigned i = 0; i < attributes.transports.num_entries && i < 8; ++i) {
    // The connection manager's own lane has no device and carries no bytes.
    if (entries[i].device_name == nullptr || *entries[i].device_name == '\0') continue;
    const std::string lane = std::string(entries[i].transport_name) + "/" + entries[i].device_name;
    if (text.find(lane) != std::string::npos) continue;
    text += (text.empty() ? "" : " ") + lane;
  }
  return text;
}

}  // namespace kvstore
