#include "disk/extent_disk.h"

#include <cerrno>
#include <mutex>
#include <utility>

#include "base/assert.h"
#include "base/failpoint.h"
#include "disk/extent_files.h"
#include "disk/sync_ledger.h"

namespace kvstore {

class ExtentDisk::Impl {
 public:
  explicit Impl(const ExtentDiskOptions& options)
      : Impl(options, survey_extents(options), make_io_engine(options.io, options.depth)) {}

  void read(uint64_t offset, std::byte* data, uint32_t bytes, Done done) {
    const Place place = place_of(offset, data, bytes);
    engine_->read(place.fd, place.offset, data, bytes, [done = std::move(done)](int error) {
      KVSTORE_FAILPOINT_ERROR("disk.read", error);
      done(error);
    });
  }

  void write(uint64_t offset, const std::byte* data, uint32_t bytes, Done done) {
    const Place place = place_of(offset, data, bytes);
    engine_->write(place.fd, place.offset, data, bytes,
                   [this, place, start = write_starts(place), done = std::move(done)](int error) {
                     KVSTORE_FAILPOINT_ERROR("disk.write", error);
                     if (error == 0) write_done(place, start);
                     done(error);
                   });
  }

  int sync() {
    const std::lock_guard one_at_a_time(sync_mutex_);
    std::vector<SyncLedger::Duty> duties;
    {
      const std::lock_guard lock(ledger_mutex_);
      duties = ledger_.sync_starts();
    }
    int first_error = 0;
    for (const SyncLedger::Duty& duty : duties) {
      int error = 0;
      KVSTORE_FAILPOINT_ERROR("disk.sync", error);
      if (error == 0 && fdatasync(files_.descriptors[duty.file].get()) != 0) error = errno;
      const std::lock_guard lock(ledger_mutex_);
      error = ledger_.sync_done(duty, error);
      if (first_error == 0) first_error = error;
    }
    return first_error;
  }

  int damage_handled() {
    const std::lock_guard one_at_a_time(sync_mutex_);
    for (size_t index = 0; index < files_.headers.size(); ++index) {
      ExtentHeader& header = files_.headers[index];
      if (header.lost.bytes == 0) continue;
      ExtentHeader cleared = header;
      cleared.lost = {};
      const int error = write_extent_header(files_.descriptors[index].get(), cleared);
      if (error != 0) return error;
      header = cleared;
    }
    return 0;
  }

  [[nodiscard]] uint64_t capacity_bytes() const { return capacity_bytes_; }
  [[nodiscard]] const ExtentFiles& files() const { return files_; }
  [[nodiscard]] const char* io_name() const { return engine_->name(); }

  [[nodiscard]] std::vector<DiskRange> reserved() const {
    std::vector<DiskRange> headers;
    for (const ExtentHeader& header : files_.headers) {
      headers.push_back({header.index * extent_file_bytes_, kDiskGranuleBytes});
    }
    return headers;
  }

 private:
  struct Place {
    size_t file = 0;
    int fd = -1;
    uint64_t offset = 0;  // within it
  };

  Impl(const ExtentDiskOptions& options, const ExtentSurvey& survey, std::unique_ptr<IoEngine> engine)
      : capacity_bytes_(survey.target_bytes),
        extent_file_bytes_(options.extent_file_bytes),
        files_(open_extent_files(options.directory, survey)),
        ledger_(files_.descriptors.size()),
        engine_(std::move(engine)) {}

  [[nodiscard]] Place place_of(uint64_t offset, const std::byte* data, uint32_t bytes) const {
    KVSTORE_ASSERT(offset % kDiskGranuleBytes == 0 && bytes % kDiskGranuleBytes == 0 && bytes > 0);
    KVSTORE_ASSERT(reinterpret_cast<uintptr_t>(data) % kDiskGranuleBytes == 0);
    KVSTORE_ASSERT(offset < capacity_bytes_ && bytes <= capacity_bytes_ - offset);
    const size_t index = offset / extent_file_bytes_;
    const uint64_t within = offset % extent_file_bytes_;
    KVSTORE_ASSERT(within >= kDiskGranuleBytes && bytes <= extent_file_bytes_ - within);
    return {index, files_.descriptors[index].get(), within};
  }

  [[nodiscard]] uint64_t write_starts(const Place& place) {
    const std::lock_guard lock(ledger_mutex_);
    return ledger_.write_starts(place.file);
  }

  void write_done(const Place& place, uint64_t start) {
    const std::lock_guard lock(ledger_mutex_);
    ledger_.write_done(place.file, start);
  }

  const uint64_t capacity_bytes_;
  const uint64_t extent_file_bytes_;
  ExtentFiles files_;
  std::mutex sync_mutex_;    // taken before the next
  std::mutex ledger_mutex_;  // never held across a system call
  SyncLedger ledger_;
  std::unique_ptr<IoEngine> engine_;  // last, so that it goes first: its callbacks use all of the above
};

ExtentDisk::ExtentDisk(ExtentDiskOptions options) : impl_(std::make_unique<Impl>(options)) {}
ExtentDisk::~ExtentDisk() = default;

void ExtentDisk::read(uint64_t offset, std::byte* data, uint32_t bytes, Done done) {
  impl_->read(offset, data, bytes, std::move(done));
}
void ExtentDisk::write(uint64_t offset, const std::byte* data, uint32_t bytes, Done done) {
  impl_->write(offset, data, bytes, std::move(done));
}
int ExtentDisk::sync() { return impl_->sync(); }
uint64_t ExtentDisk::capacity_bytes() const { return impl_->capacity_bytes(); }
std::vector<DiskRange> ExtentDisk::reserved() const { return impl_->reserved(); }
const std::vector<DiskDamage>& ExtentDisk::damage() const { return impl_->files().damage; }
int ExtentDisk::damage_handled() { return impl_->damage_handled(); }
bool ExtentDisk::direct() const { return impl_->files().direct; }
const char* ExtentDisk::io_name() const { return impl_->io_name(); }

}  // namespace kvstore
