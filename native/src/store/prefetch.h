// Asking for a cache line ahead of its use.
#pragma once

namespace kvstore {

// The empty asm keeps the call: GCC drops functions that do nothing but prefetch, as having no effect.
[[gnu::always_inline]] inline void prefetch(const void* address) {
  __builtin_prefetch(address);
  asm volatile("");
}

}  // namespace kvstore
