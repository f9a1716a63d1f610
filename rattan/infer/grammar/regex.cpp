#include "rattan/infer/grammar/regex.h"

#include <algorithm>
#include <optional>

#include "rattan/base/error.h"

namespace rattan::infer {
namespace regex_file {

constexpr int kMaxNesting = 100;
constexpr int64_t kMaxTimes = 1000;

using Write = std::function<Pattern(const CodeSet&)>;

class Parser {
 public:
  Parser(std::string_view text, const Write& write, bool search) : text_(text), write_(write), search_(search) {}

  Pattern parse() {
    std::vector<Pattern> parts;
    do {
      const bool from_start = take('^');
      Pattern part = concatenation();
      const bool to_end = take('$');
      if (!at_end() && peek() == ')') wrong("this ')' closes nothing");
      if (!at_end() && peek() != '|') wrong("'$' must end an alternative");
      if (search_ && !(from_start && to_end)) {
        const Pattern any = repeat(write_(CodeSet::all()), 0, -1);
        std::vector<Pattern> all;
        if (!from_start) all.push_back(any);
        all.push_back(part);
        if (!to_end) all.push_back(any);
        part = sequence(std::move(all));
      }
      parts.push_back(part);
    } while (take('|'));
    return either(std::move(parts));
  }

 private:
  template <class... Args>
  [[noreturn]] void wrong(fmt::format_string<Args...> format, Args&&... args) const {
    fail_input("the regular expression breaks at byte {}: {}", at_, fmt::format(format, std::forward<Args>(args)...));
  }
  bool at_end() const { return at_ == text_.size(); }
  char peek() const { return text_[at_]; }
  bool take(char c) {
    if (at_end() || peek() != c) return false;
    ++at_;
    return true;
  }

  Pattern alternatives() {
    std::vector<Pattern> parts;
    do parts.push_back(concatenation());
    while (take('|'));
    return either(std::move(parts));
  }
  Pattern concatenation() {
    std::vector<Pattern> parts;
    while (!at_end() && peek() != '|' && peek() != ')' && peek() != '$') parts.push_back(repeated());
    return sequence(std::move(parts));
  }
  Pattern repeated() {
    Pattern part = atom();
    if (at_end()) return part;
    Pattern out = part;
    switch (peek()) {
      case '*':
        ++at_, out = repeat(part, 0, -1);
        break;
      case '+':
        ++at_, out = repeat(part, 1, -1);
        break;
      case '?':
        ++at_, out = repeat(part, 0, 1);
        break;
      case '{':
        ++at_, out = counted(part);
        break;
      default:
        return part;
    }
    if (!at_end() && (peek() == '*' || peek() == '+' || peek() == '?' || peek() == '{'))
      wrong("'{}' follows another repetition; lazy and possessive ones do not exist here", peek());
    return out;
  }
  Pattern counted(const Pattern& part) {
    const int64_t min = count();
    int64_t max = min;
    if (take(',')) max = !at_end() && peek() == '}' ? -1 : count();
    if (!take('}')) wrong("expected '}}' after a number of repetitions; a brace that is meant is written \\{{");
    if (max >= 0 && max < min) wrong("{{{},{}}} asks for at least more than at most", min, max);
    return repeat(part, min, max);
  }
  int64_t count() {
    int64_t n = -1;
    while (!at_end() && peek() >= '0' && peek() <= '9') {
      n = std::max<int64_t>(n, 0) * 10 + (peek() - '0');
      if (n > kMaxTimes) wrong("more than {} repetitions", kMaxTimes);
      ++at_;
    }
    if (n < 0) wrong("expected a number of repetitions; a brace that is meant is written \\{{");
    return n;
  }

  Pattern atom() {
    switch (peek()) {
      case '(':
        return group();
      case '[':
        ++at_;
        return write_(char_class());
      case '.':
        ++at_;
        return write_(CodeSet{{'\n', '\n'}}.complement());
      case '\\':
        ++at_;
        return write_(escape());
      case '^':
        wrong("'^' must begin an alternative of the whole expression");
      case '*':
      case '+':
      case '?':
      case '{':
        wrong("'{}' repeats nothing", peek());
      default: {
        const uint32_t c = character();
        return write_({{c, c}});
      }
    }
  }
  Pattern group() {
    ++at_;
    if (take('?') && !take(':')) wrong("of groups that begin with '(?' only '(?:' exists here");
    if (++nesting_ > kMaxNesting) wrong("groups are nested deeper than {}", kMaxNesting);
    Pattern inner = alternatives();
    --nesting_;
    if (!at_end() && peek() == '$') wrong("'$' must end an alternative of the whole expression");
    if (!take(')')) wrong("a group is not closed");
    return inner;
  }

