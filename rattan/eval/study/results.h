// What the runs of a study say together: means with intervals over seeds, differences seed by seed, expectations.
#pragma once
#include <optional>
#include <string>
#include <vector>

#include "rattan/eval/study/interval.h"
#include "rattan/eval/study/runner.h"

namespace rattan::study {

// Over the runs that are finished and did not diverge. A metric of the configuration has n = 1.
Interval over_seeds(const Study& study, const ArmRuns& arm, const std::string& metric);

// The mean of a - b over the seeds both have, with the interval of these differences: what differs from seed to seed
// in both alike, such as the order of the data, cancels.
Interval difference(const Study& study, const ArmRuns& a, const ArmRuns& b, const std::string& metric);

enum class Verdict { holds, fails, open };  // open: runs are missing

struct Finding {
  std::string text;   // what was expected
  std::string found;  // what is there
  Verdict verdict = Verdict::open;
};

struct Results {
  std::vector<ArmRuns> arms;  // as Study::arms
  std::vector<Finding> findings;
  bool complete = false;  // every run of every arm is finished
  int64_t failed() const;
  const ArmRuns& of(const std::string& arm) const;
};

Results results(const Study& study);  // from the study's folder; errors as collect

// "0.1234 ± 0.0056", or without an interval where there is none.
std::string show(const std::string& metric, const Interval& value);
// The same with its sign: "+0.0079 ± 0.0012".
std::string show_difference(const std::string& metric, const Interval& value);

}  // namespace rattan::study
