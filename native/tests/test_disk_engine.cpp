// Both engines against real files: bytes, errors, callbacks, the end of an engine, and a kernel that refuses io_uring.
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <functional>
#include <optional>
#include <system_error>
#include <thread>
#include <vector>

#include "disk/file_descriptor.h"
#include "disk_fixture.h"

namespace kvstore {
namespace {

using test::AlignedBytes;
using test::contains;
using test::Outcome;
using test::TemporaryDirectory;

constexpr uint32_t kKiB = 1 << 10;
constexpr uint32_t kMiB = 1 << 20;

FileDescriptor file_of(const TemporaryDirectory& directory, uint64_t bytes, int flags = O_DIRECT) {
  FileDescriptor file(open(directory.file("data").c_str(), O_RDWR | O_CREAT | O_CLOEXEC | flags, 0600));
  if (!file.valid() && errno == EINVAL) return file_of(directory, bytes, 0);  // a file system without direct I/O
  CHECK(file.valid() && ftruncate(file.get(), static_cast<off_t>(bytes)) == 0);
  return file;
}

// The engines that this kernel offers; that io_uring is one of them is said by a test of its own.
std::vector<IoKind> kinds() {
  try {
    make_io_engine(IoKind::kUring, 1);
    return {IoKind::kUring, IoKind::kThreads};
  } catch (const std::system_error&) {
    return {IoKind::kThreads};
  }
}

int read_once(IoEngine& engine, int fd, uint64_t offset, const AlignedBytes& bytes) {
  Outcome outcome;
  engine.read(fd, offset, bytes.data(), bytes.bytes(), outcome.done());
  return outcome.wait();
}

int write_once(IoEngine& engine, int fd, uint64_t offset, const AlignedBytes& bytes) {
  Outcome outcome;
  engine.write(fd, offset, bytes.data(), bytes.bytes(), outcome.done());
  return outcome.wait();
}

// Runs in a thread whose system call `number` (and that of all threads it starts) fails with `error`.
void without_system_call(long number, int error, const std::function<void()>& action) {
  std::thread([&] {
    sock_filter program[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, static_cast<uint32_t>(number), 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | static_cast<uint32_t>(error)),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    const sock_fprog filter{4, program};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) != 0) {
      std::printf("      (skipped: this kernel filters no system calls)\n");
      return;
    }
    action();
  }).join();
}

}  // namespace

TEST(disk_engine, bytes_survive_for_many_sizes_depths_and_threads) {
  for (const IoKind kind : kinds()) {
    for (const uint32_t depth : {1u, 3u, 32u}) {
      const TemporaryDirectory directory;
      constexpr uint32_t kThreads = 4;
      constexpr uint64_t kRegionBytes = 16 * kMiB;
      const FileDescriptor file = file_of(directory, kThreads * kRegionBytes);
      const auto engine = make_io_engine(kind, depth);
      std::atomic<uint32_t> wrong{0};
      std::vector<std::thread> threads;
      for (uint32_t thread = 0; thread < kThreads; ++thread) {
        threads.emplace_back([&, thread] {
          const uint32_t sizes[] = {4 * kKiB, 12 * kKiB, 64 * kKiB, 2 * kMiB, 5 * kMiB + 4 * kKiB};
          std::vector<AlignedBytes> written;
          std::vector<Outcome> outcomes(std::size(sizes));
          uint64_t offset = thread * kRegionBytes;
          for (size_t i = 0; i < std::size(sizes); ++i) {
            written.emplace_back(sizes[i], 100 * thread + i);
            engine->write(file.get(), offset, written[i].data(), sizes[i], outcomes[i].done());
            offset += sizes[i];
          }
          for (Outcome& outcome : outcomes) wrong += outcome.wait() != 0;
          offset = thread * kRegionBytes;
          for (const AlignedBytes& expected : written) {
            const AlignedBytes found(expected.bytes());
            wrong += read_once(*engine, file.get(), offset, found) != 0 || !(found == expected);
            offset += expected.bytes();
          }
        });
      }
      for (std::thread& thread : threads) thread.join();
      CHECK_EQ(wrong.load(), 0u);
    }
  }
}

