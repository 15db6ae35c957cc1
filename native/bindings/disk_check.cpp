#include "store/disk_check.h"

#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <system_error>

#include "bindings.h"
#include "disk/extent_reader.h"

namespace kvstore::bindings {
namespace {

ExtentDiskOptions options_of(const std::string& directory, const nb::bytes& disk_id, uint64_t remembered_bytes) {
  ExtentDiskOptions options;
  if (disk_id.size() != options.disk_id.size()) throw nb::value_error("a disk's identity has 16 bytes");
  options.directory = directory;
  std::memcpy(options.disk_id.data(), disk_id.c_str(), options.disk_id.size());
  options.remembered_bytes = remembered_bytes;
  return options;
}

// The extent files of a stopped node's disk together with the check of them.
class PyDiskCheck {
 public:
  PyDiskCheck(const std::string& directory, const nb::bytes& disk_id, uint64_t remembered_bytes)
      : options_(options_of(directory, disk_id, remembered_bytes)), disk_(options_), check_(disk_, disk_.lost()) {}

  void add(const nb::list& items) {
    for (const nb::handle item : items) {
      const nb::tuple row = nb::borrow<nb::tuple>(item);
      const auto text = [](const nb::object& part) {
        const nb::bytes bytes = nb::cast<nb::bytes>(part);
        return std::string_view(bytes.c_str(), bytes.size());
      };
      check_.add(text(row[0]), text(row[1]));
    }
  }

  // Opening a disk makes its files whole again.
  void repair_extents() const {
    ExtentDiskOptions options = options_;
    options.capacity_bytes = disk_.capacity_bytes();
    if (options.capacity_bytes == 0) return;
    const int error = ExtentDisk(options).damage_handled();
    if (error != 0) throw std::system_error(error, std::generic_category(), "the extent files cannot be repaired");
  }

  [[nodiscard]] uint64_t plan() { return check_.plan(); }
  [[nodiscard]] bool read(uint32_t budget_ms) { return check_.read(std::chrono::milliseconds(budget_ms)); }

  [[nodiscard]] nb::list findings() const {
    nb::list list;
    for (const DiskCheck::Finding& one : check_.findings()) {
      list.append(nb::make_tuple(one.why, nb::bytes(one.catalog_key.data(), one.catalog_key.size()), one.bytes));
    }
    return list;
  }

  [[nodiscard]] const ExtentReader& disk() const { return disk_; }
  [[nodiscard]] const DiskCheck& check() const { return check_; }

 private:
  const ExtentDiskOptions options_;
  ExtentReader disk_;
  DiskCheck check_;
};

}  // namespace

void bind_disk_check(nb::module_& module) {
  using namespace nb::literals;
  using Released = nb::call_guard<nb::gil_scoped_release>;
  nb::class_<PyDiskCheck>(module, "DiskCheck")
      .def(nb::init<const std::string&, const nb::bytes&, uint64_t>(), "directory"_a, "disk_id"_a, "remembered_bytes"_a)
      .def_prop_ro("capacity_bytes", [](const PyDiskCheck& self) { return self.disk().capacity_bytes(); })
      .def_prop_ro("damage", [](const PyDiskCheck& self) { return self.disk().damage(); })
      .def("add", &PyDiskCheck::add, "items"_a)
      .def("plan", &PyDiskCheck::plan, Released())
      .def("read", &PyDiskCheck::read, "budget_ms"_a, Released())
      .def_prop_ro("bytes_read", [](const PyDiskCheck& self) { return self.check().bytes_read(); })
      .def_prop_ro("sound_blocks", [](const PyDiskCheck& self) { return self.check().sound_blocks(); })
      .def_prop_ro("sound_bytes", [](const PyDiskCheck& self) { return self.check().sound_bytes(); })
      .def_prop_ro("sound_pins", [](const PyDiskCheck& self) { return self.check().sound_pins(); })
      .def_prop_ro("findings", &PyDiskCheck::findings)
      .def("repair_extents", &PyDiskCheck::repair_extents, Released());
}

}  // namespace kvstore::bindings
