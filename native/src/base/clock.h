// The clock seam: everything that needs the time takes a `const Clock&`, so that a test can drive it.
#pragma once

#include <atomic>
#include <cstdint>

namespace kvstore {

class Clock {
 public:
  virtual ~Clock() = default;
  // Nanoseconds since an arbitrary start; never goes back.
  [[nodiscard]] virtual uint64_t now_ns() const = 0;
  [[nodiscard]] uint64_t now_ms() const { return now_ns() / 1'000'000; }
};

// CLOCK_MONOTONIC of the machine.
class SteadyClock final : public Clock {
 public:
  [[nodiscard]] uint64_t now_ns() const override;
  static const SteadyClock& instance();
};

// A clock that moves only when told to.
class ManualClock final : public Clock {
 public:
  [[nodiscard]] uint64_t now_ns() const override { return now_ns_.load(); }
  void advance_ms(uint64_t ms) { now_ns_ += ms * 1'000'000; }

 private:
  std::atomic<uint64_t> now_ns_{1'000'000'000};
};

}  // namespace kvstore
