#include "bench/replay.h"

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "bindings.h"

namespace kvstore::bindings {
namespace {

using Numbers = nb::ndarray<const uint32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

std::span<const uint32_t> span_of(const Numbers& numbers) { return {numbers.data(), numbers.size()}; }

class Replayer {
 public:
  Replayer(const Numbers& blocks, const Numbers& lengths)
      : trace_(bench::make_trace(span_of(blocks), span_of(lengths))) {}

  [[nodiscard]] nb::dict replay(const std::string& policy, uint32_t capacity_blocks, bool as_engines) const {
    bench::ReplayResult result;
    {
      const nb::gil_scoped_release unlocked;
      const auto stamps = as_engines ? bench::Stamps::kAsEngines : bench::Stamps::kOneARequest;
      result = bench::replay(trace_, capacity_blocks, *bench::make_policy(policy), stamps);
    }
    return counters_dict({{"references", result.references},
                          {"usable_hits", result.usable_hits},
                          {"operations", result.operations},
                          {"policy_ns", result.policy_ns},
                          {"policy_bytes", result.policy_bytes},
                          {"blocks_held", result.blocks_held}});
  }

  [[nodiscard]] uint64_t belady_hits(uint32_t capacity_blocks) const {
    const nb::gil_scoped_release unlocked;
    return bench::belady_hits(trace_, capacity_blocks);
  }

 private:
  const bench::Trace trace_;
};

}  // namespace

void bind_replay(nb::module_& module) {
  using namespace nb::literals;
  nb::class_<Replayer>(module, "Replayer")
      .def(nb::init<const Numbers&, const Numbers&>(), "blocks"_a, "lengths"_a)
      .def("replay", &Replayer::replay, nb::kw_only(), "policy"_a, "capacity_blocks"_a, "as_engines"_a = false)
      .def("belady_hits", &Replayer::belady_hits, nb::kw_only(), "capacity_blocks"_a)
      .def_static("policies", &bench::policy_names);
}

}  // namespace kvstore::bindings
