// The two engines, for make_io_engine to choose from.
#pragma once

#include <cstdint>
#include <memory>

#include "disk/io_engine.h"

namespace kvstore {

// Throws std::system_error where the kernel refuses io_uring (too old, switched off, or hidden by a sandbox).
std::unique_ptr<IoEngine> make_uring_engine(uint32_t depth);
// Throws std::system_error when no threads can be started.
std::unique_ptr<IoEngine> make_thread_engine(uint32_t depth);

}  // namespace kvstore
