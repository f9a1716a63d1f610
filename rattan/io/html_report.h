// A report as one self-contained HTML page: no script, no other file, no network. It reads on a phone (one
// column, plots scale), on a desk (plots side by side), in light and dark, and on paper.
#pragma once
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "rattan/io/svg.h"

namespace rattan {

class HtmlReport {
 public:
  explicit HtmlReport(std::string_view title, std::string_view subtitle = "");

  // Content goes to the section opened last; all text is escaped.
  void section(std::string_view heading);
  void paragraph(std::string_view text);
  void key_values(const std::vector<std::pair<std::string, std::string>>& rows);
  void figures(const std::vector<std::pair<std::string, std::string>>& rows);  // few key figures, shown large
  void table(const std::vector<std::string>& header, const std::vector<std::vector<std::string>>& rows);
  void plots(const std::vector<Plot>& plots);
  void preformatted(std::string_view text, std::string_view caption = "");  // long lines wrap
  void folded(std::string_view summary, std::string_view text);             // preformatted, opened on demand

  std::string html() const;

 private:
  std::string title_, subtitle_, body_;
  bool in_section_ = false;
};

}  // namespace rattan
