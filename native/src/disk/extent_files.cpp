#include "disk/extent_files.h"

#include <fcntl.h>
#include <sys/statvfs.h>

#include <cerrno>
#include <system_error>

namespace kvstore {

namespace {

[[noreturn]] void throw_errno(const std::string& what) {
  throw std::system_error(errno, std::generic_category(), what);
}

// Takes back what was done to the files unless all went well.
class Undo {
 public:
  Undo() = default;
  ~Undo() {
    for (const auto& [path, bytes] : extended_) {
      // Should this fail too, the file stays longer, which does no harm.
      [[maybe_unused]] const int ignored = truncate(path.c_str(), static_cast<off_t>(bytes));
    }
    for (const std::string& path : created_) unlink(path.c_str());
  }
  Undo(const Undo&) = delete;
  Undo& operator=(const Undo&) = delete;

  void created(const std::string& path) { created_.push_back(path); }
  void extended(const std::string& path, uint64_t bytes_before) { extended_.emplace_back(path, bytes_before); }
  void dismiss() {
    created_.clear();
    extended_.clear();
  }

 private:
  std::vector<std::string> created_;
  std::vector<std::pair<std::string, uint64_t>> extended_;
};

// Taken from what the file system lacks for all files together, before any of them is touched.
void check_space(const std::string& directory, const ExtentSurvey& survey) {
  uint64_t needed = 0;
  for (const SurveyedFile& file : survey.files) {
    if (file.target_bytes > file.allocated_bytes) needed += file.target_bytes - file.allocated_bytes;
  }
  struct statvfs space;
  if (statvfs(directory.c_str(), &space) != 0) throw_errno("the file system of " + directory + " cannot be examined");
  if ((space.f_flag & ST_RDONLY) != 0) {
    errno = EROFS;
    throw_errno("the disk directory " + directory + " cannot be written; mount it writable");
  }
  const uint64_t available = uint64_t{space.f_bavail} * space.f_frsize;
  if (needed > available) {
    errno = ENOSPC;
    throw_errno("the disk directory " + directory + " needs " + std::to_string(needed) + " bytes more, and has " +
                std::to_string(available) + " available; free some, or choose a smaller disk");
  }
}

int transfer_header(int fd, HeaderGranule* granule, bool write) {
  const ssize_t moved = write ? pwrite(fd, granule->bytes.data(), granule->bytes.size(), 0)
                              : pread(fd, granule->bytes.data(), granule->bytes.size(), 0);
  if (moved < 0) return errno;
  return moved == static_cast<ssize_t>(granule->bytes.size()) ? 0 : EIO;
}

// Some file systems refuse O_DIRECT at once, some (those that want larger blocks) at the first transfer.
FileDescriptor open_file(const SurveyedFile& file, bool* direct) {
  const int flags = O_RDWR | O_CLOEXEC | (file.exists ? 0 : O_CREAT | O_EXCL);
  FileDescriptor opened(open(file.path.c_str(), flags | O_DIRECT, S_IRUSR | S_IWUSR));
  if (opened.valid()) {
    HeaderGranule granule;
    const bool readable = file.found_bytes >= granule.bytes.size();
    if (!readable || transfer_header(opened.get(), &granule, false) != EINVAL) return opened;
  } else if (errno != EINVAL) {
    throw_errno("the extent file " + file.path + " cannot be opened for writing");
  }
  *direct = false;
  // It may be there now: a file system that refuses O_DIRECT may have created it all the same.
  opened = FileDescriptor(open(file.path.c_str(), O_RDWR | O_CLOEXEC | O_CREAT, S_IRUSR | S_IWUSR));
  if (!opened.valid()) throw_errno("the extent file " + file.path + " cannot be opened for writing");
  return opened;
}

void allocate(int fd, const std::string& path, uint64_t bytes) {
  int result;
  do {
    result = fallocate(fd, 0, 0, static_cast<off_t>(bytes));
  } while (result != 0 && errno == EINTR);
  if (result != 0 && errno == EOPNOTSUPP) result = ftruncate(fd, static_cast<off_t>(bytes));
  if (result != 0) throw_errno("the extent file " + path + " cannot have " + std::to_string(bytes) + " bytes");
}

void sync_directory(const std::string& directory) {
  const FileDescriptor opened(open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!opened.valid() || fsync(opened.get()) != 0) throw_errno("the disk directory " + directory + " cannot be synced");
}

void check_header_written(int error, const std::string& path) {
  errno = error;
  if (error != 0) throw_errno("the header of the extent file " + path + " cannot be written");
}

void open_one(const SurveyedFile& file, Undo* undo, ExtentFiles* files) {
  // Before it is opened, because a failure in between must not leave it behind.
  if (!file.exists) undo->created(file.path);
  FileDescriptor opened = open_file(file, &files->direct);
  if (file.found_bytes < file.target_bytes) {
    if (file.exists) undo->extended(file.path, file.found_bytes);
    allocate(opened.get(), file.path, file.target_bytes);
    // Its length must be there for good before a header says so.
    if (fsync(opened.get()) != 0) throw_errno("the extent file " + file.path + " cannot be synced");
  } else if (file.allocated_bytes < file.target_bytes) {
    allocate(opened.get(), file.path, file.target_bytes);  // copied with holes, which could fail to be filled later
  }
  if (file.write_header) check_header_written(write_extent_header(opened.get(), file.header), file.path);
  files->descriptors.push_back(std::move(opened));
  files->headers.push_back(file.header);
  files->paths.push_back(file.path);
  if (!file.damage.empty()) {
    DiskRange lost = file.header.lost;
    if (lost.bytes > 0) lost.offset += file.header.index * file.header.extent_file_bytes;
    files->damage.push_back({file.path, file.header.index, file.damage, lost});
  }
}

}  // namespace

int write_extent_header(int fd, const ExtentHeader& header) {
  HeaderGranule granule = encode_extent_header(header);
  const int error = transfer_header(fd, &granule, true);
  if (error != 0) return error;
  return fdatasync(fd) == 0 ? 0 : errno;
}

ExtentFiles open_extent_files(const std::string& directory, const ExtentSurvey& survey) {
  check_space(directory, survey);
  ExtentFiles files;
  Undo undo;
  for (const SurveyedFile& file : survey.files) open_one(file, &undo, &files);
  sync_directory(directory);
  undo.dismiss();
  if (survey.known_bytes == survey.target_bytes) return files;
  // Only now that every file is there may a header demand it; the largest size that any of them names counts.
  for (size_t index = 0; index < files.headers.size(); ++index) {
    files.headers[index].disk_bytes = survey.target_bytes;
    check_header_written(write_extent_header(files.descriptors[index].get(), files.headers[index]), files.paths[index]);
  }
  return files;
}

}  // namespace kvstore
