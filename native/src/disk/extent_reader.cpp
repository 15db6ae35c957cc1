#include "disk/extent_reader.h"

#include <fcntl.h>

#include <algorithm>
#include <cerrno>
#include <system_error>

#include "base/assert.h"
#include "disk/extent_survey.h"

namespace kvstore {
namespace {

constexpr uint32_t kFilesMax = 512;  // as many as a disk may have

// The header of a file, if it has one that can be read.
std::optional<ExtentHeader> header_of(const std::string& path) {
  const FileDescriptor file(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  HeaderGranule granule;
  if (!file.valid() || pread(file.get(), granule.bytes.data(), granule.bytes.size(), 0) != sizeof(granule.bytes)) {
    return std::nullopt;
  }
  return decode_extent_header(granule);
}

uint64_t known_bytes(const ExtentDiskOptions& options) {
  uint64_t bytes = options.remembered_bytes;
  for (uint32_t index = 0; index < kFilesMax; ++index) {
    const std::optional<ExtentHeader> header = header_of(extent_file_path(options.directory, index));
    if (header && header->version == kExtentFormatVersion && header->disk_id == options.disk_id) {
      bytes = std::max(bytes, header->disk_bytes);
    }
  }
  return bytes;
}

FileDescriptor open_for_reading(const std::string& path) {
  FileDescriptor file(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_DIRECT));
  if (file.valid()) {
    HeaderGranule granule;
    if (pread(file.get(), granule.bytes.data(), granule.bytes.size(), 0) >= 0 || errno != EINVAL) return file;
  }
  file = FileDescriptor(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!file.valid()) {
    throw std::system_error(errno, std::generic_category(), "the extent file " + path + " cannot be opened");
  }
  return file;
}

std::string damage_of(const SurveyedFile& file) {
  if (!file.exists) return file.path + " is missing";
  if (file.found_bytes < file.target_bytes) {
    return file.path + " is truncated: " + std::to_string(file.found_bytes) + " of " +
           std::to_string(file.target_bytes) + " bytes are left";
  }
  if (file.write_header) return file.path + " has a damaged header";
  if (file.header.lost.bytes > 0) {
    return file.path + " was damaged before, and rows of " + std::to_string(file.header.lost.bytes) +
           " lost bytes are still in the catalog";
  }
  return {};
}

}  // namespace

ExtentReader::ExtentReader(ExtentDiskOptions options) : extent_file_bytes_(options.extent_file_bytes) {
  options.capacity_bytes = known_bytes(options);
  if (options.capacity_bytes == 0) return;
  const ExtentSurvey survey = survey_extents(options);
  capacity_bytes_ = survey.target_bytes;
  for (const SurveyedFile& file : survey.files) {
    const uint64_t begin = file.header.index * extent_file_bytes_;
    reserved_.push_back({begin, kDiskGranuleBytes});
    if (file.header.lost.bytes > 0) lost_.push_back({begin + file.header.lost.offset, file.header.lost.bytes});
    if (std::string damage = damage_of(file); !damage.empty()) damage_.push_back(std::move(damage));
    descriptors_.push_back(file.exists ? open_for_reading(file.path) : FileDescriptor());
  }
  engine_ = make_io_engine(options.io, options.depth);
}

void ExtentReader::read(uint64_t offset, std::byte* data, uint32_t bytes, Done done) {
  KVSTORE_ASSERT(offset < capacity_bytes_ && bytes <= capacity_bytes_ - offset);
  const FileDescriptor& file = descriptors_[offset / extent_file_bytes_];
  if (!file.valid()) {
    done(ENOENT);
    return;
  }
  engine_->read(file.get(), offset % extent_file_bytes_, data, bytes, std::move(done));
}

void ExtentReader::write(uint64_t, const std::byte*, uint32_t, Done done) { done(EROFS); }

int ExtentReader::sync() { return EROFS; }

}  // namespace kvstore
