#include "bench/bounds.h"

#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "bindings.h"

namespace kvstore::bindings {

using namespace nb::literals;

void bind_bounds(nb::module_& module) {
  module.def("bound_copy", &bench::copy_seconds, "kind"_a, "block_bytes"_a, "blocks"_a, "rounds"_a,
             nb::call_guard<nb::gil_scoped_release>());
  module.def("bound_socket", &bench::socket_seconds, "block_bytes"_a, "depth"_a, "rounds"_a,
             nb::call_guard<nb::gil_scoped_release>());
}

}  // namespace kvstore::bindings
