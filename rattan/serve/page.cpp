#include "rattan/serve/page.h"

#include "page_text.h"

namespace rattan::serve {

std::string page_html() { return kPageText; }

}  // namespace rattan::serve
