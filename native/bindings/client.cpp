#include "client/client.h"

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <optional>

#include "bindings.h"
#include "buffers.h"
#include "store/block_store.h"

namespace kvstore::bindings {
namespace {

using StatusArray = nb::ndarray<nb::numpy, uint8_t, nb::ndim<1>>;
using BatchPtr = std::shared_ptr<Batch>;

StatusArray status_array(const BatchPtr& batch) {
  auto* owner = new BatchPtr(batch);
  const nb::capsule capsule(owner, [](void* held) noexcept { delete static_cast<BatchPtr*>(held); });
  return StatusArray(reinterpret_cast<uint8_t*>(batch->statuses.data()), {batch->statuses.size()}, capsule);
}

// What `borrow` returns. Each view owns the memory it shows, whatever becomes of the borrow; the borrow owns the
// leases.
class Borrow {
 public:
  explicit Borrow(BatchPtr batch) : batch_(std::move(batch)) {}

  [[nodiscard]] nb::object statuses() const { return nb::cast(status_array(batch_)); }

  [[nodiscard]] nb::list views() const {
    nb::list list;
    for (size_t i = 0; i < batch_->views.size(); ++i) {
      const auto& view = batch_->views[i];
      if (view.empty()) {
        list.append(nb::none());
        continue;
      }
      using Memory = std::shared_ptr<BorrowedBlocks>;
      auto* memory = new Memory(batch_->borrowed[i / kKeysMax]);
      const nb::capsule owner(memory, [](void* held) noexcept { delete static_cast<Memory*>(held); });
      using View = nb::ndarray<nb::numpy, const uint8_t, nb::ndim<1>>;
      list.append(nb::cast(View(reinterpret_cast<const uint8_t*>(view.data()), {view.size()}, owner)));
    }
    return list;
  }

  void release() {
    for (const auto& borrowed : batch_->borrowed) {
      if (borrowed != nullptr) borrowed->release();
    }
  }

 private:
  BatchPtr batch_;
};

class PyClient {
 public:
  PyClient(uint32_t spin_us, uint64_t max_block_bytes)
      : client_(ClientOptions{spin_us, std::min(max_block_bytes, kBlockBytesLimit)}) {}
  ~PyClient() {
    // The last batches may need the GIL to let go of their buffers.
    const nb::gil_scoped_release released;
    client_.close();
  }
  PyClient(const PyClient&) = delete;
  PyClient& operator=(const PyClient&) = delete;

  std::string attach(const std::string& lane, const std::string& host, uint16_t port, const nb::bytes& address,
                     const std::string& socket, const nb::bytes& token, uint32_t timeout_ms) {
    if (token.size() != kTokenBytes) throw nb::value_error("a token has 32 bytes");
    const auto* first = reinterpret_cast<const std::byte*>(address.c_str());
    LaneTarget target{lane, host, port, Bytes(first, first + address.size()), socket, {}};
    std::memcpy(target.token.data(), token.c_str(), kTokenBytes);
    const nb::gil_scoped_release released;
    return client_.attach(target, timeout_ms);
  }

  BatchPtr make(Verb verb, nb::handle keys, uint32_t timeout_ms) const {
    if (client_.closed()) throw nb::value_error("the client is closed");
    auto batch = std::make_shared<Batch>();
    batch->verb = verb;
    batch->keys = keys_from(keys);
    batch->timeout_ms = timeout_ms;
    return batch;
  }

  BatchPtr make_put(nb::handle keys, nb::handle buffers, uint64_t ttl_ms, bool durable, uint32_t first_depth,
                    uint32_t timeout_ms) {
    BatchPtr batch = make(Verb::kPut, keys, timeout_ms);
    batch->ttl_ms = ttl_ms;
    batch->durable = durable;
    batch->first_depth = first_depth;
    buffers_into(*batch, buffers, false, client_.options().max_block_bytes);
    return batch;
  }

  BatchPtr make_get(nb::handle keys, nb::handle buffers, uint32_t wait_ms, uint32_t first_depth, uint32_t timeout_ms) {
    BatchPtr batch = make(Verb::kGet, keys, timeout_ms);
    batch->wait_ms = wait_ms;
    batch->first_depth = first_depth;
    buffers_into(*batch, buffers, true, client_.options().max_block_bytes);
    return batch;
  }

  BatchPtr make_borrow(nb::handle keys, uint32_t wait_ms, uint32_t first_depth, uint32_t timeout_ms) {
    BatchPtr batch = make(Verb::kBorrow, keys, timeout_ms);
    batch->wait_ms = wait_ms;
    batch->first_depth = first_depth;
    return batch;
  }

  BatchPtr make_touch(nb::handle keys, std::optional<uint64_t> ttl_ms, uint32_t first_depth, uint32_t timeout_ms) {
    BatchPtr batch = make(Verb::kTouch, keys, timeout_ms);
    batch->ttl_ms = ttl_ms.value_or(BlockStore::kKeepExpiry);
    batch->first_depth = first_depth;
    return batch;
  }

  void run(const BatchPtr& batch) {
    const nb::gil_scoped_release released;
    client_.execute(batch);
  }

  uint64_t start(const BatchPtr& batch) {
    const nb::gil_scoped_release released;
    return client_.submit(batch);
  }

