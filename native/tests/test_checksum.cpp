#include "base/checksum.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "base/crc32c_implementation.h"
#include "base/crc32c_polynomial.h"
#include "check.h"

using kvstore::copy_crc32c;
using kvstore::copy_crc32c_streaming;
using kvstore::copy_streaming;
using kvstore::crc32c;
using kvstore::crc32c_concat;
using kvstore::Crc32cImplementation;

namespace {

using Bytes = std::vector<uint8_t>;

// The definition, one bit at a time.
uint32_t crc32c_by_definition(const uint8_t* data, size_t bytes, uint32_t crc = 0) {
  uint32_t remainder = ~crc;
  for (size_t index = 0; index < bytes; ++index) {
    remainder ^= data[index];
    for (int bit = 0; bit < 8; ++bit) remainder = (remainder >> 1) ^ ((remainder & 1) != 0 ? 0x82F63B78 : 0);
  }
  return ~remainder;
}

Bytes random_bytes(std::mt19937_64& random, size_t count) {
  Bytes bytes(count);
  for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random());
  return bytes;
}

template <class Function>
void for_each_implementation(Function function) {
  for (const Crc32cImplementation* implementation : kvstore::crc32c_implementations()) {
    if (implementation->supported()) function(*implementation);
  }
}

using Copy = uint32_t (*)(void*, const void*, size_t, uint32_t);

// A copy to every alignment, between guard bytes: checksum, bytes and guards must all be right.
class CopyCheck {
 public:
  CopyCheck(size_t largest, uint64_t seed) : random_(seed), source_(random_bytes(random_, largest + kLine)) {
    destination_.resize(kGuard + 2 * kLine + largest + kGuard);
  }

  void run(const char* name, Copy copy, size_t bytes, size_t source_shift, size_t destination_shift) {
    std::fill(destination_.begin(), destination_.end(), kUntouched);
    const uintptr_t base = reinterpret_cast<uintptr_t>(destination_.data());
    uint8_t* to = destination_.data() + kGuard + (kLine - (base + kGuard) % kLine) % kLine + destination_shift;
    const uint8_t* from = source_.data() + source_shift;
    const uint32_t start = static_cast<uint32_t>(bytes) * 0x9E3779B9;
    const uint32_t crc = copy(to, from, bytes, start);
    const std::string what = std::string(name) + " of " + std::to_string(bytes) + " bytes, source + " +
                             std::to_string(source_shift) + ", destination + " + std::to_string(destination_shift);
    if (crc != kvstore::kCrc32cPortable.checksum(from, bytes, start)) fail(what, "wrong checksum");
    if (bytes > 0 && std::memcmp(to, from, bytes) != 0) fail(what, "wrong bytes");
    const auto untouched = [](uint8_t byte) { return byte == kUntouched; };
    if (!std::all_of(destination_.data(), to, untouched)) fail(what, "wrote before the destination");
    if (!std::all_of(to + bytes, destination_.data() + destination_.size(), untouched)) fail(what, "wrote past it");
  }

 private:
  static constexpr size_t kLine = 64;
  static constexpr size_t kGuard = 64;
  static constexpr uint8_t kUntouched = 0xA5;

  [[noreturn]] static void fail(const std::string& what, const char* how) {
    kvstore::test::fail(__FILE__, __LINE__, what + ": " + how);
  }

  std::mt19937_64 random_;
  Bytes source_;
  Bytes destination_;
};

TEST(checksum, known_vectors) {
  // RFC 3720, B.4, and the customary check value.
  Bytes ascending(32), descending(32);
  for (uint8_t index = 0; index < 32; ++index) {
    ascending[index] = index;
    descending[index] = static_cast<uint8_t>(31 - index);
  }
  const std::string digits = "123456789";
  for_each_implementation([&](const Crc32cImplementation& implementation) {
    CHECK_EQ(implementation.checksum(nullptr, 0, 0), 0u);
    CHECK_EQ(implementation.checksum(Bytes(32, 0x00).data(), 32, 0), 0x8A9136AAu);
    CHECK_EQ(implementation.checksum(Bytes(32, 0xFF).data(), 32, 0), 0x62A8AB43u);
    CHECK_EQ(implementation.checksum(ascending.data(), 32, 0), 0x46DD794Eu);
    CHECK_EQ(implementation.checksum(descending.data(), 32, 0), 0x113FDB5Cu);
    CHECK_EQ(implementation.checksum(digits.data(), digits.size(), 0), 0xE3069283u);
  });
}

TEST(checksum, implementations_agree_with_the_definition) {
  std::mt19937_64 random(1);
  const Bytes data = random_bytes(random, 1100 + 64);
  for_each_implementation([&](const Crc32cImplementation& implementation) {
    for (size_t bytes = 0; bytes <= 1100; ++bytes) {
      const size_t shift = bytes * 7 % 64;
      const uint32_t start = static_cast<uint32_t>(bytes * 0x9E3779B9);
      CHECK_EQ(implementation.checksum(data.data() + shift, bytes, start),
               crc32c_by_definition(data.data() + shift, bytes, start));
    }
  });
}

