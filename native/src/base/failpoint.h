// Named places in the code where a test can crash, fail or delay the process: what lets the crash test stop at each
// step of write-back, commit, free and recovery.
//
//   KVSTORE_FAILPOINT("write-back.written");
//   int error = 0;
//   KVSTORE_FAILPOINT_ERROR("disk.sync", error);  // leaves `error` alone, or sets it to the errno that was asked for
//
// Armed through `Failpoints::arm`, or, before the first pass in a process, by the environment variable
// KVSTORE_FAILPOINTS with the same text. Rules are separated by ';', each is `name=action`, `name=action@n` (only the
// n-th pass) or `name=action@n+` (the n-th and all that follow). Actions:
//
//   crash        SIGKILL to oneself: no destructor runs, nothing is flushed
//   error:EIO    the place reports this errno (names: kErrors in failpoint.cpp); only where the table allows it
//   pause:250    the passing thread stands still for that many milliseconds
//   count        nothing: arms the counters
//
// While nothing is armed a place costs one relaxed load, and passes are not counted. Thread-safe.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

namespace kvstore {

struct FailpointName {
  std::string_view name;
  std::string_view where;
  bool can_fail = false;  // the place knows what to do with an errno
};

// Every failpoint there is. A name that is not here does not compile.
inline constexpr std::array kFailpoints = {
    FailpointName{"write-back.reserved", "space on disk is taken, nothing is written"},
    FailpointName{"write-back.written", "a group of blocks is written, not synced"},
    FailpointName{"write-back.synced", "a group of blocks is synced, its rows are not committed"},
    FailpointName{"catalog.before-commit", "rows are about to be committed"},
    FailpointName{"catalog.after-commit", "rows are committed, nobody has been told"},
    FailpointName{"write-back.published", "blocks of a committed group are readable from disk"},
    FailpointName{"free.before-commit", "blocks are gone from the index, their rows are still in the catalog"},
    FailpointName{"free.after-commit", "rows are removed, their space is not free yet"},
    FailpointName{"recovery.row", "a row of the catalog is about to be taken in"},
    FailpointName{"recovery.done", "the index is rebuilt, the node does not serve yet"},
    FailpointName{"read.before", "a cold read is about to start"},
    FailpointName{"read.after", "the bytes of a cold read have come, nobody has been told"},
    FailpointName{"disk.write", "a write to an extent file has ended, nobody has been told", true},
    FailpointName{"disk.read", "a read of an extent file has ended, nobody has been told", true},
    FailpointName{"disk.sync", "an extent file is about to be synced", true},
};

namespace failpoint_detail {

consteval size_t index_of(std::string_view name, bool reports_errors) {
  for (size_t index = 0; index < kFailpoints.size(); ++index) {
    if (kFailpoints[index].name == name && (kFailpoints[index].can_fail || !reports_errors)) return index;
  }
  throw "not in kFailpoints, or without can_fail there";
}

}  // namespace failpoint_detail

class Failpoints {
 public:
  // Replaces all rules, those of the environment too, and sets all counters to zero; "" disarms. Throws
  // std::invalid_argument, and then changes nothing, on an unknown name, a malformed rule, or an error where none can
  // be reported.
  static void arm(std::string_view rules);
  static void disarm() { arm(""); }

  [[nodiscard]] static std::vector<std::string_view> names();
  // Passes through a place since the last `arm` with rules, of this name or another. Throws std::invalid_argument for
  // an unknown name.
  [[nodiscard]] static uint64_t passes(std::string_view name);

  // For the macros.
  [[nodiscard]] static bool armed() { return state_.load(std::memory_order_relaxed) != State::kIdle; }
  static int pass(size_t index);  // 0, or the errno to report

 private:
  enum class State : uint8_t { kEnvironmentUnread, kIdle, kArmed };

  static void apply(std::string_view rules);
  static void apply_environment();

  static inline std::atomic<State> state_{State::kEnvironmentUnread};
};

}  // namespace kvstore

#define KVSTORE_FAILPOINT(name)                                                              \
  do {                                                                                       \
    constexpr size_t kvstore_failpoint = ::kvstore::failpoint_detail::index_of(name, false); \
    if (::kvstore::Failpoints::armed()) [[unlikely]]                                         \
      ::kvstore::Failpoints::pass(kvstore_failpoint);                                        \
  } while (false)

#define KVSTORE_FAILPOINT_ERROR(name, errno_variable)                                                           \
  do {                                                                                                          \
    constexpr size_t kvstore_failpoint = ::kvstore::failpoint_detail::index_of(name, true);                     \
    if (::kvstore::Failpoints::armed()) [[unlikely]] {                                                          \
      if (const int kvstore_injected = ::kvstore::Failpoints::pass(kvstore_failpoint); kvstore_injected != 0) { \
        (errno_variable) = kvstore_injected;                                                                    \
      }                                                                                                         \
    }                                                                                                           \
  } while (false)
