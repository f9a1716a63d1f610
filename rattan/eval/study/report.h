// A study as one table, for terminals and Markdown, as JSON, and as plots.
#pragma once
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <utility>
#include <vector>

#include "rattan/eval/study/results.h"
#include "rattan/io/svg.h"

namespace rattan::study {

std::string to_table(const Study& study, const Results& results);  // Markdown that is aligned, so it reads as it is
std::string to_findings(const Results& results);                   // the same of the expectations; "" if there are none
std::string to_markdown(const Study& study, const Results& results);  // the whole report; plots by their file's name
nlohmann::json to_json(const Study& study, const Results& results);
std::vector<std::pair<std::string, Plot>> plots(const Study& study, const Results& results);  // file name, plot

// study.md, study.json and the plots in the study's folder, each whole or not at all. Equal results give equal files.
void write_reports(const Study& study, const Results& results);

// Rows of cells as an aligned Markdown table.
std::string aligned(const std::vector<std::vector<std::string>>& rows);

}  // namespace rattan::study
