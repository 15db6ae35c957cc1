// Asking for a cache line ahead of its use.
#pragma once

namespace kvstore {

// The empty asm keeps the call: GCC takes a function that does nothing but prefetch for one without effect and drops it.
[[gnu::always_inline]] inline void prefetch(const void* address) {
  __builtin_prefetch(address);
  asm volatile("");
}

}  // namespace kvstore
