// Lines edited at a terminal with libedit.
//
// The library is loaded here and not linked, so that a server or a training needs neither it nor the time to load it.
#include <dlfcn.h>
#include <histedit.h>
#include <langinfo.h>

#include <cerrno>
#include <clocale>
#include <cstdio>
#include <cstring>

#include "rattan/base/error.h"
#include "rattan/cli/chat_interrupt.h"
#include "rattan/cli/chat_lines.h"

namespace rattan::cli {
namespace chat_editor_file {

struct Library {
  decltype(&::el_init) init = nullptr;
  decltype(&::el_end) end = nullptr;
  decltype(&::el_set) set = nullptr;
  decltype(&::el_get) get = nullptr;
  decltype(&::el_gets) gets = nullptr;
  decltype(&::el_source) source = nullptr;
  decltype(&::el_resize) resize = nullptr;
  decltype(&::history_init) history_init = nullptr;
  decltype(&::history_end) history_end = nullptr;
  decltype(&::history) history = nullptr;

  // False where the library is not installed, or is not the one that the header belongs to.
  bool load() {
    void* library = nullptr;
    for (const char* name : {"libedit.so.2", "libedit.so.0", "libedit.so"})  // Debian's name, upstream's, any
      if (library == nullptr) library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    return library != nullptr && find(library, "el_init", init) && find(library, "el_end", end) &&
           find(library, "el_set", set) && find(library, "el_get", get) && find(library, "el_gets", gets) &&
           find(library, "el_source", source) && find(library, "el_resize", resize) &&
           find(library, "history_init", history_init) && find(library, "history_end", history_end) &&
           find(library, "history", history);
  }

 private:
  template <class Function>
  static bool find(void* library, const char* name, Function& function) {
    function = reinterpret_cast<Function>(dlsym(library, name));
    return function != nullptr;
  }
};

class EditedLines : public Lines {
 public:
  static bool load() { return lib_.load(); }

  EditedLines() : editor_(lib_.init("rattan", stdin, stderr, stderr)), history_(lib_.history_init()) {
    if (editor_ == nullptr || history_ == nullptr) fail("libedit cannot set up this terminal");
    HistEvent event;
    lib_.history(history_, &event, H_SETSIZE, 1000);
    lib_.history(history_, &event, H_SETUNIQUE, 1);
    lib_.set(editor_, EL_CLIENTDATA, this);
    lib_.set(editor_, EL_PROMPT, &EditedLines::prompt);
    lib_.set(editor_, EL_HIST, lib_.history, history_);
    lib_.set(editor_, EL_EDITOR, "emacs");
    lib_.set(editor_, EL_BIND, "^R", "em-inc-search-prev", nullptr);
    lib_.source(editor_, nullptr);  // the person's own ~/.editrc
  }
  ~EditedLines() override {
    lib_.end(editor_);
    lib_.history_end(history_);
  }

  Line next(const std::string& prompt) override {
    prompt_ = prompt;
    for (;;) {
      lib_.resize(editor_);
      int bytes = 0;
      errno = 0;
      const char* text = lib_.gets(editor_, &bytes);
      if (text != nullptr && bytes > 0) return line({text, static_cast<std::size_t>(bytes)});
      if (ChatInterrupt::requested()) {
        std::fputs("\n", stderr);
        return {Line::Kind::interrupted, ""};
      }
      if (bytes >= 0) {
        std::fputs("\n", stderr);
        return {};
      }
      if (errno != EINTR) fail("cannot read from the terminal: {}", std::strerror(errno));
    }
  }

 private:
  static char* prompt(EditLine* editor) {
    void* self = nullptr;
    lib_.get(editor, EL_CLIENTDATA, &self);
    return static_cast<EditedLines*>(self)->prompt_.data();
  }

  Line line(std::string text) {
    if (text.ends_with('\n')) text.pop_back();
    HistEvent event;
    if (!text.empty()) lib_.history(history_, &event, H_ENTER, text.c_str());
    return {Line::Kind::text, std::move(text)};
  }

  inline static Library lib_;  // static for `prompt`, which is given the editor alone

  EditLine* const editor_;
  History* const history_;
  std::string prompt_;
};

}  // namespace chat_editor_file

std::unique_ptr<Lines> edited_lines(std::string& warning) {
  using chat_editor_file::EditedLines;
  if (!EditedLines::load()) {
    warning = "libedit is not installed (Debian: libedit2), so lines cannot be edited";
    return plain_lines(true);
  }
  // Characters are what the locale says; models read UTF-8.
  std::setlocale(LC_CTYPE, "");
  if (std::strcmp(nl_langinfo(CODESET), "UTF-8") != 0) std::setlocale(LC_CTYPE, "C.UTF-8");
  return std::make_unique<EditedLines>();
}

}  // namespace rattan::cli
