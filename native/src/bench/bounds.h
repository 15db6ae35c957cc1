// What the machine can do without the store: the bounds beside which `kvstore bench` shows its figures.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <thread>
#include <vector>

namespace kvstore::bench {

// Two regions of the caller's, of `bytes` each, already touched. Blocks are taken from them in turn and round again, so
// that a region larger than the last-level cache is cold at each visit.
struct Regions {
  const std::byte* source = nullptr;
  std::byte* target = nullptr;
  uint64_t bytes = 0;
};

// What one batch is, and for how long batches are repeated.
struct Load {
  uint64_t block_bytes = 0;
  uint32_t depth = 0;  // blocks in one batch
  uint32_t budget_ms = 0;
};

// Seconds of each batch, of which there are at least kBatchesMin however short the budget; a first one is not counted.
using BatchSeconds = std::vector<double>;
inline constexpr uint32_t kBatchesMin = 3;

enum class CopyKind { kMemcpy, kStreaming };

// Where the two threads of a connection run. On one core a small answer comes sooner, since nobody has to be woken
// elsewhere; on two, sending and receiving overlap. Left alone, the kernel often chooses the former for both.
enum class Placement { kKernel, kApart };

// Copies blocks in this thread from source to target.
class CopyBound {
 public:
  explicit CopyBound(Regions regions) : regions_(regions) {}
  // Throws std::invalid_argument for a load that makes no sense.
  BatchSeconds measure(CopyKind kind, const Load& load);

 private:
  const Regions regions_;
  uint64_t next_block_ = 0;
};

// A plain TCP connection on loopback between two threads, which stays open from one measurement to the next, so that
// the kernel has sized its buffers. TCP_NODELAY is on; each block is one writev on one side and readv on the other,
// both of which block. Not thread-safe.
class SocketBound {
 public:
  explicit SocketBound(Regions regions);  // throws std::system_error
  ~SocketBound();
  SocketBound(const SocketBound&) = delete;
  SocketBound& operator=(const SocketBound&) = delete;

  // A request travels one way, `depth` blocks travel back.
  BatchSeconds measure_get(Placement placement, const Load& load);
  // `depth` blocks travel one way, an acknowledgement of all of them travels back.
  BatchSeconds measure_put(Placement placement, const Load& load);
  // Both throw std::invalid_argument, and std::system_error when the peer has not moved within kStallSeconds or, with
  // kApart, when this process may use one core only.
  static constexpr int kStallSeconds = 10;

 private:
  void connect_pair();
  void serve();
  BatchSeconds measure(Placement placement, const Load& load, const std::function<bool(uint64_t block)>& run_batch);

  const Regions regions_;
  int client_ = -1;
  int server_ = -1;
  uint64_t next_block_ = 0;
  std::thread thread_;
};

}  // namespace kvstore::bench
