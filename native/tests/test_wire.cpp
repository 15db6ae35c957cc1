// Frames survive a round trip, and nothing that a peer can send is read past its end or believed.
#include <memory>
#include <random>

#include "check.h"
#include "wire/codec.h"

namespace kvstore {
namespace {

std::vector<Key> keys_of(uint32_t count) {
  std::vector<Key> keys(count);
  for (uint32_t i = 0; i < count; ++i) keys[i].bytes.fill(static_cast<uint8_t>(i + 1));
  return keys;
}

FrameHeader header_of(FrameKind kind) {
  FrameHeader header;
  header.kind = kind;
  header.request_id = 0x1122334455667788;
  header.timeout_ms = 250;
  header.first_depth = 7;
  return header;
}

std::vector<Bytes> every_request() {
  const std::vector<Key> keys = keys_of(3);
  const std::vector<uint32_t> values{4096, 65536, 1};
  const std::array<std::byte, kTokenBytes> token{std::byte{9}};
  return {
      encode_hello(token, Bytes(100)),
      encode_get(header_of(FrameKind::kGet), 40, keys, values),
      encode_put(header_of(FrameKind::kPut), 99, true, keys, values),
      encode_keys(header_of(FrameKind::kMatch), keys),
      encode_keys(header_of(FrameKind::kExists), keys),
      encode_touch(header_of(FrameKind::kTouch), 5, keys),
      encode_keys(header_of(FrameKind::kDelete), keys),
      encode_bare(header_of(FrameKind::kRelease)),
      encode_report(Report::kCorrupt, keys, values),
      encode_bare(header_of(FrameKind::kPing)),
      encode_bare(header_of(FrameKind::kCancel)),
      encode_bare(header_of(FrameKind::kBye)),
  };
}

std::vector<Bytes> every_reply() {
  const std::vector<BlockEntry> entries{{0, {}, 4096, 0xDEADBEEF, 3, 8192}, {1, {}, 0, 0, 0, 0}};
  const std::vector<Status> statuses{Status::kOk, Status::kConflict, kLastStatus};
  return {
      encode_hello_reply({1 << 20, 2 << 20, 3 << 20, 4 << 20}),
      encode_entries(header_of(FrameKind::kGetReply), entries),
      encode_entries(header_of(FrameKind::kPutGrant), entries),
      encode_statuses(header_of(FrameKind::kPutReply), statuses),
      encode_bare(header_of(FrameKind::kMatchReply)),
      encode_statuses(header_of(FrameKind::kStatusReply), statuses),
      encode_bare(header_of(FrameKind::kPong)),
  };
}

}  // namespace

TEST(wire, requests_survive_a_round_trip) {
  const std::vector<Key> keys = keys_of(3);
  const auto get = decode_request(encode_get(header_of(FrameKind::kGet), 40, keys, std::vector<uint32_t>{1, 2, 3}));
  CHECK(get.has_value());
  CHECK(get->header.kind == FrameKind::kGet);
  CHECK_EQ(get->header.request_id, 0x1122334455667788u);
  CHECK_EQ(get->header.timeout_ms, 250u);
  CHECK_EQ(get->header.first_depth, 7u);
  CHECK_EQ(get->wait_ms, 40u);
  CHECK(get->keys == keys);
  CHECK((get->values == std::vector<uint32_t>{1, 2, 3}));
  const auto put =
      decode_request(encode_put(header_of(FrameKind::kPut), 99, true, keys, std::vector<uint32_t>{4, 5, 6}));
  CHECK(put && put->ttl_ms == 99 && put->durable && put->values[2] == 6);
  for (const Bytes& frame : every_request()) CHECK(decode_request(frame).has_value());
}

TEST(wire, replies_survive_a_round_trip) {
  for (const Bytes& frame : every_reply()) CHECK(decode_reply(frame).has_value());
  const std::vector<BlockEntry> entries{{0, {}, 4096, 0xDEADBEEF, 3, 8192}};
  const auto reply = decode_reply(encode_entries(header_of(FrameKind::kGetReply), entries));
  CHECK_EQ(reply->entries[0].length, 4096u);
  CHECK_EQ(reply->entries[0].crc, 0xDEADBEEFu);
  CHECK_EQ(reply->entries[0].generation, 3u);
  CHECK_EQ(reply->entries[0].offset, 8192u);
}

TEST(wire, the_largest_batch_fits_one_frame) {
  const std::vector<Key> keys = keys_of(kKeysMax);
  const std::vector<uint32_t> values(kKeysMax, 1);
  CHECK(decode_request(encode_put(header_of(FrameKind::kPut), 0, false, keys, values)).has_value());
  CHECK(decode_reply(encode_entries(header_of(FrameKind::kGetReply), std::vector<BlockEntry>(kKeysMax))).has_value());
  const std::vector<Key> too_many = keys_of(kKeysMax + 1);
  CHECK(!decode_request(encode_keys(header_of(FrameKind::kMatch), too_many)).has_value());
}

TEST(wire, a_frame_is_bytes_of_a_known_shape) {
  // The bytes of a ping, as docs/WIRE.md shows them: a change here is a change of the wire version.
  const uint8_t expected[32] = {0x4B, 0x56, 2, 10, 0, 0, 0, 0, 0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11,
                                250,  0,    0, 0,  7, 0, 0, 0, 0,    0,    0,    0,    0,    0,    0,    0};
  const Bytes frame = encode_bare(header_of(FrameKind::kPing));
  CHECK_EQ(frame.size(), sizeof(expected));
  CHECK_EQ(std::memcmp(frame.data(), expected, sizeof(expected)), 0);
}

TEST(wire, the_flags_of_a_put_are_bytes_of_a_known_place) {
  for (const bool durable : {false, true}) {
    const Bytes frame =
        encode_put(header_of(FrameKind::kPut), 0x0102030405060708, durable, keys_of(1), std::vector<uint32_t>{4096});
    const uint8_t prelude[16] = {8, 7, 6, 5, 4, 3, 2, 1, durable ? uint8_t{1} : uint8_t{0}, 0, 0, 0, 0, 0, 0, 0};
    CHECK_EQ(frame.size(), sizeof(FrameHeader) + sizeof(prelude) + kKeyBytes + sizeof(uint32_t));
    CHECK_EQ(std::memcmp(frame.data() + sizeof(FrameHeader), prelude, sizeof(prelude)), 0);
    CHECK_EQ(decode_request(frame)->durable, durable);
  }
}

// A node that ignored a wish it does not know would acknowledge more than it keeps.
TEST(wire, unknown_flags_of_a_put_are_refused) {
  const Bytes frame = encode_put(header_of(FrameKind::kPut), 5, true, keys_of(1), std::vector<uint32_t>{4096});
  for (size_t bit = 1; bit < 64; ++bit) {  // flags and the reserved word behind them
    Bytes other = frame;
    other[sizeof(FrameHeader) + 8 + bit / 8] |= std::byte{1} << (bit % 8);
    CHECK(!decode_request(other).has_value());
  }
}

TEST(wire, a_status_beyond_the_last_is_refused) {
  Bytes frame = encode_statuses(header_of(FrameKind::kPutReply), std::vector<Status>{kLastStatus});
  CHECK(decode_reply(frame)->statuses[0] == Status::kNotDurable);
  frame.back() = static_cast<std::byte>(static_cast<uint8_t>(kLastStatus) + 1);
  CHECK(!decode_reply(frame).has_value());
}

TEST(wire, every_truncation_and_extension_is_refused) {
  for (const Bytes& frame : every_request()) {
    for (size_t bytes = 0; bytes < frame.size(); ++bytes) {
      CHECK(!decode_request(ByteView(frame).first(bytes)).has_value());
    }
    Bytes longer = frame;
    longer.push_back(std::byte{0});
    CHECK(!decode_request(longer).has_value());
  }
  for (const Bytes& frame : every_reply()) {
    for (size_t bytes = 0; bytes < frame.size(); ++bytes) {
      CHECK(!decode_reply(ByteView(frame).first(bytes)).has_value());
    }
  }
}

TEST(wire, wrong_magic_version_kind_and_direction_are_refused) {
  Bytes frame = encode_keys(header_of(FrameKind::kMatch), keys_of(1));
  for (const size_t position : {size_t{0}, size_t{1}, size_t{2}, size_t{3}}) {
    Bytes broken = frame;
    broken[position] ^= std::byte{0x40};
    CHECK(!decode_request(broken).has_value());
  }
  CHECK(!decode_reply(frame).has_value());
  CHECK(!decode_request(encode_bare(header_of(FrameKind::kPong))).has_value());
}

TEST(wire, chunk_headers_are_checked_against_block_and_payload) {
  ChunkHeader chunk;
  chunk.offset = 65'000;
  chunk.bytes = 536;
  chunk.block_length = 65'536;
  const auto decode = [](const ChunkHeader& header, size_t payload) {
    return decode_chunk_header(ByteView(reinterpret_cast<const std::byte*>(&header), sizeof(header)), payload);
  };
  CHECK(decode(chunk, 536).has_value());
  CHECK(!decode(chunk, 535).has_value());
  ChunkHeader beyond = chunk;
  beyond.offset = 65'001;
  CHECK(!decode(beyond, 536).has_value());
  ChunkHeader wrapping = chunk;
  wrapping.offset = 0xFFFFFFFF;
  CHECK(!decode(wrapping, 536).has_value());
  ChunkHeader huge = chunk;
  huge.block_length = kBlockBytesLimit + 1;
  CHECK(!decode(huge, 536).has_value());
  ChunkHeader block = chunk;
  block.block = kKeysMax;
  CHECK(!decode(block, 536).has_value());
  ChunkHeader empty = chunk;
  empty.bytes = 0;
  CHECK(!decode(empty, 0).has_value());
}

// Mutated frames, of exact heap size so that AddressSanitizer sees any read beyond them.
TEST(wire, mutated_frames_are_decoded_or_refused_but_never_overread) {
  std::mt19937_64 random(20'261'120);
  std::vector<Bytes> seeds = every_request();
  for (Bytes& reply : every_reply()) seeds.push_back(std::move(reply));
  size_t accepted = 0;
  for (int round = 0; round < 20'000; ++round) {
    Bytes frame = seeds[random() % seeds.size()];
    const size_t edits = 1 + random() % 4;
    for (size_t i = 0; i < edits; ++i) frame[random() % frame.size()] = static_cast<std::byte>(random());
    if (random() % 4 == 0) frame.resize(random() % (frame.size() + 40));
    const auto exact = std::make_unique<std::byte[]>(frame.size());
    std::memcpy(exact.get(), frame.data(), frame.size());
    const ByteView view(exact.get(), frame.size());
    if (const auto request = decode_request(view)) {
      ++accepted;
      CHECK(request->keys.size() <= kKeysMax && request->values.size() <= kKeysMax);
    }
    if (const auto reply = decode_reply(view)) {
      ++accepted;
      CHECK(reply->entries.size() <= kKeysMax && reply->statuses.size() <= kKeysMax);
    }
    (void)decode_chunk_header(view, frame.size());
  }
  CHECK(accepted > 0);  // edits in keys and checksums leave a frame valid: the mutator must reach past the header
}

}  // namespace kvstore