  [[nodiscard]] static nb::object result_of(const BatchPtr& batch) {
    switch (batch->verb) {
      case Verb::kMatch:
        return nb::cast(batch->matched);
      case Verb::kBorrow:
        return nb::cast(new Borrow(batch), nb::rv_policy::take_ownership);
      default:
        return nb::cast(status_array(batch));
    }
  }

  nb::list drain() {
    std::vector<BatchPtr> batches;
    {
      const nb::gil_scoped_release released;
      batches = client_.drain();
    }
    nb::list list;
    for (const BatchPtr& batch : batches) list.append(nb::make_tuple(batch->ticket, result_of(batch)));
    return list;
  }

  Client client_;
};

using namespace nb::literals;

// Each verb twice: one waits and returns the result, `submit_...` returns a ticket at once.
template <bool kWait>
nb::object complete(PyClient& client, const BatchPtr& batch) {
  if constexpr (kWait) {
    client.run(batch);
    return PyClient::result_of(batch);
  } else {
    return nb::cast(client.start(batch));
  }
}

template <bool kWait, Verb kVerb>
void bind_key_verb(nb::class_<PyClient>& type, const char* name) {
  type.def(
      name,
      [](PyClient& self, nb::handle keys, uint32_t timeout_ms) {
        return complete<kWait>(self, self.make(kVerb, keys, timeout_ms));
      },
      "keys"_a.none(), nb::kw_only(), "timeout_ms"_a);
}

template <bool kWait>
void bind_verbs(nb::class_<PyClient>& type) {
  bind_key_verb<kWait, Verb::kMatch>(type, kWait ? "match" : "submit_match");
  bind_key_verb<kWait, Verb::kExists>(type, kWait ? "exists" : "submit_exists");
  bind_key_verb<kWait, Verb::kDelete>(type, kWait ? "delete" : "submit_delete");
  type.def(
      kWait ? "put" : "submit_put",
      [](PyClient& self, nb::handle keys, nb::handle buffers, uint64_t ttl_ms, bool durable, uint32_t first_depth,
         uint32_t timeout_ms) {
        return complete<kWait>(self, self.make_put(keys, buffers, ttl_ms, durable, first_depth, timeout_ms));
      },
      "keys"_a.none(), "buffers"_a.none(), nb::kw_only(), "ttl_ms"_a, "durable"_a, "first_depth"_a, "timeout_ms"_a);
  type.def(
      kWait ? "get" : "submit_get",
      [](PyClient& self, nb::handle keys, nb::handle buffers, uint32_t wait_ms, uint32_t first_depth,
         uint32_t timeout_ms) {
        return complete<kWait>(self, self.make_get(keys, buffers, wait_ms, first_depth, timeout_ms));
      },
      "keys"_a.none(), "buffers"_a.none(), nb::kw_only(), "wait_ms"_a, "first_depth"_a, "timeout_ms"_a);
  type.def(
      kWait ? "borrow" : "submit_borrow",
      [](PyClient& self, nb::handle keys, uint32_t wait_ms, uint32_t first_depth, uint32_t timeout_ms) {
        return complete<kWait>(self, self.make_borrow(keys, wait_ms, first_depth, timeout_ms));
      },
      "keys"_a.none(), nb::kw_only(), "wait_ms"_a, "first_depth"_a, "timeout_ms"_a);
  type.def(
      kWait ? "touch" : "submit_touch",
      [](PyClient& self, nb::handle keys, std::optional<uint64_t> ttl_ms, uint32_t first_depth, uint32_t timeout_ms) {
        return complete<kWait>(self, self.make_touch(keys, ttl_ms, first_depth, timeout_ms));
      },
      "keys"_a.none(), nb::kw_only(), "ttl_ms"_a.none(), "first_depth"_a, "timeout_ms"_a);
}

}  // namespace

void bind_client(nb::module_& module) {
  nb::class_<Borrow>(module, "Borrow")
      .def_prop_ro("statuses", &Borrow::statuses)
      .def_prop_ro("views", &Borrow::views)
      .def("release", &Borrow::release, nb::call_guard<nb::gil_scoped_release>());

  nb::class_<PyClient> type(module, "Client");
  type.def(nb::init<uint32_t, uint64_t>(), nb::kw_only(), "spin_us"_a, "max_block_bytes"_a)
      .def("attach", &PyClient::attach, nb::kw_only(), "lane"_a, "host"_a, "port"_a, "address"_a, "socket"_a, "token"_a,
           "timeout_ms"_a)
      .def_prop_ro("attached", [](const PyClient& self) { return self.client_.attached(); })
      .def(
          "wait_detached", [](PyClient& self, uint32_t timeout_ms) { return self.client_.wait_detached(timeout_ms); },
          "timeout_ms"_a, nb::call_guard<nb::gil_scoped_release>())
      .def(
          "close", [](PyClient& self) { self.client_.close(); }, nb::call_guard<nb::gil_scoped_release>())
      .def_prop_ro("completion_fd", [](const PyClient& self) { return self.client_.completion_fd(); })
      .def("drain", &PyClient::drain)
      .def("stats", [](const PyClient& self) { return counters_dict(self.client_.stats()); });
  bind_verbs<true>(type);
  bind_verbs<false>(type);
}

}  // namespace kvstore::bindings
