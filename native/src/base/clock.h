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
  // Milliseconds since 1970 in UTC, for what must keep its meaning over a restart. May jump: never used for waiting.
  [[nodiscard]] virtual uint64_t unix_ms() const = 0;
};

// CLOCK_MONOTONIC of the machine, and its CLOCK_REALTIME.
class SteadyClock final : public Clock {
 public:
  [[nodiscard]] uint64_t now_ns() const override;
  [[nodiscard]] uint64_t unix_ms() const override;
  static const SteadyClock& instance();
};

// A clock that moves only when told to. Two of them are one machine before and after a restart: the steady time starts
// anew, the calendar goes on.
class ManualClock final : public Clock {
 public:
  explicit ManualClock(uint64_t unix_ms = 1'700'000'000'000) : unix_ms_(unix_ms) {}
  [[nodiscard]] uint64_t now_ns() const override { return now_ns_.load(); }
  [[nodiscard]] uint64_t unix_ms() const override { return unix_ms_.load(); }
  void advance_ms(uint64_t ms) {
    now_ns_ += ms * 1'000'000;
    unix_ms_ += ms;
  }

 private:
  std::atomic<uint64_t> now_ns_{1'000'000'000};
  std::atomic<uint64_t> unix_ms_;
};

}  // namespace kvstore
