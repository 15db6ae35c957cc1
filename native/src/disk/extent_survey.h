// What lies in a disk directory, compared with what should: the first half of opening a disk, which changes nothing.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "disk/extent_disk.h"
#include "disk/extent_header.h"

namespace kvstore {

// Bytes of file `index` of a disk of this size; 0 when the disk ends before it.
[[nodiscard]] uint64_t extent_file_length(uint64_t disk_bytes, uint64_t extent_file_bytes, uint32_t index);
[[nodiscard]] std::string extent_file_path(const std::string& directory, uint32_t index);

struct SurveyedFile {
  std::string path;
  ExtentHeader header;  // as found, or as it must be written; `lost` covers all that was ever lost
  bool exists = false;
  bool write_header = false;
  uint64_t found_bytes = 0;      // its length
  uint64_t allocated_bytes = 0;  // of the file system
  uint64_t target_bytes = 0;
  std::string damage{};  // one line; empty: none
};

struct ExtentSurvey {
  uint64_t known_bytes = 0;   // size of the disk before this opening; 0: a new one
  uint64_t target_bytes = 0;  // and after it
  std::vector<SurveyedFile> files;
};

// Throws as ExtentDisk's constructor does.
ExtentSurvey survey_extents(const ExtentDiskOptions& options);

}  // namespace kvstore
