#include "memory/arena.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <exception>
#include <memory>
#include <string>
#include <system_error>

#include "check.h"

using kvstore::Arena;
using kvstore::ArenaView;
using kvstore::SharedSegment;

namespace {

constexpr uint64_t kMiB = 1 << 20;

// What a peer receives: another descriptor of the same file.
int sent(int fd) {
  const int received = fcntl(fd, F_DUPFD_CLOEXEC, 0);
  CHECK(received >= 0);
  return received;
}

int memfd_with(uint64_t bytes, int seals) {
  const int fd = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  CHECK(fd >= 0);
  CHECK(ftruncate(fd, static_cast<off_t>(bytes)) == 0);
  CHECK(fcntl(fd, F_ADD_SEALS, seals) == 0);
  return fd;
}

bool is_open(int fd) { return fcntl(fd, F_GETFD) >= 0; }

template <class Mapping>
std::string why_refused(int fd, uint64_t bytes) {
  std::string reason;
  try {
    const Mapping mapping(fd, bytes);
  } catch (const std::exception& error) {
    reason = error.what();
  }
  CHECK(!is_open(fd));
  return reason;
}

bool contains(const std::string& text, const char* part) { return text.find(part) != std::string::npos; }

TEST(arena, is_rounded_up_and_zeroed) {
  Arena arena(3 * kMiB);
  CHECK_EQ(arena.bytes(), 4 * kMiB);
  arena.data()[0] = std::byte{7};
  arena.prefault();
  CHECK(arena.data()[0] == std::byte{7});
  CHECK(arena.data()[4 * kMiB - 1] == std::byte{0});
}

TEST(arena, seals_keep_a_peer_from_writing) {
  Arena arena(2 * kMiB);
  const int fd = sent(arena.fd());
  CHECK(mmap(nullptr, arena.bytes(), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) == MAP_FAILED);
  CHECK_EQ(errno, EPERM);
  CHECK_EQ(pwrite(fd, "x", 1, 0), -1);
  CHECK_EQ(errno, EPERM);
  CHECK_EQ(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096), -1);
  CHECK_EQ(errno, EPERM);
  CHECK_EQ(ftruncate(fd, 0), -1);
  CHECK_EQ(errno, EPERM);
  CHECK_EQ(ftruncate(fd, 4 * kMiB), -1);
  CHECK_EQ(errno, EPERM);
  CHECK_EQ(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE), -1);
  CHECK_EQ(errno, EPERM);
  close(fd);
}

TEST(arena, seals_survive_reopening) {
  Arena arena(2 * kMiB);
  const int fd = open(("/proc/self/fd/" + std::to_string(arena.fd())).c_str(), O_RDWR | O_CLOEXEC);
  CHECK(fd >= 0);
  CHECK(mmap(nullptr, arena.bytes(), PROT_WRITE, MAP_SHARED, fd, 0) == MAP_FAILED);
  CHECK_EQ(ftruncate(fd, 0), -1);
  close(fd);
}

TEST(arena, view_sees_later_writes_and_stays_read_only) {
  Arena arena(2 * kMiB);
  const ArenaView view(sent(arena.fd()), arena.bytes());
  CHECK_EQ(view.bytes(), arena.bytes());
  CHECK(view.data() != arena.data());
  std::memcpy(arena.data() + kMiB, "block", 5);
  CHECK(std::memcmp(view.data() + kMiB, "block", 5) == 0);
  CHECK_EQ(mprotect(const_cast<std::byte*>(view.data()), view.bytes(), PROT_READ | PROT_WRITE), -1);
  CHECK_EQ(errno, EACCES);
}

TEST(arena, view_outlives_the_arena) {
  auto arena = std::make_unique<Arena>(2 * kMiB);
  std::memcpy(arena->data(), "block", 5);
  const ArenaView view(sent(arena->fd()), arena->bytes());
  arena.reset();
  CHECK(std::memcmp(view.data(), "block", 5) == 0);
}

TEST(arena, view_refuses_what_could_shrink_or_be_written) {
  const int segment_seals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;
  CHECK(contains(why_refused<ArenaView>(memfd_with(2 * kMiB, 0), 2 * kMiB), "not sealed"));
  CHECK(contains(why_refused<ArenaView>(memfd_with(2 * kMiB, segment_seals), 2 * kMiB), "not sealed"));
  CHECK(contains(why_refused<SharedSegment>(memfd_with(2 * kMiB, F_SEAL_GROW), 2 * kMiB), "not sealed"));
  const int unsealable = memfd_create("test", MFD_CLOEXEC);
  CHECK(ftruncate(unsealable, 2 * kMiB) == 0);
  CHECK(contains(why_refused<ArenaView>(unsealable, 2 * kMiB), "not sealed"));
}

TEST(arena, view_refuses_what_is_too_short_or_no_memfd) {
  Arena arena(2 * kMiB);
  CHECK(contains(why_refused<ArenaView>(sent(arena.fd()), arena.bytes() + 1), "has only"));
  CHECK(contains(why_refused<ArenaView>(sent(arena.fd()), UINT64_MAX), "has only"));
  CHECK(!why_refused<ArenaView>(sent(arena.fd()), 0).empty());
  int ends[2];
  CHECK(pipe(ends) == 0);
  CHECK(contains(why_refused<ArenaView>(ends[0], 4096), "no memfd"));
  close(ends[1]);
}

TEST(arena, impossible_sizes_throw) {
  for (const uint64_t bytes : {uint64_t{0}, UINT64_MAX, uint64_t{1} << 62}) {
    bool thrown = false;
    try {
      Arena arena(bytes);
    } catch (const std::system_error&) {
      thrown = true;
    }
    CHECK(thrown);
  }
}

TEST(shared_segment, both_sides_write_and_neither_truncates) {
  SharedSegment mine(64 << 10);
  SharedSegment theirs(sent(mine.fd()), mine.bytes());
  mine.data()[1] = std::byte{1};
  theirs.data()[2] = std::byte{2};
  CHECK(theirs.data()[1] == std::byte{1});
  CHECK(mine.data()[2] == std::byte{2});
  CHECK_EQ(ftruncate(theirs.fd(), 0), -1);
  CHECK_EQ(fcntl(theirs.fd(), F_ADD_SEALS, F_SEAL_FUTURE_WRITE), -1);
}

TEST(shared_segment, descriptors_are_closed_with_it) {
  int fd = -1;
  {
    SharedSegment segment(4096);
    fd = segment.fd();
    CHECK(is_open(fd));
    CHECK((fcntl(fd, F_GETFD) & FD_CLOEXEC) != 0);
  }
  CHECK(!is_open(fd));
}

// Huge pages are the operator's to reserve: with none, or with some, the arena is the same.
TEST(arena, works_with_and_without_huge_pages) {
  for (const bool huge_pages : {false, true}) {
    Arena arena(4 << 20, huge_pages);
    CHECK(huge_pages || !arena.huge_pages());
    CHECK_EQ(arena.bytes(), uint64_t{4 << 20});
    arena.data()[arena.bytes() - 1] = std::byte{7};
    const ArenaView view(dup(arena.fd()), arena.bytes());
    CHECK(view.data()[arena.bytes() - 1] == std::byte{7});
  }
}

}  // namespace
