#include "node/node.h"

#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "bindings.h"

namespace kvstore::bindings {
namespace {

class PyNode {
 public:
  explicit PyNode(NodeOptions options) {
    const nb::gil_scoped_release released;
    node_ = std::make_shared<Node>(std::move(options));
  }

  // A share of the node, so that stopping it in another thread does not pull it away from under a call.
  [[nodiscard]] std::shared_ptr<Node> node() const {
    if (node_ == nullptr) throw nb::value_error("the node is stopped");
    return node_;
  }

  void grant(const nb::bytes& bytes, uint32_t verbs, uint64_t ttl_ms) const {
    if (bytes.size() != kTokenBytes) throw nb::value_error("a token has 32 bytes");
    Token token;
    std::memcpy(token.data(), bytes.c_str(), kTokenBytes);
    if (!node()->grant(token, verbs, ttl_ms)) throw std::runtime_error("too many sessions are being opened at once");
  }

  [[nodiscard]] nb::list endpoints() const {
    nb::list list;
    for (const Node::Endpoint& one : node()->endpoints()) {
      const auto bytes = [](const Bytes& raw) { return nb::bytes(raw.data(), raw.size()); };
      list.append(nb::make_tuple(one.port, bytes(one.address), bytes(one.rdma_address), one.socket_path));
    }
    return list;
  }

  [[nodiscard]] nb::bytes open_shm(size_t thread) const {
    const std::shared_ptr<Node> open = node();
    Bytes address;
    {
      const nb::gil_scoped_release released;
      address = open->open_shm(thread);
    }
    return nb::bytes(address.data(), address.size());
  }

  void stop() {
    std::shared_ptr<Node> last = std::move(node_);
    const nb::gil_scoped_release released;
    if (last != nullptr) last->stop();
    last.reset();
  }

 private:
  std::shared_ptr<Node> node_;
};

using namespace nb::literals;

}  // namespace

void bind_node(nb::module_& module) {
  nb::class_<PyNode>(module, "Node")
      .def(
          "__init__",
          [](PyNode* self, uint64_t memory_bytes, uint64_t max_block_bytes, const std::string& host, uint16_t data_port,
             uint32_t threads, const std::string& runtime_dir, uint32_t spin_us, bool network,
             const std::string& rdma_transports, bool huge_pages, bool prefault) {
            if (threads == 0) throw nb::value_error("a node needs at least one data thread");
            if (memory_bytes == 0) throw nb::value_error("a node needs memory");
            NodeOptions options;
            options.memory_bytes = memory_bytes;
            options.max_block_bytes = std::min(max_block_bytes, kBlockBytesLimit);
            options.host = host;
            options.data_port = data_port;
            options.threads = threads;
            options.runtime_dir = runtime_dir;
            options.spin_us = spin_us;
            options.network = network;
            options.rdma_transports = rdma_transports;
            options.huge_pages = huge_pages;
            options.prefault = prefault;
            new (self) PyNode(std::move(options));
          },
          nb::kw_only(), "memory_bytes"_a, "max_block_bytes"_a, "host"_a, "data_port"_a, "threads"_a, "runtime_dir"_a,
          "spin_us"_a, "network"_a = true, "rdma_transports"_a = "", "huge_pages"_a = true, "prefault"_a = false)
      .def("endpoints", &PyNode::endpoints)
      .def("open_shm", &PyNode::open_shm, "thread"_a)
      .def("grant", &PyNode::grant, "token"_a, "verbs"_a, "ttl_ms"_a)
      .def("stats", [](const PyNode& self) { return counters_dict(self.node()->stats()); })
      .def(
          "evict",
          [](const PyNode& self, uint64_t bytes) {
            const std::shared_ptr<Node> node = self.node();
            const nb::gil_scoped_release released;
            return node->evict(bytes);
          },
          "bytes"_a)
      .def("stop", &PyNode::stop);
}

}  // namespace kvstore::bindings
