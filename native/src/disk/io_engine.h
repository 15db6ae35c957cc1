// Asynchronous reads and writes on file descriptors: by io_uring, or by a pool of threads where the kernel refuses it.
//
// Requests may come from any thread. They wait in a queue without limit (the caller bounds what it asks for) and are
// handed to the kernel in order of arrival, large ones in pieces, within limits for reads and for writes apart, and
// tighter ones for writes while there are reads, so that a cold read never waits behind a pile of writes (see
// disk/io_queue.h). EINTR, EAGAIN and short transfers are dealt with inside.
//
// `done` runs exactly once for each request, on a thread of the engine's own, with 0 or an errno (EIO where the file
// ends too early). It must be short, must not throw and may start further requests. The memory stays the caller's and
// must be valid until then. Offsets and lengths are multiples of 4096, as O_DIRECT wants them, and so are addresses if
// the descriptor is direct.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>

namespace kvstore {

enum class IoKind {
  kAuto,     // io_uring, or threads where the kernel refuses it
  kUring,    // io_uring or nothing
  kThreads,  // threads, which work everywhere
};

class IoEngine {
 public:
  using Done = std::function<void(int error)>;

  // Waits until everything that was asked for has ended. Nothing new may be asked for from outside by then.
  virtual ~IoEngine() = default;
  virtual void read(int fd, uint64_t offset, std::byte* data, uint32_t bytes, Done done) = 0;
  virtual void write(int fd, uint64_t offset, const std::byte* data, uint32_t bytes, Done done) = 0;
  [[nodiscard]] virtual const char* name() const = 0;  // "io_uring" or "threads"
};

inline constexpr uint32_t kIoDepthMax = 256;

// `depth`: pieces in the kernel's hands at most, for reads and for writes each; 1 to kIoDepthMax.
// Throws std::invalid_argument for another depth, and std::system_error when kUring is asked for and refused, or when
// no threads can be started.
std::unique_ptr<IoEngine> make_io_engine(IoKind kind, uint32_t depth);

}  // namespace kvstore