  CodeSet char_class() {
    const bool inverted = take('^');
    CodeSet set;
    while (true) {
      if (at_end()) wrong("a class is not closed by ']'");
      if (take(']')) break;
      const CodeSet item = class_item();
      const std::optional<uint32_t> first = single(item);
      const bool range = at_ + 1 < text_.size() && peek() == '-' && text_[at_ + 1] != ']';
      if (!range) {
        set.add(item);
        continue;
      }
      ++at_;
      const std::optional<uint32_t> last = single(class_item());
      if (!first || !last) wrong("a range goes from one character to another");
      if (*first > *last) wrong("a range goes backwards");
      set.add(CodeSet{{*first, *last}}.intersection(CodeSet::all()));
    }
    return inverted ? set.complement() : set;
  }
  CodeSet class_item() {
    if (at_end()) wrong("a class is not closed by ']'");
    if (take('\\')) return escape();
    const uint32_t c = character();
    return {{c, c}};
  }
  static std::optional<uint32_t> single(const CodeSet& set) {
    const auto& r = set.ranges();
    return r.size() == 1 && r[0].first == r[0].second ? std::optional(r[0].first) : std::nullopt;
  }

  CodeSet escape() {
    if (at_end()) wrong("a backslash at the end");
    const char c = peek();
    ++at_;
    CodeSet digits{{'0', '9'}}, word{{'0', '9'}, {'A', 'Z'}, {'_', '_'}, {'a', 'z'}};
    CodeSet space{{'\t', '\r'}, {' ', ' '}};
    auto one = [](uint32_t code) { return CodeSet{{code, code}}; };
    switch (c) {
      case 'd':
        return digits;
      case 'D':
        return digits.complement();
      case 'w':
        return word;
      case 'W':
        return word.complement();
      case 's':
        return space;
      case 'S':
        return space.complement();
      case 't':
        return one('\t');
      case 'n':
        return one('\n');
      case 'r':
        return one('\r');
      case 'f':
        return one('\f');
      case 'v':
        return one('\v');
      case 'x':
        return one(hex(2));
      case 'u':
        return one(hex(4));
      default:
        break;
    }
    --at_;
    const uint32_t code = character();
    for (const auto& [first, last] : word.ranges())
      if (code != '_' && code >= first && code <= last) {
        --at_;
        wrong("there is no escape '\\{}' here", c);
      }
    return one(code);
  }
  uint32_t hex(int digits) {
    uint32_t code = 0;
    for (int i = 0; i < digits; ++i, ++at_) {
      const auto value = std::string_view("0123456789abcdef").find(at_end() ? ' ' : static_cast<char>(peek() | 0x20));
      if (at_end() || value == std::string_view::npos) wrong("expected {} hexadecimal digits", digits);
      code = code * 16 + static_cast<uint32_t>(value);
    }
    if (code >= 0xD800 && code <= 0xDFFF) wrong("half of a surrogate pair is no character; write the character itself");
    return code;
  }
  uint32_t character() {
    const int32_t code = next_code(text_, at_);
    if (code < 0) wrong("this is not UTF-8");
    return static_cast<uint32_t>(code);
  }

  std::string_view text_;
  const Write& write_;
  bool search_;
  std::size_t at_ = 0;
  int nesting_ = 0;
};

}  // namespace regex_file

Pattern parse_regex(std::string_view regex) {
  const regex_file::Write plain = [](const CodeSet& set) { return chars(set); };
  return regex_file::Parser(regex, plain, false).parse();
}

Pattern parse_regex_search(std::string_view regex, const std::function<Pattern(const CodeSet&)>& write) {
  return regex_file::Parser(regex, write, true).parse();
}

}  // namespace rattan::infer
