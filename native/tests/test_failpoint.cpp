// Failpoints do what their rules say, at the pass they name, and refuse every rule that they do not understand.
#include "base/failpoint.h"

#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "base/clock.h"
#include "check.h"

namespace kvstore {
namespace {

struct DisarmAtEnd {
  ~DisarmAtEnd() { Failpoints::disarm(); }
};

int pass_disk_write() {
  int error = 0;
  KVSTORE_FAILPOINT_ERROR("disk.write", error);
  return error;
}

std::string why_refused(const char* rules) {
  try {
    Failpoints::arm(rules);
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
  return {};
}

}  // namespace

TEST(failpoint, does_nothing_unless_armed) {
  Failpoints::disarm();
  CHECK(!Failpoints::armed());
  CHECK_EQ(pass_disk_write(), 0);
  KVSTORE_FAILPOINT("write-back.written");
  CHECK_EQ(Failpoints::passes("disk.write"), 0u);
}

TEST(failpoint, leaves_an_error_of_the_callers_own) {
  const DisarmAtEnd disarm;
  Failpoints::arm("disk.write=count");
  int error = ENOSPC;
  KVSTORE_FAILPOINT_ERROR("disk.write", error);
  CHECK_EQ(error, ENOSPC);
}

TEST(failpoint, reports_errors_at_the_passes_named) {
  const DisarmAtEnd disarm;
  Failpoints::arm("disk.write=error:EIO");
  for (int i = 0; i < 3; ++i) CHECK_EQ(pass_disk_write(), EIO);
  Failpoints::arm("disk.write=error:ENOSPC@3");
  for (const int expected : {0, 0, ENOSPC, 0, 0}) CHECK_EQ(pass_disk_write(), expected);
  Failpoints::arm("disk.write=error:EROFS@2+");
  for (const int expected : {0, EROFS, EROFS, EROFS}) CHECK_EQ(pass_disk_write(), expected);
  Failpoints::disarm();
  CHECK_EQ(pass_disk_write(), 0);
}

TEST(failpoint, rules_of_several_names_are_apart) {
  const DisarmAtEnd disarm;
  Failpoints::arm("disk.write=error:EIO@2;disk.sync=error:ENOSPC");
  int error = 0;
  KVSTORE_FAILPOINT_ERROR("disk.sync", error);
  CHECK_EQ(error, ENOSPC);
  CHECK_EQ(pass_disk_write(), 0);
  CHECK_EQ(pass_disk_write(), EIO);
}

TEST(failpoint, counts_passes_of_every_name_while_armed) {
  const DisarmAtEnd disarm;
  Failpoints::arm("recovery.row=count");
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([] {
      for (int k = 0; k < 1'000; ++k) KVSTORE_FAILPOINT("recovery.done");
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK_EQ(Failpoints::passes("recovery.done"), 4'000u);
  CHECK_EQ(Failpoints::passes("recovery.row"), 0u);
  Failpoints::arm("recovery.row=count");
  CHECK_EQ(Failpoints::passes("recovery.done"), 0u);
}

TEST(failpoint, crash_is_a_real_kill) {
  const auto crash_after = [](const char* rules, int passes) {
    return test::ends_with([&] {
      Failpoints::arm(rules);
      for (int i = 0; i < passes; ++i) KVSTORE_FAILPOINT("write-back.written");
    });
  };
  CHECK_EQ(crash_after("write-back.written=crash", 1), SIGKILL);
  CHECK_EQ(crash_after("write-back.written=crash@7", 7), SIGKILL);
  CHECK_EQ(crash_after("write-back.written=crash@7", 6), -3);
  CHECK_EQ(crash_after("write-back.synced=crash", 6), -3);
}

TEST(failpoint, pause_takes_its_time) {
  const DisarmAtEnd disarm;
  Failpoints::arm("read.before=pause:30");
  const uint64_t start_ms = SteadyClock::instance().now_ms();
  KVSTORE_FAILPOINT("read.before");
  CHECK(SteadyClock::instance().now_ms() - start_ms >= 29);
}

// A process that execs reads its environment anew; a fork of this one has it behind it already.
TEST(failpoint, environment_is_read_by_a_new_process) {
  const auto run = [](const char* rules) {
    return test::ends_with([&] {
      close(STDOUT_FILENO);
      setenv("KVSTORE_FAILPOINTS", rules, 1);
      execl("/proc/self/exe", "native_tests", "failpoint.probe_of_the_environment", static_cast<char*>(nullptr));
    });
  };
  CHECK_EQ(run("read.after=crash"), SIGKILL);
  CHECK_EQ(run("read.after=crash@2"), 0);
  CHECK_EQ(run(""), 0);
  CHECK_EQ(run("read.after=explode"), SIGABRT);
}

TEST(failpoint, probe_of_the_environment) { KVSTORE_FAILPOINT("read.after"); }

TEST(failpoint, refuses_nonsense_and_then_changes_nothing) {
  const DisarmAtEnd disarm;
  Failpoints::arm("disk.write=error:EIO");
  CHECK(why_refused("no.such=crash").find("no failpoint of this name") != std::string::npos);
  for (const char* rules : {"disk.write",
                            "=crash",
                            "disk.write=",
                            "disk.write=explode",
                            "disk.write=crash:1",
                            "disk.write=error",
                            "disk.write=error:",
                            "disk.write=error:EWHAT",
                            "disk.write=error:5",
                            "disk.write=pause",
                            "disk.write=pause:x",
                            "disk.write=pause:-1",
                            "disk.write=pause:99999999999",
                            "disk.write=pause:60001",
                            "disk.write=crash@",
                            "disk.write=crash@0",
                            "disk.write=crash@-1",
                            "disk.write=crash@+",
                            "disk.write=crash@1x",
                            "disk.write=count:1",
                            "disk.write=crash@99999999999999999999",
                            "disk.write=crash;disk.write=crash",
                            ";",
                            "disk.write=crash;;",
                            " disk.write=crash",
                            "read.before=error:EIO"}) {
    if (why_refused(rules).empty()) test::fail(__FILE__, __LINE__, std::string("accepted: ") + rules);
  }
  CHECK_EQ(pass_disk_write(), EIO);
}

TEST(failpoint, names_are_distinct_and_described) {
  const std::vector<std::string_view> names = Failpoints::names();
  CHECK_EQ(names.size(), kFailpoints.size());
  for (size_t i = 0; i < names.size(); ++i) {
    CHECK(!kFailpoints[i].where.empty());
    for (size_t k = 0; k < i; ++k) CHECK(names[i] != names[k]);
  }
  bool thrown = false;
  try {
    (void)Failpoints::passes("no.such");
  } catch (const std::invalid_argument&) {
    thrown = true;
  }
  CHECK(thrown);
}

}  // namespace kvstore
