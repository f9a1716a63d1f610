// One thing that a benchmark times.
#pragma once
#include <cstdint>

namespace rattan::bench {

class Subject {
 public:
  virtual ~Subject() = default;
  virtual void prepare() {}                      // makes what the next call uses up; not timed
  virtual void run() = 0;                        // one call, finished on return
  virtual double flops() const = 0;              // arithmetic of one call, as the algorithm needs it
  virtual double bytes() const = 0;              // weights and state that one call must read
  virtual int64_t repeats() const { return 1; }  // how often a run does what the two above count
};

}  // namespace rattan::bench