TEST(checksum, copies_are_exact_at_every_length_and_alignment) {
  std::mt19937_64 random(2);
  CopyCheck check(20'000, 3);
  for_each_implementation([&](const Crc32cImplementation& implementation) {
    const auto run = [&](size_t bytes, size_t source_shift, size_t destination_shift) {
      check.run(implementation.name, implementation.copy, bytes, source_shift, destination_shift);
      check.run(implementation.name, implementation.copy_streaming, bytes, source_shift, destination_shift);
    };
    for (size_t bytes = 0; bytes <= 1100; ++bytes) {
      run(bytes, 0, 0);
      for (int round = 0; round < 3; ++round) run(bytes, random() % 64, random() % 64);
    }
    for (size_t shift = 0; shift < 64; ++shift) {
      run(300, shift, 0);
      run(300, 0, shift);
    }
    for (int round = 0; round < 20; ++round) run(random() % 20'000, random() % 64, random() % 64);
  });
}

TEST(checksum, copy_without_checksum_is_exact) {
  std::mt19937_64 random(4);
  CopyCheck check(1100, 5);
  for_each_implementation([&](const Crc32cImplementation& implementation) {
    static const Crc32cImplementation* tested;
    tested = &implementation;
    const Copy copy = [](void* destination, const void* source, size_t bytes, uint32_t start) {
      tested->copy_streaming_only(destination, source, bytes);
      return kvstore::kCrc32cPortable.checksum(destination, bytes, start);
    };
    for (size_t bytes = 0; bytes <= 1100; ++bytes) {
      check.run(implementation.name, copy, bytes, random() % 64, random() % 64);
    }
  });
}

TEST(checksum, continues_and_joins) {
  std::mt19937_64 random(6);
  const Bytes data = random_bytes(random, 300'000);
  const uint32_t whole = crc32c(data.data(), data.size());
  CHECK_EQ(whole, crc32c_by_definition(data.data(), data.size()));
  for (int round = 0; round < 50; ++round) {
    const size_t cut = random() % (data.size() + 1);
    const uint32_t head = crc32c(data.data(), cut);
    const uint32_t tail = crc32c(data.data() + cut, data.size() - cut);
    CHECK_EQ(crc32c(data.data() + cut, data.size() - cut, head), whole);
    CHECK_EQ(crc32c_concat(head, tail, data.size() - cut), whole);
  }
}

TEST(checksum, joins_lengths_beyond_any_memory) {
  std::mt19937_64 random(7);
  for (int round = 0; round < 1000; ++round) {
    const auto a = static_cast<uint32_t>(random());
    const auto b = static_cast<uint32_t>(random());
    const auto c = static_cast<uint32_t>(random());
    const uint64_t bytes_b = random() >> (1 + random() % 63);
    const uint64_t bytes_c = random() >> (1 + random() % 63);
    CHECK_EQ(crc32c_concat(crc32c_concat(a, b, bytes_b), c, bytes_c),
             crc32c_concat(a, crc32c_concat(b, c, bytes_c), bytes_b + bytes_c));
  }
  CHECK_EQ(crc32c_concat(0x12345678, 0x9ABCDEF0, 0), 0x12345678u ^ 0x9ABCDEF0u);
}

TEST(checksum, implementations_multiply_alike) {
  namespace polynomial = kvstore::crc32c_polynomial;
  std::mt19937_64 random(8);
  for_each_implementation([&](const Crc32cImplementation& implementation) {
    for (int round = 0; round < 1000; ++round) {
      const auto a = static_cast<uint32_t>(random());
      const auto b = static_cast<uint32_t>(random());
      const uint32_t expected = polynomial::multiply(polynomial::multiply(a, b), polynomial::power_of_x(33));
      CHECK_EQ(implementation.multiply(a, b), expected);
    }
  });
}

TEST(checksum, public_functions_use_the_best_implementation) {
  const auto all = kvstore::crc32c_implementations();
  const auto best = std::find_if(all.begin(), all.end(), [](const auto* each) { return each->supported(); });
  CHECK(best != all.end());
  CHECK_EQ(std::string(kvstore::crc32c_implementation()), std::string((*best)->name));
  const std::string digits = "123456789";
  std::array<char, 9> copied{};
  CHECK_EQ(crc32c(digits.data(), digits.size()), 0xE3069283u);
  CHECK_EQ(copy_crc32c(copied.data(), digits.data(), digits.size()), 0xE3069283u);
  CHECK_EQ(std::string(copied.data(), copied.size()), digits);
  copied.fill(0);
  CHECK_EQ(copy_crc32c_streaming(copied.data(), digits.data(), digits.size()), 0xE3069283u);
  CHECK_EQ(std::string(copied.data(), copied.size()), digits);
  copied.fill(0);
  copy_streaming(copied.data(), digits.data(), digits.size());
  CHECK_EQ(std::string(copied.data(), copied.size()), digits);
}

#if !defined(__SANITIZE_THREAD__)  // the race is the point
TEST(checksum, a_racing_writer_cannot_part_copy_and_checksum) {
  constexpr size_t kBytes = 2048;  // few lines, so that the writer is at each of them often
  constexpr int kRounds = 10'000;
  Bytes source(kBytes), destination(kBytes);
  std::atomic<bool> stop{false};
  std::atomic<uint64_t> sweeps{0};
  std::thread writer([&] {
    for (uint8_t value = 0; !stop; ++value, ++sweeps) {
      for (size_t index = 0; index < kBytes; index += 8) __atomic_store_n(&source[index], value, __ATOMIC_RELAXED);
    }
  });
  while (sweeps == 0) std::this_thread::yield();
  int wrong = 0;
  for_each_implementation([&](const Crc32cImplementation& implementation) {
    for (const Copy copy : {implementation.copy, implementation.copy_streaming}) {
      for (int round = 0; round < kRounds; ++round) {
        const uint32_t crc = copy(destination.data(), source.data(), kBytes, 0);
        if (crc != crc32c(destination.data(), kBytes)) ++wrong;
      }
    }
  });
  stop = true;
  writer.join();
  CHECK_EQ(wrong, 0);
}
#endif

}  // namespace
