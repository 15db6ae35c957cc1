// The extent files of a disk, open: the second half of opening a disk, which creates, extends and repairs.
#pragma once

#include <string>
#include <vector>

#include "disk/extent_survey.h"
#include "disk/file_descriptor.h"

namespace kvstore {

struct ExtentFiles {
  std::vector<FileDescriptor> descriptors;
  std::vector<ExtentHeader> headers;  // as they are on disk
  std::vector<std::string> paths;
  std::vector<DiskDamage> damage;
  bool direct = true;
};

// Makes the directory what the survey wants it to be. What it created or extended is undone when it throws (as
// ExtentDisk's constructor does).
ExtentFiles open_extent_files(const std::string& directory, const ExtentSurvey& survey);

// Writes and syncs the header: 0, or an errno.
[[nodiscard]] int write_extent_header(int fd, const ExtentHeader& header);

}  // namespace kvstore
