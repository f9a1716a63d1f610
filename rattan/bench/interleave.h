// Timing of several things against each other: they take turns, so that whatever disturbs the machine hits all
// of them alike, and each figure is a median with its spread.
#pragma once
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace rattan::bench {

struct Timing {
  double median = 0, low = 0, high = 0;  // seconds a call: median, smallest, largest
  int64_t calls = 0;
};

struct Candidate {
  std::function<void()> run;           // one call, finished on return
  std::function<void()> prepare = {};  // before each call, not timed; may be empty
  bool warm = false;                   // was called once already
};

struct Budget {
  double seconds = 3;  // measuring time a candidate, about
  int64_t min_rounds = 3, max_rounds = 200;
  double limit = 0;  // no more timed calls than fit these seconds, whatever min_rounds says, but one; 0: no limit
};

// Two untimed calls of each, then rounds of timed calls, each candidate as often as its share of the budget allows
// and the slow ones in evenly spread rounds. Calls shorter than five milliseconds are timed in batches; of calls
// longer than two seconds the second counts too. Exceptions pass through.
std::vector<Timing> interleave(const std::vector<Candidate>& candidates, const Budget& budget);

Timing summarize(std::vector<double> seconds);

}  // namespace rattan::bench
