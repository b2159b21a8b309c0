#include "test/levels.h"

#include <cstdio>
#include <cstdlib>
#include <map>
#include <set>

#include "lib/error.h"

namespace mbconv::test {
namespace {

struct Skipped {
  int cases = 0;
  std::set<std::string> variants;
};

std::map<Isa, Skipped>& skipped() {
  static std::map<Isa, Skipped> all;
  return all;
}

std::string_view variable(const char* name) {
  const char* value = std::getenv(name);
  return value != nullptr ? value : "";
}

Isa parse(const char* variable, std::string_view wanted) {
  for (const Isa isa : kIsaLevels) {
    if (name(isa) == wanted) return isa;
  }
  throw Error(variable, ": unknown ISA level '", wanted, "'");
}

// Prints the summary at the end of the run.
struct SkipReporter : doctest::IReporter {
  explicit SkipReporter(const doctest::ContextOptions&) {}
  void test_run_end(const doctest::TestRunStats&) override {
    const std::string summary = skipped_summary();
    if (!summary.empty()) std::printf("%s\n", summary.c_str());
  }
  void report_query(const doctest::QueryData&) override {}
  void test_run_start() override {}
  void test_case_start(const doctest::TestCaseData&) override {}
  void test_case_reenter(const doctest::TestCaseData&) override {}
  void test_case_end(const doctest::CurrentTestCaseStats&) override {}
  void test_case_exception(const doctest::TestCaseException&) override {}
  void subcase_start(const doctest::SubcaseSignature&) override {}
  void subcase_end() override {}
  void log_assert(const doctest::AssertData&) override {}
  void log_message(const doctest::MessageData&) override {}
  void test_case_skipped(const doctest::TestCaseData&) override {}
};
REGISTER_LISTENER("skips", 1, SkipReporter);

TEST_CASE("levels: those that MBCONV_REQUIRE_ISA demands are compiled in") {
  const std::string_view required = variable("MBCONV_REQUIRE_ISA");
  if (required.empty()) return;
  for (const Isa isa : kIsaLevels) {
    CAPTURE(std::string(name(isa)));
    CHECK((is_compiled(isa) || isa > parse("MBCONV_REQUIRE_ISA", required)));
  }
}

}  // namespace

Decision decide(Isa level, Isa host, std::string_view only, std::string_view required) {
  if (!only.empty() && parse("MBCONV_TEST_LEVEL", only) != level) return Decision::filter;
  const bool demanded = !required.empty() && parse("MBCONV_REQUIRE_ISA", required) >= level;
  if (level <= host) return Decision::run;
  return demanded ? Decision::fail : Decision::skip;
}

Decision decide(Isa level, std::string_view variant) {
  // Every host has the lowest level alone, where another is not compiled in.
  const Isa host = is_compiled(level) ? host_isa() : Isa::generic;
  const Decision decision =
      decide(level, host, variable("MBCONV_TEST_LEVEL"), variable("MBCONV_REQUIRE_ISA"));
  if (decision == Decision::skip) {
    Skipped& s = skipped()[level];
    ++s.cases;
    s.variants.insert(std::string(variant));
  }
  return decision;
}

std::string skipped_summary() {
  std::string line;
  for (const auto& [level, s] : skipped()) {
    line += line.empty() ? "not run here: " : "; ";
    line += std::to_string(s.cases) + " cases of level " + std::string(name(level)) +
            (is_compiled(level) ? " (this CPU lacks it):" : " (not compiled in):");
    for (const std::string& variant : s.variants) line += " " + variant;
  }
  return line;
}

bool small_run() {
  return !variable("MBCONV_TEST_SMALL").empty();
}

}  // namespace mbconv::test
