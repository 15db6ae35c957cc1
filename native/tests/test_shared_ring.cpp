// The ring keeps order and content across its end, and a hostile peer's positions and lengths are refused.
#include <random>
#include <thread>

#include "check.h"
#include "transport/local_channel.h"

namespace kvstore {
namespace {

Bytes message_of(uint64_t number, size_t bytes) {
  Bytes message(bytes);
  for (size_t i = 0; i < bytes; ++i) message[i] = static_cast<std::byte>(number * 31 + i);
  return message;
}

struct Shared {
  RingPositions positions{};
  std::vector<std::byte> data = std::vector<std::byte>(kRingBytes);
  SharedRing ring() { return {&positions, data.data(), kRingBytes}; }
};

}  // namespace

TEST(shared_ring, keeps_order_and_content_across_its_end) {
  Shared shared;
  SharedRing producer = shared.ring();
  SharedRing consumer = shared.ring();
  std::mt19937_64 random(7);
  uint64_t pushed = 0;
  uint64_t popped = 0;
  std::vector<size_t> sizes;
  while (popped < 3'000) {
    const size_t bytes = 1 + random() % 40'000;
    if (producer.push(message_of(pushed, bytes))) {
      sizes.push_back(bytes);
      ++pushed;
      continue;
    }
    CHECK(pushed > popped);  // refused only because it is full
    Bytes message;
    CHECK(consumer.pop(&message) == SharedRing::Pop::kFrame);
    CHECK(message == message_of(popped, sizes[popped]));
    ++popped;
  }
}

TEST(shared_ring, two_parts_arrive_as_one_frame) {
  Shared shared;
  SharedRing ring = shared.ring();
  CHECK(ring.push(message_of(1, 100), message_of(2, 50)));
  SharedRing consumer = shared.ring();
  Bytes message;
  CHECK(consumer.pop(&message) == SharedRing::Pop::kFrame);
  CHECK_EQ(message.size(), 150u);
  CHECK(message[100] == message_of(2, 50)[0]);
  CHECK(consumer.pop(&message) == SharedRing::Pop::kEmpty);
}

TEST(shared_ring, works_between_two_threads) {
  Shared shared;
  constexpr uint64_t kMessages = 20'000;
  std::thread producer([&] {
    SharedRing ring = shared.ring();
    for (uint64_t i = 0; i < kMessages;) {
      if (ring.push(message_of(i, 1 + i % 3'000))) {
        ++i;
      } else {
        std::this_thread::yield();
      }
    }
  });
  SharedRing ring = shared.ring();
  Bytes message;
  uint64_t received = 0;
  bool intact = true;
  while (received < kMessages) {
    if (ring.pop(&message) != SharedRing::Pop::kFrame) {
      std::this_thread::yield();
      continue;
    }
    intact = intact && message == message_of(received, 1 + received % 3'000);
    ++received;
  }
  producer.join();
  CHECK(intact);
}

TEST(shared_ring, refuses_positions_and_lengths_of_a_hostile_producer) {
  const auto poisoned = [](uint64_t written, uint32_t length, uint64_t at = 0) {
    Shared shared;
    std::memcpy(shared.data.data() + at, &length, sizeof(length));
    shared.positions.written.store(written);
    SharedRing consumer = shared.ring();
    Bytes message;
    return consumer.pop(&message);
  };
  CHECK(poisoned(64, 8) == SharedRing::Pop::kFrame);  // the control: this one is well formed
  CHECK(poisoned(kRingBytes + 64, 8) == SharedRing::Pop::kBroken);
  CHECK(poisoned(UINT64_MAX - 63, 8) == SharedRing::Pop::kBroken);
  CHECK(poisoned(65, 8) == SharedRing::Pop::kBroken);
  CHECK(poisoned(64, 57) == SharedRing::Pop::kBroken);
  CHECK(poisoned(128, 60'001) == SharedRing::Pop::kBroken);
  CHECK(poisoned(64, 0xFFFFFFFE) == SharedRing::Pop::kBroken);
  CHECK(poisoned(64, 0xFFFFFFFF) == SharedRing::Pop::kBroken);          // a skip with nothing behind it
  CHECK(poisoned(kRingBytes, 0xFFFFFFFF) == SharedRing::Pop::kBroken);  // ... to the very end
}

TEST(shared_ring, random_corruption_never_leads_outside_the_ring) {
  std::mt19937_64 random(11);
  for (int round = 0; round < 2'000; ++round) {
    Shared shared;
    SharedRing producer = shared.ring();
    for (int i = 0; i < 20; ++i) CHECK(producer.push(message_of(i, 1 + random() % 9'000)));
    for (int i = 0; i < 8; ++i) shared.data[random() % 100'000 / 64 * 64 + random() % 8] = std::byte(random());
    if (round % 3 == 0) shared.positions.written.store(random());
    SharedRing consumer = shared.ring();
    Bytes message;
    for (int i = 0; i < 4'000; ++i) {
      if (consumer.pop(&message) != SharedRing::Pop::kFrame) break;
      CHECK(message.size() <= SharedRing::kRecordBytesMax);
    }
  }
}

}  // namespace kvstore
