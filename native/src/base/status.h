// The outcome of one operation on one block.
//
// The numeric values travel on the wire and are mirrored by `kvstore.Status`; never renumber them.
#pragma once

#include <cstdint>

namespace kvstore {

enum class Status : uint8_t {
  kOk = 0,           // done: the bytes are in the buffer, or the block is visible
  kMiss = 1,         // no visible block under this key
  kBusy = 2,         // no room right now: everything that could be evicted is in use, or the disk lags; try again later
  kExists = 3,       // put: the block was there already with the same checksum
  kConflict = 4,     // put: the block was there already with another checksum; the first writer's bytes stay
  kTooLarge = 5,     // put: the block can never fit in this node
  kWrongSize = 6,    // get: the block's length is not the buffer's length
  kCorrupt = 7,      // the bytes do not have the checksum they were stored with
  kTimeout = 8,      // the deadline passed first
  kUnavailable = 9,  // no node to talk to
  kDenied = 10,      // the capability does not allow this verb
  kInvalid = 11,     // the peer refused the request as malformed
  kNotDurable = 12,  // put: the block is in memory, but no disk keeps it: there is none, or it is full or failing
};
inline constexpr Status kLastStatus = Status::kNotDurable;  // greater values are no statuses

const char* status_name(Status status);

}  // namespace kvstore
