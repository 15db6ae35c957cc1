#include "node/node.h"

#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <map>

#include "bindings.h"

namespace kvstore::bindings {
namespace {

std::string_view view(const nb::bytes& bytes) { return {bytes.c_str(), bytes.size()}; }

// Each is (directory, bytes, 16 bytes of identity, bytes it had when it was open last).
std::vector<NodeDisk> disks_from(const nb::list& list) {
  std::vector<NodeDisk> disks;
  for (const nb::handle item : list) {
    const nb::tuple one = nb::cast<nb::tuple>(item);
    NodeDisk disk;
    disk.directory = nb::cast<std::string>(one[0]);
    disk.bytes = nb::cast<uint64_t>(one[1]);
    const nb::bytes id = nb::cast<nb::bytes>(one[2]);
    if (id.size() != disk.id.size()) throw nb::value_error("a disk's identity has 16 bytes");
    std::memcpy(disk.id.data(), id.c_str(), disk.id.size());
    disk.remembered_bytes = nb::cast<uint64_t>(one[3]);
    disks.push_back(std::move(disk));
  }
  return disks;
}

template <class Value>
Value choice(const std::string& name, const std::map<std::string, Value>& values) {
  const auto found = values.find(name);
  if (found == values.end()) throw nb::value_error(("there is no choice called " + name).c_str());
  return found->second;
}

const std::map<std::string, Admission> kAdmissions = {
    {"eager", Admission::kEager}, {"after-first-reuse", Admission::kAfterFirstReuse}, {"off", Admission::kOff}};
const std::map<std::string, IoKind> kIoKinds = {
    {"auto", IoKind::kAuto}, {"io_uring", IoKind::kUring}, {"threads", IoKind::kThreads}};

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

  void stop_serving() const {
    const std::shared_ptr<Node> open = node_;
    const nb::gil_scoped_release released;
    if (open != nullptr) open->stop_serving();
  }

  // The last rows may still be committed afterwards.
  void stop() const {
    const std::shared_ptr<Node> open = node_;
    const nb::gil_scoped_release released;
    if (open != nullptr) open->stop();
  }

  void close() {
    std::shared_ptr<Node> last = std::move(node_);
    const nb::gil_scoped_release released;
    if (last != nullptr) last->stop();
    last.reset();
  }

  // ---- disks

  // A disk of the node, which lives as long as the answer does.
  [[nodiscard]] std::shared_ptr<DiskTier> disk(size_t number) const {
    const std::shared_ptr<Node> open = node();
    std::vector<std::unique_ptr<DiskTier>>& disks = open->store().disks();
    if (number >= disks.size()) throw nb::index_error("the node has no such disk");
    return {open, disks[number].get()};
  }

  [[nodiscard]] nb::list disk_damage(size_t number) const {
    (void)disk(number);
    nb::list lines;
    for (const DiskDamage& damage : node_->extents(number).damage()) lines.append(damage.what);
    return lines;
  }

  void recover(size_t number, const nb::list& items) const {
    const std::shared_ptr<DiskTier> tier = disk(number);
    for (const nb::handle item : items) {
      const nb::tuple row = nb::borrow<nb::tuple>(item);
      tier->recover(view(nb::borrow<nb::bytes>(row[0])), view(nb::borrow<nb::bytes>(row[1])));
    }
  }

  [[nodiscard]] nb::list finish_recovery() const {
    const std::shared_ptr<Node> open = node();
    std::vector<std::vector<UnusableRow>> unusable;
    {
      const nb::gil_scoped_release released;
      for (size_t number = 0; number < open->store().disks().size(); ++number) {
        std::vector<DiskRange> lost;
        for (const DiskDamage& damage : open->extents(number).damage()) lost.push_back(damage.lost);
        unusable.push_back(open->store().disks()[number]->finish_recovery(lost));
      }
    }
    nb::list disks;
    for (const std::vector<UnusableRow>& rows : unusable) {
      nb::list list;
      for (const UnusableRow& row : rows)
        list.append(nb::make_tuple(row.why, nb::bytes(row.key.data(), row.key.size())));
      disks.append(list);
    }
    return disks;
  }

  // The rows of the damaged extents are out of the catalog.
  void damage_handled(size_t number) const {
    (void)disk(number);
    const nb::gil_scoped_release released;
    const int error = node_->extents(number).damage_handled();
    if (error != 0) throw std::system_error(error, std::generic_category(), "the disk's headers cannot be written");
  }

  void start() const {
    const std::shared_ptr<Node> open = node();
    const nb::gil_scoped_release released;
    open->start();
  }

  [[nodiscard]] std::optional<Commit> next_commit(size_t number, uint32_t timeout_ms) const {
    const std::shared_ptr<DiskTier> tier = disk(number);
    const nb::gil_scoped_release released;
    return tier->next_commit(std::chrono::milliseconds(timeout_ms));
  }

