// The chat page at "/": one file without anything from elsewhere (page.html).
#pragma once
#include <string>

namespace rattan::serve {

std::string page_html();

}  // namespace rattan::serve
