// A node and its clients in one process, over each lane: what the sanitizers should see of the whole path.
#include <unistd.h>

#include <filesystem>
#include <random>
#include <thread>

#include "check.h"
#include "client/client.h"
#include "node/node.h"

namespace kvstore {
namespace {

// A node with a private directory and one token.
class Cluster {
 public:
  Cluster() {
    char pattern[] = "/tmp/kvstore-test-XXXXXX";
    directory_ = mkdtemp(pattern);
    NodeOptions options;
    options.memory_bytes = 64 << 20;
    options.runtime_dir = directory_;
    options.rdma_transports = "tcp,self";
    node_ = std::make_unique<Node>(options);
    node_->start();
    token_.fill(std::byte{7});
    CHECK(node_->grant(token_, kVerbRead | kVerbWrite | kVerbDelete, 60'000));
  }
  ~Cluster() {
    node_.reset();
    std::filesystem::remove_all(directory_);
  }

  [[nodiscard]] LaneTarget target(const std::string& lane) const {
    const Node::Endpoint endpoint = node_->endpoints()[0];
    Bytes address = lane == "rdma-over-tcp" ? endpoint.rdma_address : endpoint.address;
    if (lane == "shm") address = node_->open_shm(0);
    return {lane, "127.0.0.1", endpoint.port, address, endpoint.socket_path, token_};
  }
  [[nodiscard]] std::unique_ptr<Client> client(const std::string& lane) const {
    auto client = std::make_unique<Client>(ClientOptions{});
    (void)client->attach(target(lane), 5'000);
    return client;
  }
  [[nodiscard]] uint64_t stat(const std::string& name) const {
    for (const auto& [key, value] : node_->stats()) {
      if (key == name) return value;
    }
    return UINT64_MAX;
  }
  // Polls until the counter has the value: what follows from a message already sent needs a moment.
  [[nodiscard]] bool settles(const std::string& name, uint64_t value) const {
    for (int i = 0; i < 5'000; ++i) {
      if (stat(name) == value) return true;
      usleep(1'000);
    }
    return false;
  }
  void kill() { node_.reset(); }

 private:
  std::string directory_;
  Token token_{};
  std::unique_ptr<Node> node_;
};

Key key_of(uint64_t number) {
  Key key;
  std::mt19937_64 random(number);
  for (size_t i = 0; i < kKeyBytes; i += 8) {
    const uint64_t word = random();
    std::memcpy(key.bytes.data() + i, &word, 8);
  }
  return key;
}

std::vector<std::byte> bytes_of(uint64_t number, size_t bytes) {
  std::vector<std::byte> data(bytes);
  std::mt19937_64 random(number ^ 0xABCDEF);
  for (std::byte& byte : data) byte = static_cast<std::byte>(random());
  return data;
}

// `cuts`: the piece sizes that a block's buffer is given in, repeated; empty: in one piece.
std::shared_ptr<Batch> batch_of(Verb verb, const std::vector<Key>& keys, std::vector<std::vector<std::byte>>& buffers,
                                const std::vector<size_t>& cuts = {}) {
  auto batch = std::make_shared<Batch>();
  batch->verb = verb;
  batch->keys = keys;
  batch->timeout_ms = 20'000;
  for (std::vector<std::byte>& buffer : buffers) {
    BlockPieces block{static_cast<uint32_t>(batch->pieces.size()), 0, static_cast<uint32_t>(buffer.size())};
    size_t offset = 0;
    while (offset < buffer.size()) {
      const size_t cut = cuts.empty() ? buffer.size() : cuts[block.count % cuts.size()];
      const size_t bytes = std::min(cut, buffer.size() - offset);
      batch->pieces.push_back({buffer.data() + offset, bytes});
      ++block.count;
      offset += bytes;
    }
    batch->blocks.push_back(block);
  }
  return batch;
}

std::vector<std::vector<std::byte>> empty_like(const std::vector<std::vector<std::byte>>& buffers) {
  std::vector<std::vector<std::byte>> copy;
  for (const auto& buffer : buffers) copy.emplace_back(buffer.size());
  return copy;
}

bool all_are(const Batch& batch, Status status) {
  return std::ranges::all_of(batch.statuses, [&](Status one) { return one == status; });
}

void round_trip(Client& client, uint64_t seed, const std::vector<size_t>& sizes, const std::vector<size_t>& cuts) {
  std::vector<Key> keys;
  std::vector<std::vector<std::byte>> sent;
  for (size_t i = 0; i < sizes.size(); ++i) {
    keys.push_back(key_of(seed + i));
    sent.push_back(bytes_of(seed + i, sizes[i]));
  }
  auto received = empty_like(sent);
  const auto miss = batch_of(Verb::kGet, keys, received, cuts);
  client.execute(miss);
  CHECK(all_are(*miss, Status::kMiss));
  const auto put = batch_of(Verb::kPut, keys, sent, cuts);
  client.execute(put);
  CHECK(all_are(*put, Status::kOk));
  const auto get = batch_of(Verb::kGet, keys, received, cuts);
  client.execute(get);
  CHECK(all_are(*get, Status::kOk));
  CHECK(received == sent);
  std::vector<std::vector<std::byte>> none;
  const auto match = batch_of(Verb::kMatch, keys, none);
  client.execute(match);
  CHECK_EQ(match->matched, keys.size());
  const auto borrow = batch_of(Verb::kBorrow, keys, none);
  client.execute(borrow);
  CHECK(all_are(*borrow, Status::kOk));
  for (size_t i = 0; i < keys.size(); ++i) {
    CHECK(std::ranges::equal(borrow->views[i], sent[i]));
  }
  const auto remove = batch_of(Verb::kDelete, keys, none);
  client.execute(remove);
  CHECK(all_are(*remove, Status::kOk));
}

void round_trips(const std::string& lane) {
  const Cluster cluster;
  const auto client = cluster.client(lane);
  round_trip(*client, 1, {1, 4'095, 4'096, 65'000, 65'001, 131'072, 300'000}, {});
  round_trip(*client, 100, {4'096, 70'000, 300'000}, {1, 63, 4'000, 64'999});
  round_trip(*client, 200, {3 << 20, 5 << 20}, {1 << 20});
  CHECK(cluster.settles("leased_bytes", 0));
  CHECK(cluster.settles("used_bytes", 0));
  CHECK_EQ(cluster.stat("reserved_bytes"), 0u);
  CHECK_EQ(cluster.stat("protocol_errors"), 0u);
  CHECK_EQ(cluster.stat("checksum_errors"), 0u);
}

}  // namespace

TEST(node_client_mapped, round_trips) { round_trips("mapped"); }
TEST(node_client_ucx, round_trips_over_tcp) { round_trips("tcp"); }
TEST(node_client_ucx, round_trips_over_shared_memory) { round_trips("shm"); }
TEST(node_client_ucx, round_trips_by_rendezvous) { round_trips("rdma-over-tcp"); }

// Was a miss for blocks that are there: one client may lease half of the memory at a time.
TEST(node_client_mapped, one_get_of_nearly_all_memory) {
  const Cluster cluster;
  const auto client = cluster.client("mapped");
  std::vector<Key> keys;
  std::vector<std::vector<std::byte>> sent;
  for (uint64_t i = 0; i < 14; ++i) {
    keys.push_back(key_of(500 + i));
    sent.push_back(bytes_of(500 + i, 4 << 20));
  }
  auto received = empty_like(sent);
  client->execute(batch_of(Verb::kPut, keys, sent));
  const auto get = batch_of(Verb::kGet, keys, received);
  client->execute(get);
  CHECK(all_are(*get, Status::kOk));
  CHECK(received == sent);
}

// Without a disk, what a put has no room for is refused: it must not push out the beginning of its own chain.
void put_of_twice_the_memory(const std::string& lane) {
  const Cluster cluster;
  const auto client = cluster.client(lane);
  std::vector<Key> keys;
  std::vector<std::vector<std::byte>> sent;
  for (uint64_t i = 0; i < 32; ++i) {
    keys.push_back(key_of(900 + i));
    sent.push_back(bytes_of(900 + i, 4 << 20));
  }
  const auto put = batch_of(Verb::kPut, keys, sent);
  client->execute(put);
  std::vector<Status> expected(16, Status::kOk);
  expected.resize(32, Status::kBusy);
  CHECK(put->statuses == expected);
  std::vector<std::vector<std::byte>> none;
  const auto match = batch_of(Verb::kMatch, keys, none);
  client->execute(match);
  CHECK_EQ(match->matched, 16u);
}

TEST(node_client_mapped, put_of_twice_the_memory) { put_of_twice_the_memory("mapped"); }
TEST(node_client_ucx, put_of_twice_the_memory) { put_of_twice_the_memory("tcp"); }

// Was a batch whose first 1,024 keys were misses: the other part had taken all the room that a client gets.
TEST(node_client_mapped, one_get_of_several_parts_and_nearly_all_memory) {
  const Cluster cluster;
  const auto client = cluster.client("mapped");
  std::vector<Key> keys;
  std::vector<std::vector<std::byte>> sent;
  for (uint64_t i = 0; i < 2 * kKeysMax; ++i) {
    keys.push_back(key_of(2'000 + i));
    sent.push_back(bytes_of(2'000 + i, 32 << 10));
  }
  auto received = empty_like(sent);
  const auto put = batch_of(Verb::kPut, keys, sent);
  client->execute(put);
  CHECK(all_are(*put, Status::kOk));
  const auto get = batch_of(Verb::kGet, keys, received);
  client->execute(get);
  CHECK(all_are(*get, Status::kOk));
  CHECK(received == sent);
}

TEST(node_client_mapped, first_writer_wins) {
  const Cluster cluster;
  const auto client = cluster.client("mapped");
  std::vector<std::vector<std::byte>> first{bytes_of(1, 9'000)};
  std::vector<std::vector<std::byte>> second{bytes_of(2, 9'000)};
  client->execute(batch_of(Verb::kPut, {key_of(1)}, first));
  const auto same = batch_of(Verb::kPut, {key_of(1)}, first);
  client->execute(same);
  CHECK(same->statuses[0] == Status::kExists);
  const auto other = batch_of(Verb::kPut, {key_of(1)}, second);
  client->execute(other);
  CHECK(other->statuses[0] == Status::kConflict);
  auto received = empty_like(first);
  client->execute(batch_of(Verb::kGet, {key_of(1)}, received));
  CHECK(received == first);
  CHECK(cluster.settles("put_conflicts", 1));
  CHECK(cluster.settles("put_exists", 1));
}

TEST(node_client_mapped, threads_share_one_client) {
  const Cluster cluster;
  const auto client = cluster.client("mapped");
  std::atomic<int> failures{0};
  std::vector<std::thread> threads;
  for (uint64_t thread = 0; thread < 4; ++thread) {
    threads.emplace_back([&, thread] {
      for (uint64_t round = 0; round < 40; ++round) {
        const uint64_t seed = 10'000 * (thread + 1) + round;
        std::vector<std::vector<std::byte>> sent{bytes_of(seed, 5'000 + 100 * round), bytes_of(seed + 1, 200'000)};
        auto received = empty_like(sent);
        const std::vector<Key> keys{key_of(seed), key_of(seed + 5'000)};
        client->execute(batch_of(Verb::kPut, keys, sent));
        client->execute(batch_of(Verb::kGet, keys, received));
        failures += received == sent ? 0 : 1;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK_EQ(failures.load(), 0);
}

TEST(node_client_mapped, asynchronous_batches_complete_through_the_descriptor) {
  const Cluster cluster;
  const auto client = cluster.client("mapped");
  std::vector<std::vector<std::byte>> sent{bytes_of(5, 100'000)};
  auto received = empty_like(sent);
  const uint64_t put = client->submit(batch_of(Verb::kPut, {key_of(5)}, sent));
  std::vector<std::shared_ptr<Batch>> done;
  for (int i = 0; i < 10'000 && done.empty(); ++i) {
    usleep(1'000);
    done = client->drain();
  }
  CHECK_EQ(done.size(), 1u);
  CHECK_EQ(done[0]->ticket, put);
  const uint64_t get = client->submit(batch_of(Verb::kGet, {key_of(5)}, received));
  for (done.clear(); done.empty(); done = client->drain()) usleep(1'000);
  CHECK_EQ(done[0]->ticket, get);
  CHECK(received == sent);
}

TEST(node_client_mapped, a_get_waits_for_a_block_that_is_still_to_come) {
  const Cluster cluster;
  const auto reader = cluster.client("mapped");
  const auto writer = cluster.client("mapped");
  std::vector<std::vector<std::byte>> sent{bytes_of(6, 50'000)};
  auto received = empty_like(sent);
  const auto get = batch_of(Verb::kGet, {key_of(6)}, received);
  get->wait_ms = 10'000;
  std::thread waiting([&] { reader->execute(get); });
  CHECK(cluster.settles("gets_waiting", 1));
  writer->execute(batch_of(Verb::kPut, {key_of(6)}, sent));
  waiting.join();
  CHECK(get->statuses[0] == Status::kOk);
  CHECK(received == sent);
  auto nothing = empty_like(sent);
  const auto late = batch_of(Verb::kGet, {key_of(7)}, nothing);
  late->wait_ms = 30;
  reader->execute(late);
  CHECK(late->statuses[0] == Status::kMiss);
  CHECK(cluster.settles("gets_waiting", 0));
}

TEST(node_client_mapped, a_borrowed_block_outlives_its_removal) {
  const Cluster cluster;
  const auto client = cluster.client("mapped");
  std::vector<std::vector<std::byte>> none;
  std::vector<std::vector<std::byte>> sent{bytes_of(8, 70'000)};
  client->execute(batch_of(Verb::kPut, {key_of(8)}, sent));
  auto borrow = batch_of(Verb::kBorrow, {key_of(8)}, none);
  client->execute(borrow);
  client->execute(batch_of(Verb::kDelete, {key_of(8)}, none));
  CHECK_EQ(cluster.stat("blocks"), 0u);
  CHECK(cluster.stat("leased_bytes") > 0);
  CHECK(std::ranges::equal(borrow->views[0], sent[0]));
  borrow.reset();
  CHECK(cluster.settles("leased_bytes", 0));
  CHECK(cluster.settles("used_bytes", 0));
}

// The node must not reuse what somebody still looks at, even if the client has given up the session.
TEST(node_client_mapped, a_closed_client_keeps_what_it_borrowed_until_release) {
  const Cluster cluster;
  std::vector<std::vector<std::byte>> none;
  std::vector<std::vector<std::byte>> sent{bytes_of(9, 70'000)};
  auto client = cluster.client("mapped");
  client->execute(batch_of(Verb::kPut, {key_of(9)}, sent));
  const auto borrow = batch_of(Verb::kBorrow, {key_of(9)}, none);
  client->execute(borrow);
  client.reset();
  CHECK(cluster.stat("leased_bytes") > 0);
  CHECK(std::ranges::equal(borrow->views[0], sent[0]));
  borrow->borrowed[0]->release();
  CHECK(cluster.settles("leased_bytes", 0));
  CHECK(cluster.settles("sessions_open", 0));
  CHECK(std::ranges::equal(borrow->views[0], sent[0]));  // the mapping is the client's own
}

// Was a hang: the closing thread waited for a driver that waited for its own deadline.
TEST(node_client_mapped, closing_ends_what_is_pending) {
  const Cluster cluster;
  const auto client = cluster.client("mapped");
  std::vector<std::vector<std::byte>> buffers(1, std::vector<std::byte>(4'096));
  const auto get = batch_of(Verb::kGet, {key_of(11)}, buffers);
  get->wait_ms = 20'000;
  std::thread waiting([&] { client->execute(get); });
  CHECK(cluster.settles("gets_waiting", 1));
  client->close();
  waiting.join();
  CHECK(get->statuses[0] == Status::kUnavailable);
}

// Was a leak over shared memory: UCX tells a peer nothing of a closed endpoint while both processes live.
void leaves_no_session(const std::string& lane) {
  const Cluster cluster;
  for (int i = 0; i < 3; ++i) (void)cluster.client(lane);
  CHECK(cluster.settles("sessions_opened", 3));
  CHECK(cluster.settles("sessions_open", 0));
  CHECK_EQ(cluster.stat("sessions_lost"), 0u);
}

TEST(node_client_mapped, a_closed_client_leaves_no_session) { leaves_no_session("mapped"); }
TEST(node_client_ucx, a_client_closed_over_tcp_leaves_no_session) { leaves_no_session("tcp"); }
TEST(node_client_ucx, a_client_closed_over_shared_memory_leaves_no_session) { leaves_no_session("shm"); }

void survives_the_node(const std::string& lane) {
  Cluster cluster;
  const auto client = cluster.client(lane);
  std::vector<std::vector<std::byte>> sent{bytes_of(3, 1 << 20)};
  client->execute(batch_of(Verb::kPut, {key_of(3)}, sent));
  cluster.kill();
  auto received = empty_like(sent);
  const auto get = batch_of(Verb::kGet, {key_of(3)}, received);
  client->execute(get);
  CHECK(get->statuses[0] == Status::kUnavailable || get->statuses[0] == Status::kTimeout);
  CHECK(client->wait_detached(10'000));
}

TEST(node_client_mapped, a_lost_node_is_a_status) { survives_the_node("mapped"); }
TEST(node_client_ucx, a_lost_node_is_a_status) { survives_the_node("tcp"); }

bool refuses_a_wrong_token(const Cluster& cluster, const std::string& lane) {
  LaneTarget target = cluster.target(lane);
  target.token.fill(std::byte{8});
  Client client{ClientOptions{}};
  try {
    (void)client.attach(target, 5'000);
  } catch (const std::runtime_error&) {
    return true;
  }
  return false;
}

TEST(node_client_mapped, a_wrong_token_opens_no_session) {
  const Cluster cluster;
  CHECK(refuses_a_wrong_token(cluster, "mapped"));
  CHECK(cluster.settles("sessions_refused", 1));
}

TEST(node_client_ucx, a_wrong_token_opens_no_session) {
  const Cluster cluster;
  CHECK(refuses_a_wrong_token(cluster, "tcp"));
  CHECK(cluster.settles("sessions_refused", 1));
}

}  // namespace kvstore