  void finish_commit(size_t number, uint64_t id, const std::string& error) const {
    const std::shared_ptr<DiskTier> tier = disk(number);
    const nb::gil_scoped_release released;
    tier->finish_commit(id, error.empty(), error);
  }

  // One status byte for each 32 bytes of `keys`.
  [[nodiscard]] nb::bytes pin(const nb::bytes& keys, const std::string& owner, uint64_t ttl_ms,
                              uint32_t timeout_ms) const {
    if (keys.size() % kKeyBytes != 0) throw nb::value_error("keys have 32 bytes each");
    if (owner.empty() || owner.size() > kOwnerBytesMax) throw nb::value_error("an owner has 1 to 255 bytes");
    const std::shared_ptr<Node> open = node();
    std::vector<Key> list(keys.size() / kKeyBytes);
    if (!list.empty()) std::memcpy(list.data(), keys.c_str(), keys.size());
    std::vector<Status> statuses(list.size());
    {
      const nb::gil_scoped_release released;
      open->store().pin(list, owner, ttl_ms, std::chrono::milliseconds(timeout_ms), statuses);
    }
    return nb::bytes(reinterpret_cast<const char*>(statuses.data()), statuses.size());
  }

  [[nodiscard]] bool flush(uint32_t timeout_ms) const {
    const std::shared_ptr<Node> open = node();
    const nb::gil_scoped_release released;
    return open->store().flush(std::chrono::milliseconds(timeout_ms));
  }

 private:
  std::shared_ptr<Node> node_;
};

using namespace nb::literals;

void bind_commit(nb::module_& module) {
  nb::class_<Commit>(module, "Commit").def_ro("id", &Commit::id).def_prop_ro("operations", [](const Commit& self) {
    nb::list list;
    for (const CatalogOperation& operation : self.operations) {
      const nb::bytes key(operation.key.data(), operation.key.size());
      if (operation.value) {
        list.append(nb::make_tuple(key, nb::bytes(operation.value->data(), operation.value->size())));
      } else {
        list.append(nb::make_tuple(key, nb::none()));
      }
    }
    return list;
  });
}

}  // namespace

void bind_node(nb::module_& module) {
  bind_commit(module);
  nb::class_<PyNode>(module, "Node")
      .def(
          "__init__",
          [](PyNode* self, uint64_t memory_bytes, uint64_t max_block_bytes, const std::string& host, uint16_t data_port,
             uint32_t threads, const std::string& runtime_dir, uint32_t spin_us, bool network,
             const std::string& rdma_transports, bool huge_pages, bool prefault, const nb::list& disks,
             const std::string& admission, const std::string& disk_io, uint32_t pin_share_percent) {
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
            options.disks = disks_from(disks);
            options.admission = choice(admission, kAdmissions);
            options.disk_io = choice(disk_io, kIoKinds);
            options.pin_share_percent = pin_share_percent;
            new (self) PyNode(std::move(options));
          },
          nb::kw_only(), "memory_bytes"_a, "max_block_bytes"_a, "host"_a, "data_port"_a, "threads"_a, "runtime_dir"_a,
          "spin_us"_a, "network"_a = true, "rdma_transports"_a = "", "huge_pages"_a = true, "prefault"_a = false,
          "disks"_a = nb::list(), "admission"_a = "eager", "disk_io"_a = "auto", "pin_share_percent"_a = 50)
      .def("endpoints", &PyNode::endpoints)
      .def("open_shm", &PyNode::open_shm, "thread"_a)
      .def("grant", &PyNode::grant, "token"_a, "verbs"_a, "ttl_ms"_a)
      .def("stats", [](const PyNode& self) { return counters_dict(self.node()->stats()); })
      .def(
          "evict",
          [](const PyNode& self, uint64_t bytes) {
            const std::shared_ptr<Node> node = self.node();
            const nb::gil_scoped_release released;
            return node->store().evict(bytes);
          },
          "bytes"_a)
      .def("disk_damage", &PyNode::disk_damage, "disk"_a)
      .def("recover", &PyNode::recover, "disk"_a, "items"_a)
      .def("finish_recovery", &PyNode::finish_recovery)
      .def("damage_handled", &PyNode::damage_handled, "disk"_a)
      .def("start", &PyNode::start)
      .def("next_commit", &PyNode::next_commit, "disk"_a, "timeout_ms"_a)
      .def("finish_commit", &PyNode::finish_commit, "disk"_a, "commit_id"_a, "error"_a)
      .def(
          "disk_trouble", [](const PyNode& self, size_t number) { return self.disk(number)->trouble(); }, "disk"_a)
      .def("flush", &PyNode::flush, "timeout_ms"_a)
      .def("pin", &PyNode::pin, "keys"_a, "owner"_a, "ttl_ms"_a, "timeout_ms"_a = 2000)
      .def("stop_serving", &PyNode::stop_serving)
      .def("stop", &PyNode::stop)
      .def("close", &PyNode::close);
}

}  // namespace kvstore::bindings
