#include "buffers.h"

#include <nanobind/ndarray.h>

#include <string>
#include <string_view>

namespace kvstore::bindings {
namespace {

// The Python objects behind a batch. Let go of with the GIL held, whichever thread is last.
class KeepAlive {
 public:
  ~KeepAlive() {
    if (!Py_IsInitialized()) return;  // the interpreter is gone, and its objects with it
    const nb::gil_scoped_acquire gil;
    for (Py_buffer& view : views) PyBuffer_Release(&view);
    arrays.clear();
  }

  std::vector<Py_buffer> views;
  std::vector<nb::ndarray<>> arrays;
};

[[noreturn]] void raise_value(const std::string& text) { throw nb::value_error(text.c_str()); }

class BufferReader {
 public:
  BufferReader(Batch& batch, bool writable, uint64_t max_block_bytes)
      : batch_(batch), writable_(writable), max_block_bytes_(max_block_bytes), keep_(std::make_shared<KeepAlive>()) {
    batch_.keep_alive = keep_;
    batch_.blocks.reserve(batch_.keys.size());
    batch_.pieces.reserve(batch_.keys.size());
    keep_->views.reserve(batch_.keys.size());
  }

  void read(nb::handle buffers) {
    const size_t count = batch_.keys.size();
    if (PyList_Check(buffers.ptr()) || PyTuple_Check(buffers.ptr())) {
      read_sequence(buffers.ptr(), count);
      return;
    }
    size_t rows = 0;
    const Piece whole = run_of(buffers, &rows);
    if (rows != count) {
      raise_value("buffers is one array with a first axis of " + std::to_string(rows) + ", for " +
                  std::to_string(count) + " keys; give it one row a key, or pass a list with one buffer a key");
    }
    const size_t bytes = count == 0 ? 0 : whole.bytes / count;
    for (size_t i = 0; i < count; ++i) {
      begin_block();
      add({whole.data + i * bytes, bytes});
      end_block(i);
    }
  }

 private:
  void read_sequence(PyObject* buffers, size_t count) {
    const auto given = static_cast<size_t>(PySequence_Fast_GET_SIZE(buffers));
    if (given != count) {
      raise_value("there are " + std::to_string(given) + " buffers for " + std::to_string(count) + " keys");
    }
    PyObject** items = PySequence_Fast_ITEMS(buffers);
    for (size_t i = 0; i < count; ++i) {
      begin_block();
      PyObject* item = items[i];
      if (PyList_Check(item) || PyTuple_Check(item)) {
        const Py_ssize_t pieces = PySequence_Fast_GET_SIZE(item);
        for (Py_ssize_t j = 0; j < pieces; ++j) add(run_of(PySequence_Fast_ITEMS(item)[j], nullptr));
      } else {
        add(run_of(item, nullptr));
      }
      end_block(i);
    }
  }

  // For errors: the buffer that is being looked at.
  [[nodiscard]] std::string which() const {
    return batch_.blocks.empty() ? "buffers" : "buffer " + std::to_string(batch_.blocks.size() - 1);
  }

  [[noreturn]] void refuse(const std::string& what) const { raise_value(which() + " " + what); }

  void begin_block() { batch_.blocks.push_back({static_cast<uint32_t>(batch_.pieces.size()), 0, 0}); }

  void add(Piece piece) {
    if (piece.bytes == 0) return;
    BlockPieces& block = batch_.blocks.back();
    ++block.count;
    total_ += piece.bytes;
    batch_.pieces.push_back(piece);
  }

  void end_block(size_t index) {
    if (total_ == 0) refuse("is empty");
    if (total_ > max_block_bytes_) {
      refuse("has " + std::to_string(total_) + " bytes, above the block limit of " + std::to_string(max_block_bytes_));
    }
    batch_.blocks.back().bytes = static_cast<uint32_t>(total_);
    total_ = 0;
  }

  // One contiguous run of memory, kept alive; `rows` receives the length of its first axis.
  Piece run_of(nb::handle object, size_t* rows) {
    return PyObject_CheckBuffer(object.ptr()) ? run_of_buffer(object, rows) : run_of_dlpack(object, rows);
  }

