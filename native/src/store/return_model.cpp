#include "store/return_model.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace kvstore {

namespace {

// Strength of what is believed beforehand, in returns: for a curve that it is like all others, for a factor that it is
// 1, for the curve of all that it is kPriorReturn / age.
constexpr float kCurveBelief = 5;
constexpr float kFactorBelief = 4;
constexpr float kPoolBelief = 1;
constexpr float kPriorReturn = 0.3F;

constexpr int kFitRounds = 3;
constexpr int kLowestLevel = -20;  // quarter octaves

// Ages 0 and 1 share the first bin; bin 2k is [2^k, 1.5 * 2^k), bin 2k + 1 the rest of the octave.
size_t bin_of(uint64_t age) {
  if (age < 2) return 0;
  const int octave = std::bit_width(age) - 1;
  return static_cast<size_t>(2 * octave) + ((age >> (octave - 1)) & 1);
}

float start_of(size_t bin) { return bin == 0 ? 0 : std::ldexp(2.0F + static_cast<float>(bin & 1), int(bin / 2) - 1); }
float width_of(size_t bin) { return start_of(bin + 1) - start_of(bin); }

bool later(const ReturnClass& kind) { return kind.turn > 0; }

// A fit looks at no more requests than this, evenly spread, so that nobody waits long for it.
constexpr size_t kRequestsAFitMax = 8192;

template <class Visit>
void visit_sample(std::span<const PastRequest> requests, Visit visit) {
  const size_t stride = requests.size() / kRequestsAFitMax + 1;
  for (size_t at = 0; at < requests.size(); at += stride) visit(requests[at]);
}

// How long a conversation has been away, or was until it came back.
struct Absence {
  size_t bin;
  float into_bin;
  bool returned;

  Absence(const PastRequest& request, uint64_t now) : returned(request.returned_after > 0) {
    const uint64_t age = returned ? request.returned_after : now - std::min(now, request.stamp);
    bin = bin_of(age);
    into_bin = static_cast<float>(age) - start_of(bin);
  }
};

}  // namespace

ReturnModel::ReturnModel() { fit({}, 0); }

void ReturnModel::fit(std::span<const PastRequest> requests, uint64_t now) {
  turn_factors_.fill(1);
  size_factors_.fill({1, 1, 1, 1, 1, 1, 1, 1});
  fit_gaps(requests);
  for (int round = 0; round < kFitRounds; ++round) {
    fit_curves(requests, now);
    fit_factors(requests, now);
  }
  index_values();
}

// A third of the returns is short, a third middling.
void ReturnModel::fit_gaps(std::span<const PastRequest> requests) {
  std::array<size_t, kAges> returns{};
  size_t total = 0;
  visit_sample(requests, [&](const PastRequest& request) {
    if (request.returned_after == 0 || request.kind.shared()) return;
    ++returns[bin_of(request.returned_after)];
    ++total;
  });
  size_t seen = 0;
  gap_limits_.fill(0);
  for (size_t bin = 0; bin < kAges; ++bin) {
    seen += returns[bin];
    for (size_t limit = 0; limit < gap_limits_.size(); ++limit) {
      if (seen * 3 <= total * (limit + 1)) gap_limits_[limit] = static_cast<uint64_t>(start_of(bin + 1)) - 1;
    }
  }
}

void ReturnModel::fit_curves(std::span<const PastRequest> requests, uint64_t now) {
  std::array<Curve, kCurves> returns{};
  std::array<Curve, kCurves> exposure{};  // stamps at risk, times the factors
  std::array<Curve, kCurves> ended{};     // factors of those whose absence ended in the bin
  visit_sample(requests, [&](const PastRequest& request) {
    const Absence absence(request, now);
    const float weight = factor(request.kind);
    const size_t curve = curve_of(request.kind);
    if (absence.returned) ++returns[curve][absence.bin];
    exposure[curve][absence.bin] += weight * absence.into_bin;
    ended[curve][absence.bin] += weight;
  });
  for (size_t curve = 0; curve < kCurves; ++curve) {
    float beyond = 0;
    for (size_t bin = kAges; bin-- > 0; beyond += ended[curve][bin]) exposure[curve][bin] += beyond * width_of(bin);
  }
  const auto fit_part = [&](size_t first, size_t count) {
    fit_like_curves(std::span(returns).subspan(first, count), std::span(exposure).subspan(first, count),
                    std::span(hazards_).subspan(first, count));
  };
  fit_part(0, ReturnClass::kGaps);
  fit_part(ReturnClass::kGaps, kSharedCurves);
  for (size_t curve = 0; curve < kCurves; ++curve) {
    float sum = 0;
    for (size_t bin = 0; bin < kAges; ++bin) {
      cumulative_[curve][bin] = sum;
      sum += hazards_[curve][bin] * width_of(bin);
    }
  }
}