TEST(disk_engine, takes_far_more_requests_than_its_depth) {
  for (const IoKind kind : kinds()) {
    const TemporaryDirectory directory;
    const FileDescriptor file = file_of(directory, 4 * kMiB);
    const AlignedBytes bytes(4 * kKiB, 1);
    std::atomic<uint32_t> done{0};
    std::atomic<uint32_t> failed{0};
    {
      const auto engine = make_io_engine(kind, 2);
      for (uint32_t i = 0; i < 1'000; ++i) {
        engine->write(file.get(), i * uint64_t{4 * kKiB}, bytes.data(), bytes.bytes(), [&](int error) {
          failed += error != 0;
          ++done;
        });
      }
    }
    CHECK_EQ(done.load(), 1'000u);  // the end of the engine waits for all
    CHECK_EQ(failed.load(), 0u);
  }
}

TEST(disk_engine, calls_back_on_a_thread_of_its_own) {
  for (const IoKind kind : kinds()) {
    const TemporaryDirectory directory;
    const FileDescriptor file = file_of(directory, kMiB);
    const AlignedBytes bytes(4 * kKiB, 1);
    std::atomic<bool> foreign{false};
    {
      const auto engine = make_io_engine(kind, 2);
      engine->read(file.get(), 0, bytes.data(), bytes.bytes(),
                   [&, caller = std::this_thread::get_id()](int) { foreign = std::this_thread::get_id() != caller; });
    }
    CHECK(foreign.load());
  }
}

TEST(disk_engine, callbacks_may_ask_for_more_even_while_it_ends) {
  for (const IoKind kind : kinds()) {
    const TemporaryDirectory directory;
    const FileDescriptor file = file_of(directory, kMiB);
    const AlignedBytes bytes(4 * kKiB, 1);
    std::atomic<int> steps{0};
    auto engine = make_io_engine(kind, 4);
    IoEngine* const used = engine.get();
    const std::function<void(int)> step = [&](int error) {
      if (error != 0 || ++steps >= 200) return;
      // In turn, so that whoever serves one direction must be awake for the other.
      if (steps % 2 == 0) {
        used->read(file.get(), 0, bytes.data(), bytes.bytes(), step);
      } else {
        used->write(file.get(), 4 * kKiB, bytes.data(), bytes.bytes(), step);
      }
    };
    used->read(file.get(), 0, bytes.data(), bytes.bytes(), step);
    engine.reset();
    CHECK_EQ(steps.load(), 200);
  }
}

TEST(disk_engine, an_end_with_nothing_asked_for_is_no_wait) {
  for (const IoKind kind : kinds()) {
    for (int i = 0; i < 20; ++i) make_io_engine(kind, 4);
  }
}

TEST(disk_engine, reports_what_the_system_refuses) {
  for (const IoKind kind : kinds()) {
    const TemporaryDirectory directory;
    const FileDescriptor file = file_of(directory, 64 * kKiB + 512);
    const auto engine = make_io_engine(kind, 4);
    const AlignedBytes bytes(64 * kKiB, 1);
    CHECK_EQ(read_once(*engine, -1, 0, bytes), EBADF);
    CHECK_EQ(write_once(*engine, -1, 0, bytes), EBADF);
    CHECK_EQ(read_once(*engine, file.get(), 0, bytes), 0);
    CHECK_EQ(read_once(*engine, file.get(), 4 * kKiB, bytes), EIO);    // ends too early
    CHECK_EQ(read_once(*engine, file.get(), 128 * kKiB, bytes), EIO);  // begins behind the end
    const FileDescriptor read_only(open(directory.file("data").c_str(), O_RDONLY | O_CLOEXEC));
    CHECK_EQ(write_once(*engine, read_only.get(), 0, bytes), EBADF);
    CHECK_EQ(write_once(*engine, file.get(), 0, bytes), 0);  // and goes on working
  }
}

TEST(disk_engine, depths_that_make_no_sense_are_refused) {
  for (const IoKind kind : {IoKind::kAuto, IoKind::kUring, IoKind::kThreads}) {
    for (const uint32_t depth : {0u, kIoDepthMax + 1, UINT32_MAX}) {
      CHECK(contains(test::why_thrown<std::invalid_argument>([&] { make_io_engine(kind, depth); }), "depth"));
    }
  }
  for (const IoKind kind : kinds()) make_io_engine(kind, kIoDepthMax);
}

TEST(disk_engine, falls_back_to_threads_where_the_kernel_refuses) {
  const TemporaryDirectory directory;
  const FileDescriptor file = file_of(directory, kMiB);
  const AlignedBytes bytes(4 * kKiB, 1);
  // Too old or hidden; forbidden by sysctl or sandbox; and a sandbox that lets rings be made but not used.
  const std::pair<long, int> refusals[] = {
      {__NR_io_uring_setup, ENOSYS}, {__NR_io_uring_setup, EPERM}, {__NR_io_uring_enter, EPERM}};
  for (const auto& [number, error] : refusals) {
    std::string refused;
    std::string used;
    int outcome = -1;
    without_system_call(number, error, [&] {
      refused = test::why_thrown<std::system_error>([] { make_io_engine(IoKind::kUring, 4); });
      const auto engine = make_io_engine(IoKind::kAuto, 4);
      used = engine->name();
      outcome = write_once(*engine, file.get(), 0, bytes);
    });
    if (outcome == -1) return;  // skipped
    CHECK(contains(refused, "io_uring"));
    CHECK_EQ(used, std::string("threads"));
    CHECK_EQ(outcome, 0);
  }
}

TEST(disk_engine, is_io_uring_where_the_kernel_has_it) {
  if (kinds().size() == 1) {
    std::printf("      (this kernel refuses io_uring: only threads were tested)\n");
    CHECK_EQ(std::string(make_io_engine(IoKind::kAuto, 4)->name()), std::string("threads"));
    return;
  }
  CHECK_EQ(std::string(make_io_engine(IoKind::kAuto, 4)->name()), std::string("io_uring"));
  CHECK_EQ(std::string(make_io_engine(IoKind::kThreads, 4)->name()), std::string("threads"));
}

// io_uring ties requests to the thread that submitted them; ours must outlive the thread that asked.
TEST(disk_engine, requests_outlive_the_thread_that_asked) {
  for (const IoKind kind : kinds()) {
    const TemporaryDirectory directory;
    const FileDescriptor file = file_of(directory, 64 * kMiB);
    const auto engine = make_io_engine(kind, 4);
    std::vector<AlignedBytes> bytes;
    for (uint32_t i = 0; i < 16; ++i) bytes.emplace_back(2 * kMiB, i);
    std::vector<Outcome> outcomes(bytes.size());
    std::thread([&] {
      for (uint32_t i = 0; i < bytes.size(); ++i) {
        engine->write(file.get(), i * uint64_t{2 * kMiB}, bytes[i].data(), bytes[i].bytes(), outcomes[i].done());
      }
    }).join();
    for (Outcome& outcome : outcomes) CHECK_EQ(outcome.wait(), 0);
  }
}

}  // namespace kvstore