  Piece run_of_buffer(nb::handle object, size_t* rows) {
    Py_buffer view;
    const int flags =
        (rows != nullptr ? PyBUF_ND : PyBUF_SIMPLE) | PyBUF_C_CONTIGUOUS | (writable_ ? PyBUF_WRITABLE : 0);
    if (PyObject_GetBuffer(object.ptr(), &view, flags) != 0) {
      PyErr_Clear();
      return run_of_awkward(object, rows);
    }
    keep_->views.push_back(view);
    if (rows != nullptr) *rows = view.ndim > 0 ? static_cast<size_t>(view.shape[0]) : 0;
    return {static_cast<std::byte*>(view.buf), static_cast<size_t>(view.len)};
  }

  // Arrays whose dtype the buffer protocol cannot spell (bfloat16, float8) still speak DLPack or can be viewed as
  // bytes.
  Piece run_of_awkward(nb::handle object, size_t* rows) {
    if (nb::hasattr(object, "view") && nb::hasattr(object, "flags")) {
      if (!nb::cast<bool>(object.attr("flags").attr("c_contiguous"))) {
        refuse("is not C-contiguous; pass a contiguous copy or a list of contiguous pieces");
      }
      if (writable_ && !nb::cast<bool>(object.attr("flags").attr("writeable"))) refuse("is read-only");
      const nb::object bytes = object.attr("view")("uint8");
      if (bytes.type().is(object.type()) && !bytes.attr("dtype").equal(object.attr("dtype"))) {
        if (rows != nullptr) *rows = nb::len(object);
        return run_of_buffer(bytes, nullptr);
      }
    }
    Py_buffer view;
    if (PyObject_GetBuffer(object.ptr(), &view, PyBUF_STRIDES) != 0) {
      PyErr_Clear();
      refuse("cannot be read through the buffer protocol");
    }
    const bool contiguous = PyBuffer_IsContiguous(&view, 'C') != 0;
    const bool read_only = view.readonly != 0;
    PyBuffer_Release(&view);
    if (!contiguous) refuse("is not C-contiguous; pass a contiguous copy or a list of contiguous pieces");
    refuse(read_only ? "is read-only" : "cannot be used through the buffer protocol");
  }

  Piece run_of_dlpack(nb::handle object, size_t* rows) {
    if (!nb::hasattr(object, "__dlpack__")) {
      throw nb::type_error((which() + " supports neither the buffer protocol nor DLPack").c_str());
    }
    nb::ndarray<> array;
    if (!nb::try_cast(object, array, false)) refuse("cannot be imported through DLPack");
    const int device = array.device_type();
    if (device != nb::device::cpu::value && device != nb::device::cuda_host::value) {
      refuse("is on an accelerator; this build moves host memory only");
    }
    size_t expected = 1;
    for (size_t axis = array.ndim(); axis-- > 0;) {
      const bool packed = array.shape(axis) <= 1 || array.stride(axis) == static_cast<int64_t>(expected);
      if (!packed) refuse("is not C-contiguous; pass a contiguous copy or a list of contiguous pieces");
      expected *= array.shape(axis);
    }
    if (rows != nullptr) *rows = array.ndim() > 0 ? array.shape(0) : 0;
    const Piece piece{static_cast<std::byte*>(array.data()), array.nbytes()};
    keep_->arrays.push_back(std::move(array));
    return piece;
  }

  Batch& batch_;
  const bool writable_;
  const uint64_t max_block_bytes_;
  size_t total_ = 0;
  std::shared_ptr<KeepAlive> keep_;
};

}  // namespace

std::vector<Key> keys_from(nb::handle keys) {
  Py_buffer view;
  if (PyObject_GetBuffer(keys.ptr(), &view, PyBUF_ND | PyBUF_FORMAT | PyBUF_C_CONTIGUOUS) != 0) {
    PyErr_Clear();
    throw nb::type_error("keys must be a C-contiguous (n, 32) uint8 array, as Namespace.chain returns");
  }
  const bool bytes = view.format == nullptr || std::string_view(view.format) == "B";
  const bool valid = bytes && view.ndim == 2 && view.shape[1] == kKeyBytes;
  std::vector<Key> copy;
  if (valid) {
    copy.resize(static_cast<size_t>(view.shape[0]));
    if (!copy.empty()) std::memcpy(copy.data(), view.buf, copy.size() * sizeof(Key));
  }
  PyBuffer_Release(&view);
  if (!valid) raise_value("keys must be a C-contiguous (n, 32) uint8 array, as Namespace.chain returns");
  return copy;
}

void buffers_into(Batch& batch, nb::handle buffers, bool writable, uint64_t max_block_bytes) {
  BufferReader(batch, writable, max_block_bytes).read(buffers);
}

}  // namespace kvstore::bindings
