#include "store/request_history.h"

namespace kvstore {

uint32_t RequestHistory::open(uint64_t stamp, size_t capacity) {
  if (next_ == requests_.size() && requests_.size() >= capacity) next_ = 0;
  if (next_ == requests_.size()) {
    requests_.emplace_back();
  } else {
    forget_name(next_, 0);
    forget_name(next_, 1);
  }
  requests_[next_] = PastRequest{};
  requests_[next_].stamp = stamp;
  return next_++;
}

void RequestHistory::name(uint32_t number, uint32_t which, uint32_t digest) {
  if (requests_[number].digests[which] == digest) return;
  forget_name(number, which);
  const uint32_t other = by_digest_.likely(digest);
  if (other != kNone) forget_name(other / 2, other % 2);
  requests_[number].digests[which] = digest;
  by_digest_.insert(digest, number * 2 + which);
}

void RequestHistory::forget_name(uint32_t number, uint32_t which) {
  uint32_t& digest = requests_[number].digests[which];
  if (digest != 0) by_digest_.erase(digest, number * 2 + which);
  digest = 0;
}

uint32_t RequestHistory::find(uint32_t digest) const {
  const uint32_t found = by_digest_.likely(digest);
  return found == kNone ? kNone : found / 2;
}

size_t RequestHistory::memory_bytes() const {
  return requests_.capacity() * sizeof(PastRequest) + by_digest_.memory_bytes();
}

bool RequestHistory::consistent() const {
  uint32_t named = 0;
  for (uint32_t number = 0; number < requests_.size(); ++number) {
    for (uint32_t which = 0; which < 2; ++which) {
      const uint32_t digest = requests_[number].digests[which];
      if (digest == 0) continue;
      ++named;
      if (by_digest_.likely(digest) != number * 2 + which) return false;
    }
  }
  return named == by_digest_.size() && by_digest_.consistent();
}

}  // namespace kvstore
