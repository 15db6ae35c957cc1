// Which sessions may do what. The control plane grants a random token for a short time; the data plane asks for it in a
// session's first message, and until then parses nothing else.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <mutex>
#include <optional>
#include <span>
#include <unordered_map>

#include "base/clock.h"
#include "wire/frame.h"

namespace kvstore {

inline constexpr uint32_t kVerbRead = 1;
inline constexpr uint32_t kVerbWrite = 2;
inline constexpr uint32_t kVerbDelete = 4;

using Token = std::array<std::byte, kTokenBytes>;

class Capabilities {
 public:
  explicit Capabilities(const Clock& clock) : clock_(clock) {}

  // Drops what has expired, and refuses (false) beyond kGrantsMax live tokens.
  bool grant(const Token& token, uint32_t verbs, uint64_t ttl_ms) {
    const std::scoped_lock lock(mutex_);
    const uint64_t now_ms = clock_.now_ms();
    std::erase_if(grants_, [&](const auto& entry) { return entry.second.expires_ms <= now_ms; });
    if (grants_.size() >= kGrantsMax) return false;
    grants_[token] = {verbs, now_ms + ttl_ms};
    return true;
  }

  // The verbs that the token allows, or nullopt when it is unknown or too old.
  [[nodiscard]] std::optional<uint32_t> verbs_of(const Token& token) const {
    const std::scoped_lock lock(mutex_);
    const auto found = grants_.find(token);
    if (found == grants_.end() || found->second.expires_ms <= clock_.now_ms()) return std::nullopt;
    return found->second.verbs;
  }

 private:
  struct Grant {
    uint32_t verbs;
    uint64_t expires_ms;
  };
  // Tokens are uniform random bytes; the table tells an attacker no more than a comparison would.
  struct TokenHash {
    size_t operator()(const Token& token) const {
      size_t value;
      std::memcpy(&value, token.data(), sizeof(value));
      return value;
    }
  };
  static constexpr size_t kGrantsMax = 65'536;

  const Clock& clock_;
  mutable std::mutex mutex_;
  std::unordered_map<Token, Grant, TokenHash> grants_;
};

}  // namespace kvstore
