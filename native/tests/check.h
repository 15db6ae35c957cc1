// A test harness in one header: the product builds from a bare compiler, and so do its tests.
//
//   TEST(extent_allocator, merges_neighbours) { CHECK(a == b); CHECK_EQ(x, y); CHECK_ABORTS(f()); }
//
// main() (check_main.cpp) runs all tests, or those whose "suite.name" contains argv[1]; prints one line each; exits
// non-zero if any failed. `--list` names them.
#pragma once

#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <iostream>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace kvstore::test {

struct Failure : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct TestCase {
  const char* suite;
  const char* name;
  void (*run)();
};

inline std::vector<TestCase>& registry() {
  static std::vector<TestCase> tests;
  return tests;
}

struct Registrar {
  Registrar(const char* suite, const char* name, void (*run)()) { registry().push_back({suite, name, run}); }
};

[[noreturn]] inline void fail(const char* file, int line, const std::string& what) {
  std::ostringstream out;
  out << file << ':' << line << ": " << what;
  throw Failure(out.str());
}

template <class A, class B>
void check_equal(const A& a, const B& b, const char* text, const char* file, int line) {
  if (a == b) return;
  std::ostringstream out;
  out << text << " (left " << a << ", right " << b << ')';
  fail(file, line, out.str());
}

// How a process ends that runs `action`: the signal, or its exit status as a negative number, -3 when the action just
// returns. It runs in a child, which leaves no message and no core file.
template <class Action>
int ends_with(Action action) {
  std::fflush(nullptr);
  const pid_t child = fork();
  if (child == 0) {
    const rlimit no_core{0, 0};
    setrlimit(RLIMIT_CORE, &no_core);
    close(STDERR_FILENO);
    signal(SIGABRT, SIG_DFL);
    action();
    _exit(3);
  }
  int status = 0;
  const bool ended = child > 0 && waitpid(child, &status, 0) == child;
  if (!ended) fail(__FILE__, __LINE__, "a child process could not be run");
  return WIFSIGNALED(status) ? WTERMSIG(status) : -WEXITSTATUS(status);
}

}  // namespace kvstore::test

#define TEST(suite, name)                                                                            \
  static void suite##_##name();                                                                      \
  static const ::kvstore::test::Registrar suite##_##name##_registrar{#suite, #name, suite##_##name}; \
  static void suite##_##name()

#define CHECK(condition)                                                     \
  do {                                                                       \
    if (!(condition)) ::kvstore::test::fail(__FILE__, __LINE__, #condition); \
  } while (false)

#define CHECK_EQ(a, b) ::kvstore::test::check_equal((a), (b), #a " == " #b, __FILE__, __LINE__)

// The statement must trip a KVSTORE_ASSERT.
#define CHECK_ABORTS(statement) CHECK_EQ(::kvstore::test::ends_with([&] { statement; }), SIGABRT)
