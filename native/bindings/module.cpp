#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>

#include <system_error>

#include "base/checksum.h"
#include "bindings.h"
#include "client/lane.h"
#include "transport/ucx_context.h"
#include "wire/frame.h"

namespace {

namespace nb = nanobind;
using namespace nb::literals;

// Errors of the operating system become OSError with their errno, so that Python picks the right subclass.
void translate(const std::exception_ptr& exception, void*) {
  try {
    std::rethrow_exception(exception);
  } catch (const kvstore::OpenTimeout& error) {
    PyErr_SetString(PyExc_TimeoutError, error.what());
  } catch (const std::system_error& error) {
    const nb::object arguments = nb::make_tuple(error.code().value(), error.what());
    PyErr_SetObject(PyExc_OSError, arguments.ptr());
  } catch (const std::invalid_argument& error) {
    PyErr_SetString(PyExc_ValueError, error.what());
  } catch (const std::runtime_error& error) {
    PyErr_SetString(PyExc_ConnectionError, error.what());
  }
}

uint32_t crc32c_of(nb::handle data, uint32_t crc) {
  Py_buffer view;
  if (PyObject_GetBuffer(data.ptr(), &view, PyBUF_C_CONTIGUOUS) != 0) throw nb::python_error();
  const uint32_t sum = kvstore::crc32c(view.buf, static_cast<size_t>(view.len), crc);
  PyBuffer_Release(&view);
  return sum;
}

}  // namespace

NB_MODULE(_native, module) {
  // A forked child leaks its client on purpose (see kvstore.transport.fork) and need not be told.
  nb::set_leak_warnings(false);
  nb::register_exception_translator(translate);
  kvstore::bindings::bind_node(module);
  kvstore::bindings::bind_client(module);
  kvstore::bindings::bind_bounds(module);
  kvstore::bindings::bind_disk_check(module);
  kvstore::bindings::bind_replay(module);
  module.def("crc32c", crc32c_of, "data"_a, "crc"_a = 0);
  module.def("crc32c_implementation", &kvstore::crc32c_implementation);
  module.def("ucx_version", &kvstore::ucx_version);
  module.attr("WIRE_VERSION") = kvstore::kWireVersion;
}
