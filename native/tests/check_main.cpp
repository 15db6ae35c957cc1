#include <cstring>

#include "check.h"

int main(int argc, char** argv) {
  using namespace kvstore::test;
  const std::string filter = argc > 1 ? argv[1] : "";
  int passed = 0;
  int failed = 0;
  for (const TestCase& test : registry()) {
    const std::string name = std::string(test.suite) + "." + test.name;
    if (filter == "--list") {
      std::printf("%s\n", name.c_str());
      continue;
    }
    if (name.find(filter) == std::string::npos) continue;
    try {
      test.run();
      std::printf("ok    %s\n", name.c_str());
      ++passed;
    } catch (const std::exception& error) {
      std::printf("FAIL  %s\n      %s\n", name.c_str(), error.what());
      ++failed;
    }
    std::fflush(stdout);
  }
  if (filter != "--list") std::printf("%d passed, %d failed\n", passed, failed);
  return failed == 0 ? 0 : 1;
}
