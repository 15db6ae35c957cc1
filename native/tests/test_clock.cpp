#include "base/clock.h"

#include "base/status.h"
#include "check.h"

using kvstore::ManualClock;
using kvstore::Status;
using kvstore::SteadyClock;

namespace {

TEST(clock, steady_clock_goes_forward) {
  const SteadyClock& clock = SteadyClock::instance();
  const uint64_t start = clock.now_ns();
  uint64_t last = start;
  while (last < start + 1'000'000) {
    const uint64_t now = clock.now_ns();
    CHECK(now >= last);
    last = now;
  }
  CHECK(clock.now_ms() >= start / 1'000'000);
}

TEST(clock, manual_clock_moves_when_told) {
  ManualClock clock;
  const uint64_t start = clock.now_ns();
  CHECK_EQ(clock.now_ns(), start);
  clock.advance_ms(1500);
  CHECK_EQ(clock.now_ns(), start + 1'500'000'000);
  CHECK_EQ(clock.now_ms(), start / 1'000'000 + 1500);
}

TEST(clock, the_calendar_of_a_manual_clock_goes_on_over_a_restart) {
  ManualClock before;
  before.advance_ms(5'000);
  const ManualClock after(before.unix_ms());
  CHECK_EQ(after.unix_ms(), ManualClock().unix_ms() + 5'000);
  CHECK_EQ(after.now_ns(), ManualClock().now_ns());
}

TEST(clock, the_machine_knows_the_calendar) { CHECK(SteadyClock::instance().unix_ms() > 1'700'000'000'000); }

TEST(status, every_value_of_the_wire_has_a_name) {
  CHECK_EQ(std::string(kvstore::status_name(Status::kOk)), "OK");
  CHECK_EQ(std::string(kvstore::status_name(Status::kNotDurable)), "NOT_DURABLE");
  std::vector<std::string> names;
  for (int value = 0; value <= static_cast<int>(kvstore::kLastStatus); ++value) {
    const std::string name = kvstore::status_name(static_cast<Status>(value));
    for (const std::string& other : names) CHECK(name != other);
    CHECK(name != "UNKNOWN");
    names.push_back(name);
  }
  CHECK_EQ(std::string(kvstore::status_name(static_cast<Status>(200))), "UNKNOWN");
}

}  // namespace
