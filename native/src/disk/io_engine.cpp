#include "disk/io_engine.h"

#include <stdexcept>
#include <string>
#include <system_error>

#include "disk/engines.h"

namespace kvstore {

std::unique_ptr<IoEngine> make_io_engine(IoKind kind, uint32_t depth) {
  if (depth == 0 || depth > kIoDepthMax) {
    throw std::invalid_argument("the depth of an I/O engine must be 1 to " + std::to_string(kIoDepthMax) + ", not " +
                                std::to_string(depth));
  }
  if (kind == IoKind::kThreads) return make_thread_engine(depth);
  try {
    return make_uring_engine(depth);
  } catch (const std::system_error&) {
    if (kind == IoKind::kUring) throw;
    return make_thread_engine(depth);
  }
}

}  // namespace kvstore
