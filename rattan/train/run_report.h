// report.html of a run folder, made from its files.
#pragma once
#include "rattan/train/run.h"

namespace rattan::train {

// Reads metrics.jsonl and samples.txt of spec.folder and writes report.html beside them.
void write_report(const RunSpec& spec, const FitConfig& fit);

}  // namespace rattan::train
