#include "store/open_requests.h"

namespace kvstore {

OpenRequest* OpenRequests::find(uint64_t stamp) {
  if (requests_[last_].stamp == stamp) return &requests_[last_];
  for (uint32_t at = 0; at < kOpenMax; ++at) {
    if (requests_[at].stamp != stamp) continue;
    last_ = at;
    return &requests_[at];
  }
  return nullptr;
}

OpenRequest& OpenRequests::replace_oldest(uint64_t stamp) {
  newest_ = (newest_ + 1) % kOpenMax;
  last_ = newest_;
  requests_[newest_] = OpenRequest{};
  requests_[newest_].stamp = stamp;
  return requests_[newest_];
}

OpenRequest& OpenRequests::touching(uint64_t stamp) {
  OpenRequest* const known = find(stamp);
  return known != nullptr ? *known : replace_oldest(stamp);
}

OpenRequest& OpenRequests::inserting(uint64_t stamp, uint32_t first_depth) {
  OpenRequest* const known = find(stamp);
  if (known != nullptr) return *known;
  for (uint32_t back = 0; back < kOpenMax && first_depth > 0; ++back) {
    OpenRequest& request = requests_[(newest_ + kOpenMax - back) % kOpenMax];
    const bool ends_above = request.deepest != OpenRequest::kNone && request.deepest_depth + 1 == first_depth;
    const bool recent = request.stamp < stamp && stamp - request.stamp <= kSameRequestStamps;
    if (!ends_above || !recent || request.added > 0) continue;
    request.stamp = stamp;
    return request;
  }
  return replace_oldest(stamp);
}

void OpenRequests::forget(uint32_t slot, uint32_t parent, uint32_t parent_depth) {
  for (OpenRequest& request : requests_) {
    if (request.deepest != slot) continue;
    request.deepest = parent;
    request.deepest_depth = parent_depth;
  }
}

}  // namespace kvstore
