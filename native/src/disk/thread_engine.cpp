// The engine for kernels without io_uring: threads that block, readers and writers apart.
#include <sys/types.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "disk/engines.h"
#include "disk/io_queue.h"

namespace kvstore {

namespace {

// More threads than this cost memory and gain nothing that a disk shows.
constexpr uint32_t kThreadsMax = 32;

class ThreadEngine final : public QueuedEngine {
 public:
  explicit ThreadEngine(uint32_t threads) : queue_(threads) {
    try {
      for (uint32_t i = 0; i < threads; ++i) {
        threads_.emplace_back([this] { serve(IoDirection::kRead); });
        threads_.emplace_back([this] { serve(IoDirection::kWrite); });
      }
    } catch (...) {
      stop();
      throw;
    }
  }
  ~ThreadEngine() override { stop(); }

  [[nodiscard]] const char* name() const override { return "threads"; }

 private:
  void push(IoRequest request) override {
    const IoDirection direction = request.direction;
    {
      const std::lock_guard lock(mutex_);
      queue_.push(std::make_unique<IoRequest>(std::move(request)));
    }
    changed_[static_cast<size_t>(direction)].notify_one();
  }

  void stop() {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    wake_all();
    for (std::thread& thread : threads_) thread.join();
  }

  void serve(IoDirection direction) {
    std::condition_variable& changed = changed_[static_cast<size_t>(direction)];
    std::unique_lock lock(mutex_);
    while (true) {
      const auto piece = queue_.next(direction);
      if (!piece) {
        // Not before all is idle: a callback of another thread may still ask for something here.
        if (stopping_ && callbacks_ == 0 && queue_.idle()) return;
        changed.wait(lock);
        continue;
      }
      if (queue_.waiting(direction)) changed.notify_one();  // a push wakes one, but may bring several pieces
      lock.unlock();
      const int result = transfer(*piece);
      lock.lock();
      std::unique_ptr<IoRequest> ended = queue_.finish(*piece, result);
      if (ended != nullptr) {
        ++callbacks_;
        lock.unlock();
        ended->done(ended->error);
        ended.reset();
        lock.lock();
        --callbacks_;
      }
      if (stopping_) wake_all();
    }
  }

  void wake_all() {
    for (std::condition_variable& changed : changed_) changed.notify_all();
  }

  static int transfer(const IoPiece& piece) {
    const IoRequest& request = *piece.request;
    const auto at = static_cast<off_t>(request.offset + piece.at);
    const ssize_t moved = request.direction == IoDirection::kRead
                              ? pread(request.fd, request.data + piece.at, piece.bytes, at)
                              : pwrite(request.fd, request.data + piece.at, piece.bytes, at);
    return moved < 0 ? -errno : static_cast<int>(moved);
  }

  std::mutex mutex_;
  std::array<std::condition_variable, kIoDirections> changed_;
  IoQueue queue_;
  uint32_t callbacks_ = 0;  // running now
  bool stopping_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace

std::unique_ptr<IoEngine> make_thread_engine(uint32_t depth) {
  return std::make_unique<ThreadEngine>(std::min(depth, kThreadsMax));
}

}  // namespace kvstore
