#include "disk/uring.h"

#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <string>
#include <system_error>

#include "base/assert.h"

namespace kvstore {

namespace {

constexpr const char* kRefused =
    "the kernel refuses io_uring (Linux 5.6 or newer is needed, with kernel.io_uring_disabled=0 and a sandbox that "
    "passes it on); use threads instead";

[[noreturn]] void refuse(int error) { throw std::system_error(error, std::generic_category(), kRefused); }

int setup(uint32_t entries, io_uring_params* parameters) {
  constexpr uint32_t kOneThread = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN;
  for (const uint32_t flags : {kOneThread, 0u}) {
    *parameters = {};
    parameters->flags = flags;
    const auto fd = static_cast<int>(syscall(__NR_io_uring_setup, entries, parameters));
    if (fd >= 0 || errno != EINVAL) return fd;  // EINVAL: a kernel that does not know one of the flags
  }
  return -1;
}

}  // namespace

Uring::Descriptor::~Descriptor() {
  if (fd >= 0) close(fd);
}

Uring::Mapping::~Mapping() {
  if (address != nullptr) munmap(address, bytes);
}

void Uring::Mapping::map(int fd, size_t length, uint64_t offset) {
  void* const mapped =
      mmap(nullptr, length, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, static_cast<off_t>(offset));
  if (mapped == MAP_FAILED) refuse(errno);
  address = mapped;
  bytes = length;
}

uint32_t* Uring::Mapping::word(uint32_t at) const {
  return reinterpret_cast<uint32_t*>(static_cast<std::byte*>(address) + at);
}

Uring::Uring(uint32_t entries) {
  io_uring_params parameters;
  ring_.fd = setup(entries, &parameters);
  if (ring_.fd < 0) refuse(errno);
  // NODROP: completions are kept when their ring is full, instead of lost. RW_CUR_POS came with the operations used.
  constexpr uint32_t kFeatures = IORING_FEAT_SINGLE_MMAP | IORING_FEAT_NODROP | IORING_FEAT_RW_CUR_POS;
  if ((parameters.features & kFeatures) != kFeatures) refuse(ENOSYS);
  map_rings(parameters);
  try_out();
}

Uring::~Uring() = default;

void Uring::map_rings(const io_uring_params& parameters) {
  const size_t submission_bytes = parameters.sq_off.array + parameters.sq_entries * sizeof(uint32_t);
  const size_t completion_bytes = parameters.cq_off.cqes + parameters.cq_entries * sizeof(io_uring_cqe);
  queues_.map(ring_.fd, submission_bytes > completion_bytes ? submission_bytes : completion_bytes, IORING_OFF_SQ_RING);
  entries_.map(ring_.fd, parameters.sq_entries * sizeof(io_uring_sqe), IORING_OFF_SQES);
  submission_head_ = queues_.word(parameters.sq_off.head);
  submission_tail_ = queues_.word(parameters.sq_off.tail);
  submission_mask_ = parameters.sq_entries - 1;
  completion_head_ = queues_.word(parameters.cq_off.head);
  completion_tail_ = queues_.word(parameters.cq_off.tail);
  completion_mask_ = parameters.cq_entries - 1;
  completions_ = reinterpret_cast<io_uring_cqe*>(static_cast<std::byte*>(queues_.address) + parameters.cq_off.cqes);
  // Entries are used in the order of the ring, so this indirection never changes.
  uint32_t* const order = queues_.word(parameters.sq_off.array);
  for (uint32_t index = 0; index < parameters.sq_entries; ++index) order[index] = index;
}

// A sandbox may let the rings be made and refuse their use.
void Uring::try_out() {
  io_uring_sqe nothing{};
  nothing.opcode = IORING_OP_NOP;
  prepare(nothing);
  constexpr int kAttempts = 100;
  io_uring_cqe completion;
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    if (const int error = submit_and_wait(); error != 0) refuse(error);
    if (take(&completion)) return;
  }
  refuse(EAGAIN);
}

void Uring::prepare(const io_uring_sqe& entry) {
  const uint32_t tail = *submission_tail_;
  KVSTORE_ASSERT(tail - __atomic_load_n(submission_head_, __ATOMIC_ACQUIRE) <= submission_mask_);
  static_cast<io_uring_sqe*>(entries_.address)[tail & submission_mask_] = entry;
  __atomic_store_n(submission_tail_, tail + 1, __ATOMIC_RELEASE);
}

int Uring::submit_and_wait() {
  const uint32_t prepared = *submission_tail_ - __atomic_load_n(submission_head_, __ATOMIC_ACQUIRE);
  const auto entered =
      syscall(__NR_io_uring_enter, ring_.fd, prepared, 1u, uint32_t{IORING_ENTER_GETEVENTS}, nullptr, size_t{0});
  if (entered >= 0 || errno == EINTR || errno == EAGAIN || errno == EBUSY) return 0;
  return errno;
}

bool Uring::take(io_uring_cqe* completion) {
  const uint32_t head = *completion_head_;
  if (head == __atomic_load_n(completion_tail_, __ATOMIC_ACQUIRE)) return false;
  *completion = completions_[head & completion_mask_];
  __atomic_store_n(completion_head_, head + 1, __ATOMIC_RELEASE);
  return true;
}

}  // namespace kvstore
