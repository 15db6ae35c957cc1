#include "bench/disk_bounds.h"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <stdexcept>
#include <system_error>

#include "base/clock.h"

namespace kvstore::bench {
namespace {

constexpr uint64_t kAlignmentBytes = 4096;
constexpr uint64_t kFillBytes = 2 << 20;
constexpr uint32_t kFillDepth = 8;

[[noreturn]] void throw_errno(int error, const std::string& what) {
  throw std::system_error(error, std::generic_category(), what);
}

FileDescriptor make_file(const std::string& directory, uint64_t bytes) {
  const std::string path = directory + "/kvstore-bench.bytes";
  FileDescriptor file(open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | O_DIRECT, S_IRUSR | S_IWUSR));
  if (!file.valid()) throw_errno(errno, "no file to measure the disk with: " + path);
  unlink(path.c_str());  // gone with its descriptor, however this process ends
  if (fallocate(file.get(), 0, 0, static_cast<off_t>(bytes)) != 0) {
    throw_errno(errno, "no " + std::to_string(bytes) + " bytes to measure the disk with in " + directory);
  }
  return file;
}

}  // namespace

DiskBound::DiskBound(const Regions& regions, const std::string& directory, uint64_t file_bytes)
    : regions_(regions), file_bytes_(file_bytes / kFillBytes * kFillBytes), ring_(kDepthMax) {
  if (file_bytes_ == 0) throw std::invalid_argument("a file to measure the disk with must have at least 2 MiB");
  file_ = make_file(directory, file_bytes_);
  const Load fill{kFillBytes, kFillDepth, 0};
  check(fill);
  DiskFigures figures;
  transfer(DiskDirection::kWrite, fill, file_bytes_ / kFillBytes, &figures);
}

DiskFigures DiskBound::measure(DiskDirection direction, const Load& load) {
  check(load);
  DiskFigures figures;
  transfer(direction, load, kBatchesMin * load.depth, &figures);
  return figures;
}

void DiskBound::check(const Load& load) const {
  if (load.block_bytes == 0 || load.block_bytes % kAlignmentBytes != 0 || load.block_bytes > file_bytes_ ||
      load.block_bytes > UINT32_MAX) {
    throw std::invalid_argument("block_bytes must be a multiple of 4096 and at most the bytes of the file");
  }
  if (load.depth == 0 || load.depth > kDepthMax || load.depth * load.block_bytes > regions_.bytes) {
    throw std::invalid_argument("depth must be 1 to 256, and all blocks under way must fit into a region");
  }
}

void DiskBound::transfer(DiskDirection direction, const Load& load, uint64_t blocks_min, DiskFigures* figures) {
  const Clock& clock = SteadyClock::instance();
  std::array<uint64_t, kDepthMax> started_ns{};
  const uint64_t start_ns = clock.now_ns();
  const uint64_t end_ns = start_ns + uint64_t{load.budget_ms} * 1'000'000;
  uint64_t started = 0;
  for (; started < load.depth; ++started) {
    started_ns[started] = clock.now_ns();
    prepare(direction, load, static_cast<uint32_t>(started));
  }
  uint64_t now_ns = start_ns;
  for (uint64_t ended = 0; ended < started;) {
    if (const int error = ring_.submit_and_wait(); error != 0) throw_errno(error, "the disk cannot be measured");
    now_ns = clock.now_ns();
    io_uring_cqe completion;
    while (ring_.take(&completion)) {
      if (completion.res != static_cast<int>(load.block_bytes)) {
        throw_errno(completion.res < 0 ? -completion.res : EIO, "the disk cannot be measured");
      }
      const auto slot = static_cast<uint32_t>(completion.user_data);
      figures->block_seconds.push_back(static_cast<double>(now_ns - started_ns[slot]) * 1e-9);
      ++ended;
      if (now_ns >= end_ns && started >= blocks_min) continue;
      started_ns[slot] = now_ns;
      prepare(direction, load, slot);
      ++started;
    }
  }
  figures->bytes = started * load.block_bytes;
  figures->seconds = static_cast<double>(now_ns - start_ns) * 1e-9;
}

void DiskBound::prepare(DiskDirection direction, const Load& load, uint32_t slot) {
  const uint64_t places = file_bytes_ / load.block_bytes;
  const std::byte* memory = direction == DiskDirection::kWrite ? regions_.source : regions_.target;
  io_uring_sqe entry{};
  entry.opcode = direction == DiskDirection::kWrite ? IORING_OP_WRITE : IORING_OP_READ;
  entry.fd = file_.get();
  entry.off = next_block_++ % places * load.block_bytes;
  entry.addr = reinterpret_cast<uint64_t>(memory + slot * load.block_bytes);
  entry.len = static_cast<uint32_t>(load.block_bytes);
  entry.user_data = slot;
  ring_.prepare(entry);
}

}  // namespace kvstore::bench
