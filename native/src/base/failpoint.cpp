#include "base/failpoint.h"

#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <string>

namespace kvstore {

namespace {

struct NamedError {
  std::string_view name;
  int number;
};

constexpr NamedError kErrors[] = {
    {"EIO", EIO},       {"ENOSPC", ENOSPC},       {"EDQUOT", EDQUOT}, {"EROFS", EROFS},
    {"ENODEV", ENODEV}, {"ENXIO", ENXIO},         {"ENOMEM", ENOMEM}, {"EBADF", EBADF},
    {"EINVAL", EINVAL}, {"ETIMEDOUT", ETIMEDOUT}, {"ESTALE", ESTALE},
};

constexpr int kPauseMsMax = 60'000;

enum class Action { kNone, kCount, kCrash, kError, kPause };

struct Rule {
  Action action = Action::kNone;
  int value = 0;  // errno, or milliseconds
  uint64_t first_pass = 1;
  uint64_t last_pass = UINT64_MAX;
};

struct Armed {
  std::array<Rule, kFailpoints.size()> rules{};
  std::array<uint64_t, kFailpoints.size()> passes{};
};

std::mutex armed_mutex;
Armed armed_rules;
std::once_flag environment_read;  // or overridden by a call of arm

[[noreturn]] void refuse(std::string_view rule, const std::string& why) {
  throw std::invalid_argument("failpoint rule \"" + std::string(rule) + "\": " + why);
}

std::optional<size_t> find(std::string_view name) {
  for (size_t index = 0; index < kFailpoints.size(); ++index) {
    if (kFailpoints[index].name == name) return index;
  }
  return std::nullopt;
}

template <class Number>
std::optional<Number> parse_number(std::string_view text) {
  Number number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return number;
}

// Takes what follows the first `separator` off `text`.
std::optional<std::string_view> split_off(std::string_view* text, char separator) {
  const size_t at = text->find(separator);
  if (at == std::string_view::npos) return std::nullopt;
  const std::string_view rest = text->substr(at + 1);
  *text = text->substr(0, at);
  return rest;
}

void parse_passes(std::string_view text, std::string_view passes, Rule* rule) {
  const bool onwards = !passes.empty() && passes.back() == '+';
  if (onwards) passes.remove_suffix(1);
  const auto number = parse_number<uint64_t>(passes);
  if (!number || *number == 0) refuse(text, "after '@' comes the number of a pass, from 1, or such a number and '+'");
  rule->first_pass = *number;
  rule->last_pass = onwards ? UINT64_MAX : *number;
}

int parse_error(std::string_view text, std::string_view name) {
  std::string known;
  for (const NamedError& error : kErrors) {
    if (error.name == name) return error.number;
    known += ' ';
    known += error.name;
  }
  refuse(text, "this errno is not known; there are" + known);
}

void parse_action(std::string_view text, std::string_view action, bool can_fail, Rule* rule) {
  const auto argument = split_off(&action, ':');
  if (action == "crash" && !argument) {
    rule->action = Action::kCrash;
  } else if (action == "count" && !argument) {
    rule->action = Action::kCount;
  } else if (action == "error" && argument) {
    if (!can_fail) refuse(text, "this place cannot report an error");
    rule->action = Action::kError;
    rule->value = parse_error(text, *argument);
  } else if (action == "pause" && argument) {
    const auto pause_ms = parse_number<int>(*argument);
    if (!pause_ms || *pause_ms < 0 || *pause_ms > kPauseMsMax) refuse(text, "a pause takes 0 to 60000 milliseconds");
    rule->action = Action::kPause;
    rule->value = *pause_ms;
  } else {
    refuse(text, "an action is one of crash, error:ERRNO, pause:MILLISECONDS and count");
  }
}

void parse_rule(std::string_view text, Armed* armed) {
  std::string_view name = text;
  const auto what = split_off(&name, '=');
  if (!what) refuse(text, "expected name=action");
  const auto index = find(name);
  if (!index) refuse(text, "there is no failpoint of this name");
  Rule& rule = armed->rules[*index];
  if (rule.action != Action::kNone) refuse(text, "this name has a rule already");
  std::string_view action = *what;
  if (const auto passes = split_off(&action, '@')) parse_passes(text, *passes, &rule);
  parse_action(text, action, kFailpoints[*index].can_fail, &rule);
}

Armed parse(std::string_view rules) {
  Armed armed;
  while (!rules.empty()) {
    std::string_view rule = rules;
    rules = split_off(&rule, ';').value_or("");
    parse_rule(rule, &armed);
  }
  return armed;
}

[[noreturn]] void crash() {
  kill(getpid(), SIGKILL);
  std::abort();  // never reached: the signal is delivered before kill returns
}

}  // namespace

void Failpoints::apply(std::string_view rules) {
  const Armed armed = parse(rules);
  const std::lock_guard lock(armed_mutex);
  armed_rules = armed;
  state_.store(rules.empty() ? State::kIdle : State::kArmed, std::memory_order_relaxed);
}

void Failpoints::arm(std::string_view rules) {
  std::call_once(environment_read, [] {});
  apply(rules);
}

void Failpoints::apply_environment() {
  const char* rules = std::getenv("KVSTORE_FAILPOINTS");
  try {
    apply(rules != nullptr ? rules : "");
  } catch (const std::invalid_argument& error) {
    // A test that believes to have armed something must not go on.
    std::fprintf(stderr, "kvstore: KVSTORE_FAILPOINTS: %s\n", error.what());
    std::abort();
  }
}

std::vector<std::string_view> Failpoints::names() {
  std::vector<std::string_view> names;
  for (const FailpointName& failpoint : kFailpoints) names.push_back(failpoint.name);
  return names;
}

uint64_t Failpoints::passes(std::string_view name) {
  const auto index = find(name);
  if (!index) throw std::invalid_argument("there is no failpoint \"" + std::string(name) + '"');
  const std::lock_guard lock(armed_mutex);
  return armed_rules.passes[*index];
}

int Failpoints::pass(size_t index) {
  std::call_once(environment_read, apply_environment);
  Rule rule;
  {
    const std::lock_guard lock(armed_mutex);
    if (state_.load(std::memory_order_relaxed) != State::kArmed) return 0;
    const uint64_t pass = ++armed_rules.passes[index];
    rule = armed_rules.rules[index];
    if (pass < rule.first_pass || pass > rule.last_pass) return 0;
  }
  if (rule.action == Action::kCrash) crash();
  // Waiting for nothing is the point here: a test wants this thread to be late.
  if (rule.action == Action::kPause) poll(nullptr, 0, rule.value);
  return rule.action == Action::kError ? rule.value : 0;
}

}  // namespace kvstore
