// The parts of the module kvstore._native. Its contract is kvstore/_native.pyi.
#pragma once

#include <nanobind/nanobind.h>

#include <string>
#include <utility>
#include <vector>

namespace kvstore::bindings {

namespace nb = nanobind;

void bind_node(nb::module_& module);
void bind_client(nb::module_& module);
void bind_bounds(nb::module_& module);
void bind_disk_check(nb::module_& module);
void bind_replay(nb::module_& module);

inline nb::dict counters_dict(const std::vector<std::pair<std::string, uint64_t>>& counters) {
  nb::dict dict;
  for (const auto& [name, value] : counters) dict[name.c_str()] = value;
  return dict;
}

}  // namespace kvstore::bindings
