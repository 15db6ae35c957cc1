// A UCP context: which transports may be used and how. One per thread, so that threads share no locks inside UCX.
#pragma once

#include <ucp/api/ucp.h>

#include <cstddef>
#include <string>

namespace kvstore {

// How a class of lanes is driven. Thresholds belong to a context in UCX, so each class has its own.
struct UcxProfile {
  std::string transports;   // UCX_TLS
  std::string net_device;   // network interface of the tcp transport, which UCX also listens on; "": all
  bool ipv6 = false;        // tcp by IPv6
  uint16_t port = 0;        // of the tcp transport's listening socket; 0: any
  bool rendezvous = false;  // RDMA: whole blocks go straight into the final buffer; otherwise eager chunks
  size_t chunk_bytes = 0;   // largest piece of a block in one active message

  // TCP and shared memory, eager chunks: see docs/ARCHITECTURE.md, "Data plane".
  // `host`: a numeric address of this machine, or of the peer; it chooses the interface.
  static UcxProfile eager(const std::string& transports, const std::string& host);
  // Rendezvous, for RDMA. Over "tcp,self" the same protocol runs without RDMA, bound to the interface of `host`.
  static UcxProfile rdma(const std::string& transports, const std::string& host);
};

// The interface that carries `host` (a numeric address of this machine) or leads to it; "" for a wildcard address.
// Throws std::runtime_error when there is none.
[[nodiscard]] std::string net_device_of(const std::string& host);

class UcxContext {
 public:
  explicit UcxContext(const UcxProfile& profile);  // throws std::runtime_error
  ~UcxContext();
  UcxContext(const UcxContext&) = delete;
  UcxContext& operator=(const UcxContext&) = delete;

  [[nodiscard]] ucp_context_h handle() const { return handle_; }
  [[nodiscard]] const UcxProfile& profile() const { return profile_; }

 private:
  UcxProfile profile_;
  ucp_context_h handle_ = nullptr;
};

// "1.22.0": of the library that was loaded.
[[nodiscard]] std::string ucx_version();

// Text for an exception: what was tried and what UCX said.
[[nodiscard]] std::string ucx_error(const std::string& what, ucs_status_t status);

}  // namespace kvstore
