#include "base/status.h"

#include <array>
#include <cstddef>

namespace kvstore {

namespace {

constexpr std::array kNames = {"OK",      "MISS",    "BUSY",        "EXISTS", "CONFLICT", "TOO_LARGE",  "WRONG_SIZE",
                               "CORRUPT", "TIMEOUT", "UNAVAILABLE", "DENIED", "INVALID",  "NOT_DURABLE"};
static_assert(kNames.size() == static_cast<size_t>(kLastStatus) + 1);

}  // namespace

const char* status_name(Status status) {
  const auto value = static_cast<size_t>(status);  // a byte from the wire may hold any value
  return value < kNames.size() ? kNames[value] : "UNKNOWN";
}

}  // namespace kvstore
