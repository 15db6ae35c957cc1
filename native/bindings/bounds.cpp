#include "bench/bounds.h"

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <stdexcept>

#include "bench/disk_bounds.h"
#include "bindings.h"

namespace kvstore::bindings {
namespace {

using Source = nb::ndarray<const uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Target = nb::ndarray<uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using bench::BatchSeconds;
using bench::CopyKind;
using bench::DiskDirection;
using bench::DiskFigures;
using bench::Load;
using bench::Placement;

// Kept alive for as long as something is measured with it.
class Memory {
 public:
  Memory(Source source, Target target) : source_(std::move(source)), target_(std::move(target)) {
    if (source_.nbytes() != target_.nbytes()) throw std::invalid_argument("source and target differ in length");
  }

  [[nodiscard]] bench::Regions regions() const {
    return {reinterpret_cast<const std::byte*>(source_.data()), reinterpret_cast<std::byte*>(target_.data()),
            source_.nbytes()};
  }

 private:
  const Source source_;
  const Target target_;
};

class Bounds {
 public:
  Bounds(Source source, Target target)
      : memory_(std::move(source), std::move(target)), copy_(memory_.regions()), socket_(memory_.regions()) {}

  BatchSeconds copy(const std::string& kind, uint64_t block_bytes, uint32_t depth, uint32_t budget_ms) {
    if (kind != "memcpy" && kind != "streaming") throw std::invalid_argument("kind must be memcpy or streaming");
    return copy_.measure(kind == "memcpy" ? CopyKind::kMemcpy : CopyKind::kStreaming, {block_bytes, depth, budget_ms});
  }

  BatchSeconds socket(const std::string& verb, uint64_t block_bytes, uint32_t depth, uint32_t budget_ms, bool apart) {
    if (verb != "get" && verb != "put") throw std::invalid_argument("verb must be get or put");
    const Placement placement = apart ? Placement::kApart : Placement::kKernel;
    const Load load{block_bytes, depth, budget_ms};
    return verb == "get" ? socket_.measure_get(placement, load) : socket_.measure_put(placement, load);
  }

 private:
  const Memory memory_;
  bench::CopyBound copy_;
  bench::SocketBound socket_;
};

class DiskBounds {
 public:
  DiskBounds(Source source, Target target, const std::string& directory, uint64_t file_bytes)
      : memory_(std::move(source), std::move(target)), disk_(memory_.regions(), directory, file_bytes) {}

  DiskFigures measure(const std::string& verb, uint64_t block_bytes, uint32_t depth, uint32_t budget_ms) {
    if (verb != "read" && verb != "write") throw std::invalid_argument("verb must be read or write");
    return disk_.measure(verb == "read" ? DiskDirection::kRead : DiskDirection::kWrite,
                         {block_bytes, depth, budget_ms});
  }

 private:
  const Memory memory_;
  bench::DiskBound disk_;
};

}  // namespace

void bind_bounds(nb::module_& module) {
  using namespace nb::literals;
  nb::class_<Bounds>(module, "Bounds")
      .def(nb::init<Source, Target>(), "source"_a, "target"_a)
      .def("copy", &Bounds::copy, "kind"_a, "block_bytes"_a, "depth"_a, "budget_ms"_a,
           nb::call_guard<nb::gil_scoped_release>())
      .def("socket", &Bounds::socket, "verb"_a, "block_bytes"_a, "depth"_a, "budget_ms"_a, nb::kw_only(), "apart"_a,
           nb::call_guard<nb::gil_scoped_release>());
  nb::class_<DiskFigures>(module, "DiskFigures")
      .def_ro("bytes", &DiskFigures::bytes)
      .def_ro("seconds", &DiskFigures::seconds)
      .def_ro("block_seconds", &DiskFigures::block_seconds);
  nb::class_<DiskBounds>(module, "DiskBounds")
      .def(nb::init<Source, Target, const std::string&, uint64_t>(), "source"_a, "target"_a, "directory"_a,
           "file_bytes"_a)
      .def("measure", &DiskBounds::measure, "verb"_a, "block_bytes"_a, "depth"_a, "budget_ms"_a,
           nb::call_guard<nb::gil_scoped_release>());
}

}  // namespace kvstore::bindings
