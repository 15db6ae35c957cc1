#include "disk/extent_survey.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <optional>
#include <stdexcept>
#include <system_error>

#include "disk/file_descriptor.h"

namespace kvstore {

namespace {

// Each is open all the time, and most systems allow a process 1024 descriptors unless told otherwise.
constexpr uint64_t kFilesMax = 512;

// What one file of the directory turned out to be.
struct Sighting {
  bool exists = false;
  uint64_t bytes = 0;
  uint64_t allocated_bytes = 0;
  bool blank = false;  // the header is all zeros, or beyond the end: the file was never finished
  std::optional<ExtentHeader> header;
};

[[noreturn]] void throw_errno(const std::string& what) {
  throw std::system_error(errno, std::generic_category(), what);
}

std::string bytes_text(uint64_t bytes) {
  char text[64];
  std::snprintf(text, sizeof(text), "%llu bytes (%.2f GiB)", static_cast<unsigned long long>(bytes),
                static_cast<double>(bytes) / (uint64_t{1} << 30));
  return text;
}

void check_options(const ExtentDiskOptions& options) {
  constexpr uint64_t kGranule = kDiskGranuleBytes;
  if (options.extent_file_bytes % kGranule != 0 || options.extent_file_bytes < 2 * kGranule) {
    throw std::invalid_argument("extent_file_bytes must be a multiple of 4096 and at least 8192, not " +
                                std::to_string(options.extent_file_bytes));
  }
  if (options.capacity_bytes < 2 * kGranule) {
    throw std::invalid_argument("a disk needs at least 8192 bytes, not " + std::to_string(options.capacity_bytes));
  }
  if ((options.capacity_bytes - 1) / options.extent_file_bytes >= kFilesMax) {
    throw std::invalid_argument("a disk of " + bytes_text(options.capacity_bytes) + " would need more than " +
                                std::to_string(kFilesMax) + " extent files of " +
                                bytes_text(options.extent_file_bytes) + "; choose larger files");
  }
}

void check_directory(const std::string& directory) {
  struct stat status;
  if (stat(directory.c_str(), &status) != 0) {
    throw_errno("the disk directory " + directory + " cannot be used; create it, or mount the disk that holds it");
  }
  if (!S_ISDIR(status.st_mode)) {
    errno = ENOTDIR;
    throw_errno("the disk directory " + directory + " is something else; name a directory");
  }
}

Sighting look_at(const std::string& path) {
  Sighting sighting;
  // Not blocking: somebody may have put a pipe there.
  const FileDescriptor file(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!file.valid()) {
    if (errno == ENOENT) return sighting;
    throw_errno("the extent file " + path + " cannot be opened");
  }
  struct stat status;
  if (fstat(file.get(), &status) != 0) throw_errno("the extent file " + path + " cannot be examined");
  if (!S_ISREG(status.st_mode)) throw std::runtime_error(path + " is no regular file; move it out of the way");
  sighting.exists = true;
  sighting.bytes = static_cast<uint64_t>(status.st_size);
  sighting.allocated_bytes = static_cast<uint64_t>(status.st_blocks) * 512;
  HeaderGranule granule;
  const ssize_t got = pread(file.get(), granule.bytes.data(), granule.bytes.size(), 0);
  // A header that the device cannot read is damaged like another; writing it anew may well cure it.
  if (got < 0 && errno != EIO) throw_errno("the header of the extent file " + path + " cannot be read");
  sighting.blank = got >= 0 && std::all_of(granule.bytes.begin(), granule.bytes.end(),
                                           [](std::byte byte) { return byte == std::byte{0}; });
  if (got == static_cast<ssize_t>(granule.bytes.size())) sighting.header = decode_extent_header(granule);
  return sighting;
}

void check_header(const ExtentHeader& header, uint32_t index, const std::string& path,
                  const ExtentDiskOptions& options) {
  if (header.version > kExtentFormatVersion) {
    throw std::runtime_error(path + " has format version " + std::to_string(header.version) + ", this program knows " +
                             std::to_string(kExtentFormatVersion) +
                             " at most; use a newer program, or another directory");
  }
  if (header.disk_id != options.disk_id) {
    throw std::runtime_error(path +
                             " belongs to another disk; bring back the file that belongs here, move this one "
                             "away (its blocks become misses), or use another directory");
  }
  if (header.index != index) {
    throw std::runtime_error(path + " is file " + std::to_string(header.index) +
                             " of this disk under another name; give the files their names back");
  }
  if (header.extent_file_bytes != options.extent_file_bytes) {
    throw std::invalid_argument("the disk " + options.directory + " was made with extent files of " +
                                bytes_text(header.extent_file_bytes) + ", which cannot be changed to " +
                                bytes_text(options.extent_file_bytes));
  }
}

// The smallest range that covers both.
DiskRange covering(const DiskRange& a, const DiskRange& b) {
  if (a.bytes == 0) return b;
  if (b.bytes == 0) return a;
  const uint64_t begin = std::min(a.offset, b.offset);
  return {begin, std::max(a.offset + a.bytes, b.offset + b.bytes) - begin};
}

DiskRange from_to(uint64_t begin, uint64_t end) { return begin < end ? DiskRange{begin, end - begin} : DiskRange{}; }

// Says what is wrong with a file that was `known_bytes` long before this opening (0: it was not there).
void judge(const Sighting& sighting, uint64_t known_bytes, SurveyedFile* file) {
  file->write_header = !sighting.header;
  if (known_bytes == 0) {
    // A blank file is what a crash in the middle of growth leaves behind. Anything else is somebody's.
    if (sighting.exists && !sighting.header && !sighting.blank) {
      throw std::runtime_error(file->path + " is in the way: it is no extent file, or its header is damaged and " +
                               "nothing tells that it belongs to this disk; move it away");
    }
    return;
  }
  const uint64_t begin = std::max<uint64_t>(sighting.bytes / kDiskGranuleBytes * kDiskGranuleBytes, kDiskGranuleBytes);
  const DiskRange lost_now = from_to(begin, known_bytes);
  const std::string& path = file->path;
  if (!sighting.exists) {
    file->damage = path + " is missing: made anew, all its blocks are lost";
  } else if (sighting.bytes < known_bytes) {
    file->damage = path + " is truncated: " + bytes_text(sighting.bytes) + " of " + bytes_text(known_bytes) +
                   " are left; extended again, the blocks behind them are lost";
  } else if (!sighting.header) {
    file->damage = path + " has a damaged header: written anew, its blocks are kept (their checksums tell)";
  } else if (file->header.lost.bytes > 0) {
    file->damage =
        path + " lost " + bytes_text(file->header.lost.bytes) + " before, which nobody has taken note of yet";
  }
  if (lost_now.bytes > 0) {
    file->header.lost = covering(file->header.lost, lost_now);
    file->write_header = true;
  }
}

}  // namespace

uint64_t extent_file_length(uint64_t disk_bytes, uint64_t extent_file_bytes, uint32_t index) {
  const uint64_t begin = index * extent_file_bytes;
  return disk_bytes <= begin ? 0 : std::min(extent_file_bytes, disk_bytes - begin);
}

std::string extent_file_path(const std::string& directory, uint32_t index) {
  char name[32];
  std::snprintf(name, sizeof(name), "/extents-%04u.kv", index);
  return directory + name;
}

ExtentSurvey survey_extents(const ExtentDiskOptions& options) {
  check_options(options);
  check_directory(options.directory);
  ExtentSurvey survey;
  survey.target_bytes = options.capacity_bytes / kDiskGranuleBytes * kDiskGranuleBytes;
  survey.known_bytes = options.remembered_bytes / kDiskGranuleBytes * kDiskGranuleBytes;
  const auto files = static_cast<uint32_t>((survey.target_bytes - 1) / options.extent_file_bytes + 1);

  std::vector<Sighting> sightings;
  for (uint32_t index = 0; index < files; ++index) {
    const std::string path = extent_file_path(options.directory, index);
    sightings.push_back(look_at(path));
    const auto& header = sightings.back().header;
    if (!header) continue;
    check_header(*header, index, path, options);
    survey.known_bytes = std::max(survey.known_bytes, header->disk_bytes);
  }
  if (survey.target_bytes < survey.known_bytes) {
    throw std::invalid_argument("the disk " + options.directory + " has " + bytes_text(survey.known_bytes) +
                                " and cannot shrink to " + bytes_text(survey.target_bytes) +
                                ", because blocks may lie anywhere in it; give at least its size, or drain it and " +
                                "start with an empty directory");
  }
  for (uint32_t index = 0; index < files; ++index) {
    const Sighting& sighting = sightings[index];
    SurveyedFile file{.path = extent_file_path(options.directory, index),
                      .header = sighting.header.value_or(ExtentHeader{}),
                      .exists = sighting.exists,
                      .found_bytes = sighting.bytes,
                      .allocated_bytes = sighting.allocated_bytes,
                      .target_bytes = extent_file_length(survey.target_bytes, options.extent_file_bytes, index)};
    file.header.version = kExtentFormatVersion;
    file.header.index = index;
    file.header.disk_id = options.disk_id;
    file.header.extent_file_bytes = options.extent_file_bytes;
    file.header.disk_bytes = survey.known_bytes;
    judge(sighting, extent_file_length(survey.known_bytes, options.extent_file_bytes, index), &file);
    survey.files.push_back(std::move(file));
  }
  return survey;
}

}  // namespace kvstore
