// What the tests of disks share: a directory that goes away, aligned memory with known bytes, waiting for an operation.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <filesystem>
#include <future>
#include <memory>
#include <new>
#include <random>
#include <string>

#include "check.h"
#include "disk/disk.h"
#include "disk/io_engine.h"

namespace kvstore::test {

class TemporaryDirectory {
 public:
  TemporaryDirectory() {
    std::string pattern = (std::filesystem::temp_directory_path() / "kvstore-disk-XXXXXX").string();
    CHECK(mkdtemp(pattern.data()) != nullptr);
    path_ = pattern;
  }
  ~TemporaryDirectory() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TemporaryDirectory(const TemporaryDirectory&) = delete;
  TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;

  [[nodiscard]] const std::string& path() const { return path_; }
  [[nodiscard]] std::string file(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

// Memory that direct I/O accepts, filled from a seed.
class AlignedBytes {
 public:
  explicit AlignedBytes(uint32_t bytes) : bytes_(bytes), data_(new (kAlignment) std::byte[bytes]) { clear(); }
  AlignedBytes(uint32_t bytes, uint64_t seed) : AlignedBytes(bytes) {
    std::mt19937_64 random(seed);
    for (uint32_t at = 0; at < bytes; at += sizeof(uint64_t)) {
      const uint64_t word = random();
      std::memcpy(data() + at, &word, sizeof(word));
    }
  }

  [[nodiscard]] std::byte* data() const { return data_.get(); }
  [[nodiscard]] uint32_t bytes() const { return bytes_; }
  void clear() { std::memset(data(), 0xEE, bytes_); }
  bool operator==(const AlignedBytes& other) const {
    return bytes_ == other.bytes_ && std::memcmp(data(), other.data(), bytes_) == 0;
  }

 private:
  static constexpr std::align_val_t kAlignment{kDiskGranuleBytes};
  struct Free {
    void operator()(std::byte* data) const { operator delete[](data, kAlignment); }
  };

  uint32_t bytes_;
  std::unique_ptr<std::byte[], Free> data_;
};

// The end of one operation.
class Outcome {
 public:
  [[nodiscard]] IoEngine::Done done() {
    return [promise = promise_](int error) { promise->set_value(error); };
  }
  [[nodiscard]] int wait() {
    auto future = promise_->get_future();
    if (future.wait_for(std::chrono::seconds(60)) != std::future_status::ready) return ETIMEDOUT;
    return future.get();
  }

 private:
  std::shared_ptr<std::promise<int>> promise_ = std::make_shared<std::promise<int>>();
};

inline int write_and_wait(Disk& disk, uint64_t offset, const AlignedBytes& bytes) {
  Outcome outcome;
  disk.write(offset, bytes.data(), bytes.bytes(), outcome.done());
  return outcome.wait();
}

inline int read_and_wait(Disk& disk, uint64_t offset, const AlignedBytes& bytes) {
  Outcome outcome;
  disk.read(offset, bytes.data(), bytes.bytes(), outcome.done());
  return outcome.wait();
}

// Whether the disk holds there what `AlignedBytes(bytes, seed)` has.
inline bool holds(Disk& disk, uint64_t offset, uint32_t bytes, uint64_t seed) {
  const AlignedBytes found(bytes);
  return read_and_wait(disk, offset, found) == 0 && found == AlignedBytes(bytes, seed);
}

// What `action` throws, as text; "" when it throws nothing.
template <class Error, class Action>
std::string why_thrown(Action action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  return {};
}

inline bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

}  // namespace kvstore::test
