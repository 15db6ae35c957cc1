// Python arguments to native ones: keys and buffers in, without copying the bytes of blocks.
#pragma once

#include <nanobind/nanobind.h>

#include <memory>
#include <vector>

#include "client/batch.h"

namespace kvstore::bindings {

namespace nb = nanobind;

// `keys`: C-contiguous (n, 32) uint8. Raises TypeError or ValueError.
std::vector<Key> keys_from(nb::handle keys);

// Fills batch.pieces, batch.blocks and batch.keep_alive from `buffers` (see kvstore/_native.pyi for its forms), one
// block for each of batch.keys. `writable`: the buffers will be written to. Raises TypeError or ValueError.
void buffers_into(Batch& batch, nb::handle buffers, bool writable, uint64_t max_block_bytes);

}  // namespace kvstore::bindings
