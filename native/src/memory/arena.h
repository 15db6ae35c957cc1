// The arena: one memfd holding every block of one tenant, mapped writable by the node alone.
//
// The memfd is sealed (no shrink, no grow, no new writable mapping), so a client that receives its descriptor can map
// it read-only and can neither write nor truncate it. Node and clients name places in it by offset, never by address.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "memory/mapped_memfd.h"
#include "memory/page_warmer.h"

namespace kvstore {

class Arena {
 public:
  // Reserves `bytes` (rounded up to 2 MiB): in huge pages if `huge_pages` and enough of them are free, in normal ones
  // otherwise. Normal pages are taken on first write. Throws std::system_error.
  explicit Arena(uint64_t bytes, bool huge_pages = true);

  [[nodiscard]] int fd() const { return memory_->fd(); }
  [[nodiscard]] uint64_t bytes() const { return memory_->bytes(); }
  [[nodiscard]] std::byte* data() const { return memory_->data(); }
  [[nodiscard]] bool huge_pages() const { return huge_pages_; }
  // Touches every page, so that no page fault is left for the data path. Keeps what is there; others may use the arena
  // meanwhile. About half a second a GiB.
  void prefault();

 private:
  std::unique_ptr<MappedMemfd> memory_;
  bool huge_pages_ = false;
};

// A client's read-only view of an arena it received as a descriptor. Checks the seals and the size first: a memfd that
// could still shrink would let the peer crash us (SIGBUS). Its pages are warmed in the background. Throws
// std::system_error or std::runtime_error.
class ArenaView {
 public:
  ArenaView(int fd, uint64_t bytes);  // takes over `fd`, also when it throws

  [[nodiscard]] uint64_t bytes() const { return memory_.bytes(); }
  [[nodiscard]] const std::byte* data() const { return memory_.data(); }

 private:
  MappedMemfd memory_;
  PageWarmer warmer_;
};

// A memfd that both sides map writable (rings and staging of the same-host channel): sealed against shrink and grow.
class SharedSegment {
 public:
  explicit SharedSegment(uint64_t bytes);  // creates and seals; throws std::system_error
  // Takes over `fd`, also when it throws, and maps it after checking its seals and size. Throws as ArenaView does.
  SharedSegment(int fd, uint64_t bytes);

  [[nodiscard]] int fd() const { return memory_.fd(); }
  [[nodiscard]] uint64_t bytes() const { return memory_.bytes(); }
  [[nodiscard]] std::byte* data() const { return memory_.data(); }

 private:
  MappedMemfd memory_;
};

}  // namespace kvstore
