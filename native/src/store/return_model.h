// When conversations come back, learned from the requests of the recent past, and what a stored block is worth by it.
//
// The hazard of a return at some age is a curve for each class of gap, times a factor for the turn, times a factor for
// the size at that turn (proportional hazards, Cox 1972). The curves are histograms over ages in half octaves, each
// drawn towards the curve of all classes, and that one towards 1 / age, which ranks blocks as LRU does. Shared blocks
// have a curve for each class of their usual gap, and no factors.
//
// The worth of a block is its Gittins index: the most hits for the space and time it takes that any moment to give up
// on it can promise (Gittins 1979; for caches Beckmann et al., "LHD: improving cache hit rate by maximizing hit
// density", NSDI 2018, which takes the present lifetime where this takes the best one). Ages are in stamps, without
// unit: nothing is tuned to a load.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "store/request_history.h"

namespace kvstore {

class ReturnModel {
 public:
  ReturnModel();  // knows nothing yet: older is worth less

  // Learns from them, or from a sample where they are many, and from nothing before.
  void fit(std::span<const PastRequest> requests, uint64_t now);

  // Returns expected for each stamp that a block is kept, when its request was of this class and is `age` stamps old.
  [[nodiscard]] float value(const ReturnClass& kind, uint64_t age) const;
  [[nodiscard]] uint8_t gap_class(uint64_t gap) const;
  [[nodiscard]] size_t memory_bytes() const { return sizeof(*this); }

 private:
  static constexpr size_t kAges = 96;    // two bins an octave, of equal width
  static constexpr size_t kLevels = 32;  // of the product of factors, in quarter octaves from 1/32 up

  static constexpr size_t kSharedCurves = 16;  // for usual gaps of two octaves each
  static constexpr size_t kCurves = ReturnClass::kGaps + kSharedCurves;

  using Curve = std::array<float, kAges>;

  void fit_gaps(std::span<const PastRequest> requests);
  void fit_curves(std::span<const PastRequest> requests, uint64_t now);
  [[nodiscard]] static size_t curve_of(const ReturnClass& kind);
  [[nodiscard]] static size_t shared_curve(const ReturnClass& kind);
  void fit_like_curves(std::span<const Curve> returns, std::span<const Curve> exposure, std::span<Curve> hazards);
  void fit_factors(std::span<const PastRequest> requests, uint64_t now);
  void index_values();
  [[nodiscard]] static Curve values_of(const Curve& hazards, float weight);
  [[nodiscard]] float factor(const ReturnClass& kind) const;

  std::array<Curve, kCurves> hazards_;     // returns a stamp
  std::array<Curve, kCurves> cumulative_;  // the hazard of all earlier ages
  std::array<float, ReturnClass::kTurns> turn_factors_;
  std::array<std::array<float, ReturnClass::kSizes>, 2> size_factors_;  // at the first turn, and later
  std::array<uint64_t, 2> gap_limits_;                                  // the longest short and middling gap
  std::array<std::array<uint8_t, ReturnClass::kSizes>, ReturnClass::kTurns> levels_;
  std::array<std::array<Curve, kLevels>, ReturnClass::kGaps> values_;
  std::array<Curve, kSharedCurves> shared_values_;
};

}  // namespace kvstore