// Where little was seen of a curve it is like that of all; and where little was seen at all the hazard goes on from the
// age before as 1 / age does.
void ReturnModel::fit_like_curves(std::span<const Curve> returns, std::span<const Curve> exposure,
                                  std::span<Curve> hazards) {
  float all = kPriorReturn;
  for (size_t bin = 0; bin < kAges; ++bin) {
    const float believed = all * start_of(std::max<size_t>(bin, 1)) / start_of(bin + 1);
    float all_returns = kPoolBelief;
    float all_exposure = kPoolBelief / believed;
    for (size_t curve = 0; curve < hazards.size(); ++curve) {
      all_returns += returns[curve][bin];
      all_exposure += exposure[curve][bin];
    }
    all = all_returns / all_exposure;
    for (size_t curve = 0; curve < hazards.size(); ++curve) {
      hazards[curve][bin] = (returns[curve][bin] + kCurveBelief) / (exposure[curve][bin] + kCurveBelief / all);
    }
  }
}

// A factor is the returns there were over those that all else would explain.
void ReturnModel::fit_factors(std::span<const PastRequest> requests, uint64_t now) {
  std::array<std::array<float, 2>, ReturnClass::kTurns> turns{};
  std::array<std::array<std::array<float, 2>, ReturnClass::kSizes>, 2> sizes{};
  visit_sample(requests, [&](const PastRequest& request) {
    const ReturnClass& kind = request.kind;
    if (kind.shared()) return;
    const Absence absence(request, now);
    const float base = cumulative_[kind.gap][absence.bin] + hazards_[kind.gap][absence.bin] * absence.into_bin;
    const float turn_factor = turn_factors_[kind.turn];
    const float size_factor = size_factors_[later(kind)][kind.size];
    turns[kind.turn][0] += absence.returned;
    turns[kind.turn][1] += base * size_factor;
    sizes[later(kind)][kind.size][0] += absence.returned;
    sizes[later(kind)][kind.size][1] += base * turn_factor;
  });
  const auto ratio = [](const std::array<float, 2>& counts) {
    return (counts[0] + kFactorBelief) / (counts[1] + kFactorBelief);
  };
  for (size_t turn = 0; turn < turns.size(); ++turn) turn_factors_[turn] = ratio(turns[turn]);
  for (size_t side = 0; side < sizes.size(); ++side) {
    for (size_t size = 0; size < sizes[side].size(); ++size) size_factors_[side][size] = ratio(sizes[side][size]);
  }
}

void ReturnModel::index_values() {
  for (uint8_t turn = 0; turn < ReturnClass::kTurns; ++turn) {
    for (uint8_t size = 0; size < ReturnClass::kSizes; ++size) {
      const long level = std::lround(std::log2(factor({turn, size, 0})) * 4) - kLowestLevel;
      levels_[turn][size] = static_cast<uint8_t>(std::clamp(level, 0L, static_cast<long>(kLevels) - 1));
    }
  }
  for (size_t gap = 0; gap < ReturnClass::kGaps; ++gap) {
    for (size_t level = 0; level < kLevels; ++level) {
      const int quarters = static_cast<int>(level) + kLowestLevel;
      values_[gap][level] = values_of(hazards_[gap], std::exp2(static_cast<float>(quarters) / 4));
    }
  }
  for (size_t curve = 0; curve < kSharedCurves; ++curve) {
    shared_values_[curve] = values_of(hazards_[ReturnClass::kGaps + curve], 1);
  }
}

// From the last age to the first: the best moment to give up is never before a later stretch that is worth more than
// what comes before it, so such a stretch is merged into its predecessor.
ReturnModel::Curve ReturnModel::values_of(const Curve& hazards, float weight) {
  struct Stretch {
    float hits, cost, survival;
  };
  Curve values;
  std::array<Stretch, kAges> stretches;
  size_t open = 0;
  for (size_t bin = kAges; bin-- > 0;) {
    const float hazard = hazards[bin] * weight;
    const float returns = -std::expm1(-hazard * width_of(bin));
    Stretch stretch{returns, returns / hazard, 1 - returns};
    while (open > 0 && stretches[open - 1].hits * stretch.cost > stretch.hits * stretches[open - 1].cost) {
      const Stretch& after = stretches[--open];
      stretch = {stretch.hits + stretch.survival * after.hits, stretch.cost + stretch.survival * after.cost,
                 stretch.survival * after.survival};
    }
    stretches[open++] = stretch;
    values[bin] = stretch.hits / stretch.cost;
  }
  return values;
}

float ReturnModel::factor(const ReturnClass& kind) const {
  return kind.shared() ? 1 : turn_factors_[kind.turn] * size_factors_[later(kind)][kind.size];
}

size_t ReturnModel::curve_of(const ReturnClass& kind) {
  return kind.shared() ? ReturnClass::kGaps + shared_curve(kind) : kind.gap;
}

size_t ReturnModel::shared_curve(const ReturnClass& kind) { return std::min<size_t>(kind.size / 2, kSharedCurves - 1); }

float ReturnModel::value(const ReturnClass& kind, uint64_t age) const {
  const size_t bin = std::min(bin_of(age), kAges - 2);
  const Curve& values =
      kind.shared() ? shared_values_[shared_curve(kind)] : values_[kind.gap][levels_[kind.turn][kind.size]];
  const float into_bin = std::min(1.0F, (static_cast<float>(age) - start_of(bin)) / width_of(bin));
  return values[bin] + (values[bin + 1] - values[bin]) * into_bin;
}

uint8_t ReturnModel::gap_class(uint64_t gap) const { return gap <= gap_limits_[0] ? 1 : gap <= gap_limits_[1] ? 2 : 3; }

}  // namespace kvstore
