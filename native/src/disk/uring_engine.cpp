// The engine over io_uring. One thread owns the ring: it submits what others asked for, waits, and calls back.
//
// Others only put their request into a queue and ring a bell, because io_uring ties a request to the thread that
// submitted it: that thread would be interrupted at each completion, and its end would cancel what is under way.
#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <exception>
#include <future>
#include <mutex>
#include <optional>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "base/assert.h"
#include "disk/engines.h"
#include "disk/io_queue.h"
#include "disk/uring.h"

namespace kvstore {

namespace {

constexpr uint64_t kBell = UINT64_MAX;  // instead of the index of a slot

// Wakes the thread that waits for the ring, by a read of this descriptor that always is under way.
class Bell {
 public:
  Bell() : fd_(eventfd(0, EFD_CLOEXEC)) {
    if (fd_ < 0) throw std::system_error(errno, std::generic_category(), "no eventfd for an I/O engine");
  }
  ~Bell() { close(fd_); }
  Bell(const Bell&) = delete;
  Bell& operator=(const Bell&) = delete;

  void ring() const {
    const uint64_t one = 1;
    while (write(fd_, &one, sizeof(one)) < 0) KVSTORE_ASSERT(errno == EINTR);
  }
  [[nodiscard]] io_uring_sqe listen() {
    io_uring_sqe entry{};
    entry.opcode = IORING_OP_READ;
    entry.fd = fd_;
    entry.addr = reinterpret_cast<uint64_t>(&count_);
    entry.len = sizeof(count_);
    entry.user_data = kBell;
    return entry;
  }

 private:
  const int fd_;
  uint64_t count_ = 0;
};

class UringEngine final : public QueuedEngine {
 public:
  explicit UringEngine(uint32_t depth) : queue_(depth), slots_(2 * depth) {
    for (uint32_t slot = 0; slot < slots_.size(); ++slot) free_slots_.push_back(slot);
    std::promise<void> ready;
    thread_ = std::thread([this, &ready] { run(&ready); });
    try {
      ready.get_future().get();
    } catch (...) {
      thread_.join();
      throw;
    }
  }
  ~UringEngine() override {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    bell_.ring();
    thread_.join();
  }

  [[nodiscard]] const char* name() const override { return "io_uring"; }

 private:
  void push(IoRequest request) override {
    auto owned = std::make_unique<IoRequest>(std::move(request));
    bool asleep;
    {
      const std::lock_guard lock(mutex_);
      queue_.push(std::move(owned));
      asleep = std::exchange(asleep_, false);  // one bell is enough
    }
    if (asleep) bell_.ring();
  }

  void run(std::promise<void>* ready) {
    std::optional<Uring> ring;
    try {
      ring.emplace(static_cast<uint32_t>(slots_.size()) + 1);
    } catch (...) {
      ready->set_exception(std::current_exception());
      return;
    }
    ready->set_value();
    serve(&*ring);
  }

  void serve(Uring* ring) {
    bool listening = false;  // to the bell
    while (true) {
      {
        const std::lock_guard lock(mutex_);
        // No new bell is listened for at the end, so that the ring is left with nothing under way.
        if (stopping_ && !listening && queue_.idle()) return;
        if (!stopping_ && !listening) {
          ring->prepare(bell_.listen());
          listening = true;
        }
        prepare_pieces(ring);
        asleep_ = true;
      }
      const int refused = ring->submit_and_wait();
      KVSTORE_ASSERT(refused == 0);
      {
        const std::lock_guard lock(mutex_);
        asleep_ = false;
        if (take_completions(ring)) listening = false;
      }
      for (const auto& request : ended_) request->done(request->error);
      ended_.clear();
    }
  }

  void prepare_pieces(Uring* ring) {
    for (const IoDirection direction : {IoDirection::kRead, IoDirection::kWrite}) {
      while (const auto piece = queue_.next(direction)) {
        const uint32_t slot = free_slots_.back();
        free_slots_.pop_back();
        slots_[slot] = *piece;
        ring->prepare(entry_of(*piece, slot));
      }
    }
  }

  static io_uring_sqe entry_of(const IoPiece& piece, uint32_t slot) {
    const IoRequest& request = *piece.request;
    io_uring_sqe entry{};
    entry.opcode = request.direction == IoDirection::kRead ? IORING_OP_READ : IORING_OP_WRITE;
    entry.fd = request.fd;
    entry.off = request.offset + piece.at;
    entry.addr = reinterpret_cast<uint64_t>(request.data + piece.at);
    entry.len = piece.bytes;
    entry.user_data = slot;
    return entry;
  }

  // Whether the bell has rung.
  bool take_completions(Uring* ring) {
    bool rung = false;
    io_uring_cqe completion;
    while (ring->take(&completion)) {
      if (completion.user_data == kBell) {
        rung = true;
        continue;
      }
      const auto slot = static_cast<uint32_t>(completion.user_data);
      free_slots_.push_back(slot);
      if (auto ended = queue_.finish(slots_[slot], completion.res)) ended_.push_back(std::move(ended));
    }
    return rung;
  }

  std::mutex mutex_;  // guards the next three
  IoQueue queue_;
  bool asleep_ = false;  // or about to be: whoever asks for something must ring
  bool stopping_ = false;

  // The thread's own.
  std::vector<IoPiece> slots_;  // what the kernel has, by user_data
  std::vector<uint32_t> free_slots_;
  std::vector<std::unique_ptr<IoRequest>> ended_;
  Bell bell_;
  std::thread thread_;
};

}  // namespace

std::unique_ptr<IoEngine> make_uring_engine(uint32_t depth) { return std::make_unique<UringEngine>(depth); }

}  // namespace kvstore
