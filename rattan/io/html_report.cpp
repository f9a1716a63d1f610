#include "rattan/io/html_report.h"

#include <fmt/core.h>

#include "rattan/io/markup.h"

namespace rattan {
namespace html_report_file {

constexpr const char* kStyle = R"css(
:root{color-scheme:light dark;--ink:#1d2125;--soft:#5b646d;--line:#d9dde1;--page:#fff;--card:#f6f7f8}
@media(prefers-color-scheme:dark){:root{--ink:#e3e6e8;--soft:#9aa4ad;--line:#3a4046;--page:#16181a;--card:#1f2326}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:70rem;padding:1.2rem clamp(.8rem,3vw,2rem) 3rem;background:var(--page);color:var(--ink);
font:16px/1.5 system-ui,sans-serif}
h1{font-size:1.6rem;line-height:1.2;margin:.4em 0 .1em}h2{font-size:1.15rem;margin:2.2em 0 .6em;
border-bottom:1px solid var(--line);padding-bottom:.2em}
.subtitle,figcaption,dt,th{color:var(--soft)}.subtitle{margin:0}
.figures{display:grid;grid-template-columns:repeat(auto-fit,minmax(8.5rem,1fr));gap:.7rem;margin:1rem 0;padding:0}
.figures div{background:var(--card);border-radius:.4rem;padding:.6rem .8rem}
.figures dt{font-size:.85rem}.figures dd{margin:0;font-size:1.35rem;font-weight:600;overflow-wrap:anywhere}
.plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,22rem),1fr));gap:1.2rem}
figure{margin:0 0 1rem}svg{display:block;width:100%;height:auto}
.wide{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums}
th,td{text-align:left;padding:.2rem .9rem .2rem 0;border-bottom:1px solid var(--line);vertical-align:top}
th{font-weight:500}td.number{text-align:right}.key th{white-space:nowrap}.key td{overflow-wrap:anywhere}
pre{background:var(--card);border-radius:.4rem;padding:.7rem .9rem;margin:.3rem 0 1rem;white-space:pre-wrap;
overflow-wrap:anywhere;font:14px/1.45 ui-monospace,monospace}
summary{cursor:pointer;color:var(--soft)}
@media print{:root{--ink:#000;--soft:#444;--line:#bbb;--page:#fff;--card:#fff;color-scheme:light}
@page{margin:16mm}body{max-width:none;padding:0;font-size:10.5pt}pre{border:1px solid var(--line);font-size:9pt}
.plots{grid-template-columns:1fr 1fr}figure,svg,tr,.figures div{break-inside:avoid}h2{break-after:avoid}}
)css";

bool looks_numeric(const std::string& cell) {
  return !cell.empty() && cell.find_first_not_of("0123456789.,+-eE% ") == std::string::npos;
}

}  // namespace html_report_file

HtmlReport::HtmlReport(std::string_view title, std::string_view subtitle) : title_(title), subtitle_(subtitle) {}

void HtmlReport::section(std::string_view heading) {
  if (in_section_) body_ += "</section>\n";
  body_ += fmt::format("<section>\n<h2>{}</h2>\n", escape_markup(heading));
  in_section_ = true;
}

void HtmlReport::paragraph(std::string_view text) { body_ += fmt::format("<p>{}</p>\n", escape_markup(text)); }

void HtmlReport::key_values(const std::vector<std::pair<std::string, std::string>>& rows) {
  body_ += "<table class='key'>\n";
  for (const auto& [key, value] : rows) {
    body_ += fmt::format("<tr><th scope='row'>{}</th><td>{}</td></tr>\n", escape_markup(key), escape_markup(value));
  }
  body_ += "</table>\n";
}

void HtmlReport::figures(const std::vector<std::pair<std::string, std::string>>& rows) {
  body_ += "<dl class='figures'>\n";
  for (const auto& [key, value] : rows) {
    body_ += fmt::format("<div><dt>{}</dt><dd>{}</dd></div>\n", escape_markup(key), escape_markup(value));
  }
  body_ += "</dl>\n";
}

void HtmlReport::table(const std::vector<std::string>& header, const std::vector<std::vector<std::string>>& rows) {
  body_ += "<div class='wide'><table>\n<tr>";
  for (const std::string& cell : header) body_ += fmt::format("<th scope='col'>{}</th>", escape_markup(cell));
  body_ += "</tr>\n";
  for (const auto& row : rows) {
    body_ += "<tr>";
    for (const std::string& cell : row) {
      const char* kind = html_report_file::looks_numeric(cell) ? " class='number'" : "";
      body_ += fmt::format("<td{}>{}</td>", kind, escape_markup(cell));
    }
    body_ += "</tr>\n";
  }
  body_ += "</table></div>\n";
}

void HtmlReport::plots(const std::vector<Plot>& plots) {
  body_ += "<div class='plots'>\n";
  for (const Plot& plot : plots) body_ += fmt::format("<figure>\n{}</figure>\n", to_svg(plot, false));
  body_ += "</div>\n";
}

void HtmlReport::preformatted(std::string_view text, std::string_view caption) {
  std::string label = caption.empty() ? "" : fmt::format("<figcaption>{}</figcaption>", escape_markup(caption));
  body_ += fmt::format("<figure>{}<pre>{}</pre></figure>\n", label, escape_markup(text));
}

void HtmlReport::folded(std::string_view summary, std::string_view text) {
  body_ += fmt::format("<details><summary>{}</summary><pre>{}</pre></details>\n", escape_markup(summary),
                       escape_markup(text));
}

std::string HtmlReport::html() const {
  std::string title = escape_markup(title_);
  return fmt::format(
      "<!doctype html>\n<html lang='en'>\n<head>\n<meta charset='utf-8'>\n"
      "<meta name='viewport' content='width=device-width,initial-scale=1'>\n<title>{}</title>\n<style>{}</style>\n"
      "</head>\n<body>\n<h1>{}</h1>\n<p class='subtitle'>{}</p>\n{}{}</body>\n</html>\n",
      title, html_report_file::kStyle, title, escape_markup(subtitle_), body_, in_section_ ? "</section>\n" : "");
}

}  // namespace rattan
