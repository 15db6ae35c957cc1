// An array that grows a chunk at a time: its elements never move, and growing never copies what is there.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

namespace kvstore {

// Growing needs the owner's lock. Where `max_elements` was given to the constructor, a thread that was told of an
// element by another may use it while a third one grows the array: the chunk directory is never reallocated.
template <class T>
class ChunkedArray {
 public:
  static constexpr uint32_t kChunkElements = 4096;

  explicit ChunkedArray(uint64_t max_elements = 0) {
    chunks_.reserve((max_elements + kChunkElements - 1) / kChunkElements);
  }

  // data() rather than operator[]: it does not read the vector's size, which a growing thread writes.
  [[nodiscard]] T& operator[](uint32_t index) { return chunks_.data()[index / kChunkElements][index % kChunkElements]; }
  [[nodiscard]] const T& operator[](uint32_t index) const {
    return chunks_.data()[index / kChunkElements][index % kChunkElements];
  }

  [[nodiscard]] uint64_t size() const { return chunks_.size() * uint64_t{kChunkElements}; }
  void grow() { chunks_.push_back(std::make_unique<T[]>(kChunkElements)); }
  [[nodiscard]] size_t memory_bytes() const { return size() * sizeof(T) + chunks_.capacity() * sizeof(chunks_[0]); }

 private:
  std::vector<std::unique_ptr<T[]>> chunks_;
};

}  // namespace kvstore
