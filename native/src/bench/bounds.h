// What the machine can do without us, measured the way `kvstore bench` measures the store: the bounds beside its figures.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace kvstore::bench {

// Seconds of each of `rounds` rounds of copying `blocks` blocks, one after the other, from one touched 256 MiB region
// to another, each round from where the last ended. `kind`: "memcpy" or "streaming". Throws std::invalid_argument.
std::vector<double> copy_seconds(const std::string& kind, uint64_t block_bytes, uint32_t blocks, uint32_t rounds);

// Seconds of each of `rounds` rounds over a plain TCP connection on loopback between two threads, TCP_NODELAY on: the
// client asks for `depth` blocks and reads them into touched memory, the server writes each with one writev.
// Throws std::system_error.
std::vector<double> socket_seconds(uint64_t block_bytes, uint32_t depth, uint32_t rounds);

}  // namespace kvstore::bench
