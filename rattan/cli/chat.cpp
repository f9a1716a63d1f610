// rattan chat MODEL: a conversation at the terminal, or over a pipe.
#include <fmt/core.h>
#include <unistd.h>

#include <memory>

#include "rattan/base/config.h"
#include "rattan/base/error.h"
#include "rattan/cli/chat_interrupt.h"
#include "rattan/cli/chat_lines.h"
#include "rattan/cli/chat_talk.h"
#include "rattan/cli/engine_flags.h"
#include "rattan/cli/model_flags.h"
#include "rattan/cli/sampling_flags.h"

namespace rattan::cli {
namespace chat_file {

struct Flags {
  ModelFlags model;
  EngineFlags engine;
  SamplingFlags sampling;
  std::string system, load;
  bool stats = false, keep_sampling = false;
};

constexpr const char* commands =
    "/undo          take back the last message and its answer\n"
    "/regenerate    answer the last message anew, with the next seed\n"
    "/new           start a new conversation\n"
    "/save [FILE]   keep the conversation with its state; without a name, where it was last\n"
    "/load FILE     go on with a conversation that was kept\n"
    "/help          this list\n"
    "/quit          end, as Ctrl-D does\n"
    "Ctrl-C stops an answer. A line that ends with \\ goes on in the next one. A message may begin with / behind a "
    "blank.\n";

// What a model writes must not command the terminal: control characters but line ends and tabs are shown as U+FFFD.
std::string printable(const std::string& text) {
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    const bool c1 = byte == 0xC2 && i + 1 < text.size() && static_cast<unsigned char>(text[i + 1]) < 0xA0;
    if (c1) ++i;
    if (c1 || byte == 0x7F || (byte < 0x20 && byte != '\n' && byte != '\t')) {
      out += "\uFFFD";
    } else {
      out += text[i];
    }
  }
  return out;
}

std::string size_text(int64_t bytes) {
  if (bytes < 10 * 1024) return fmt::format("{} bytes", bytes);
  const double kib = static_cast<double>(bytes) / 1024;
  return kib < 10 * 1024 ? fmt::format("{:.0f} KiB", kib) : fmt::format("{:.0f} MiB", kib / 1024);
}

class Chat {
 public:
  Chat(Talk& talk, Lines& lines, models::Model& model, const Flags& flags, bool terminal)
      : talk_(talk),
        lines_(lines),
        spec_(model.state_spec()),
        compute_(model.compute),
        keep_sampling_(flags.keep_sampling),
        seen_(isatty(STDOUT_FILENO) != 0),
        shows_stats_(terminal || flags.stats) {}

  void load(const std::string& path) {
    talk_.load(path, keep_sampling_);
    file_ = path;
    const infer::SamplerConfig& s = talk_.settings().sampling;
    note(
        fmt::format("loaded {}: {} exchanges, {} tokens; {} sampling: temperature {}, top-k {}, top-p {}, min-p {}, "
                    "repetition penalty {}, seed {}",
                    path, talk_.exchanges(), talk_.tokens(), keep_sampling_ ? "this program's" : "its", s.temperature,
                    s.top_k, s.top_p, s.min_p, s.repetition_penalty, talk_.settings().seed));
  }

  void run() {
    while (!over_) {
      const Line line = read();
      if (line.kind == Line::Kind::end) return;
      if (line.kind == Line::Kind::interrupted) {
        ChatInterrupt::clear();
        note("Ctrl-D or /quit ends the chat.");
        continue;
      }
      // Whatever goes wrong with one line, the conversation is still there.
      try {
        take(line.text);
      } catch (const std::exception& error) {
        note(fmt::format("rattan: {}", error.what()));
      }
    }
  }

 private:
  Line read() {
    Line line = lines_.next("> ");
    while (line.kind == Line::Kind::text && line.text.ends_with('\\')) {
      Line more = lines_.next(". ");
      if (more.kind == Line::Kind::interrupted) return more;
      line.text.back() = '\n';
      line.text += more.text;
      if (more.kind == Line::Kind::end) break;
    }
    return line;
  }

  void take(const std::string& text) {
    if (text.find_first_not_of(" \t\n") == std::string::npos) return;
    if (text.front() == '/') return command(text);
    answer([&](const Talk::Show& show, const Talk::Interrupted& stop) { return talk_.say(text, show, stop); });
  }

  void command(const std::string& text) {
    const std::size_t blank = std::min(text.find_first_of(" \t"), text.size());
    const std::string name = text.substr(0, blank);
    const std::size_t from = text.find_first_not_of(" \t", blank);
    const std::string rest =
        from == std::string::npos ? "" : text.substr(from, text.find_last_not_of(" \t") + 1 - from);
    require(rest.empty() || name == "/save" || name == "/load",
            "{} takes nothing behind it; a message that begins with / stands behind a blank", name);
    if (name == "/quit" || name == "/exit") {
      over_ = true;
    } else if (name == "/help") {
      fmt::print(stderr, "{}", commands);
    } else if (name == "/undo") {
      undo();
    } else if (name == "/regenerate") {
      answer([&](const Talk::Show& show, const Talk::Interrupted& stop) { return talk_.again(show, stop); });
    } else if (name == "/new") {
      talk_.restart();
      note("a new conversation");
    } else if (name == "/save") {
      save(rest);
    } else if (name == "/load") {
      require(!rest.empty(), "/load needs the name of a file");
      load(rest);
    } else {
      unknown(name);
    }
  }

  void undo() {
    const auto message = talk_.undo();
    require(message.has_value(), "there is nothing to take back");
    note(fmt::format("taken back; the conversation has {} tokens", talk_.tokens()));
  }

  void save(const std::string& name) {
    const std::string path = name.empty() ? file_ : name;
    require(!path.empty(), "/save needs the name of a file, the first time");
    talk_.save(path);
    file_ = path;
    note(fmt::format("saved {}: {} exchanges, {} tokens", path, talk_.exchanges(), talk_.tokens()));
  }

  [[noreturn]] static void unknown(const std::string& name) {
    const std::string near =
        nearest(name, {"/undo", "/regenerate", "/new", "/save", "/load", "/help", "/quit", "/exit"});
    fail_input("there is no command {}{}; /help lists them, and a message that begins with / stands behind a blank",
               name, near.empty() ? "" : fmt::format(" (did you mean {}?)", near));
  }

  template <class Ask>
  void answer(const Ask& ask) {
    ChatInterrupt::clear();
    bool begun = false;
    const auto show = [&](const std::string& text) {
      begun = true;
      fmt::print("{}", seen_ ? printable(text) : text);
      std::fflush(stdout);
    };
    Turn turn;
    try {
      turn = ask(show, ChatInterrupt::requested);
    } catch (...) {
      if (begun) end_line();
      throw;
    }
    end_line();
    ChatInterrupt::clear();
    if (turn.interrupted && !begun) return note("stopped before the first token; the message is taken back");
    if (shows_stats_) note(stats(turn));
    if (turn.full) note("the context is full; /undo takes exchanges back, /new starts anew");
  }

  static void end_line() {
    fmt::print("\n");
    std::fflush(stdout);
  }

  std::string stats(const Turn& turn) const {
    const double rate = turn.answer_seconds > 0 ? static_cast<double>(turn.made - 1) / turn.answer_seconds : 0;
    return fmt::format("[{} tokens{}, {:.0f} tokens/s, the first after {:.3f} s; reused {} of {} tokens; state {}]",
                       turn.made, turn.interrupted ? " (stopped)" : "", rate, turn.first_seconds, turn.reused,
                       turn.prompt, size_text(spec_.bytes(talk_.tokens(), compute_)));
  }

  Talk& talk_;
  Lines& lines_;
  const nn::StateSpec spec_;
  const at::ScalarType compute_;
  const bool keep_sampling_, seen_, shows_stats_;
  bool over_ = false;
  std::string file_;
};

// States of the conversation's earlier places stay beside the running one, so that it can be taken back there.
constexpr int64_t memory_for_places = int64_t{256} << 20;

void run(Flags& flags) {
  TalkSettings settings{flags.system, flags.sampling.config(), flags.sampling.seed, flags.sampling.max_tokens,
                        flags.sampling.stops()};
  const models::LoadedModel loaded = flags.model.load();
  const Tokenizer& tokenizer = tokenizer_of(loaded);
  flags.engine.settle(loaded, flags.model.device);
  infer::EngineConfig& config = flags.engine.config;
  config.max_sequences = 1;
  if (config.memory == 0)
    config.memory = 2 * loaded.model->state_spec().bytes(config.max_context, loaded.model->compute) + memory_for_places;
  infer::Engine engine(*loaded.model, tokenizer, config);
  Talk talk(engine, tokenizer, serve::ChatTemplate::of_folder(loaded.folder), std::move(settings));

  // Over a pipe Ctrl-C ends the program, as it does with every filter.
  const bool terminal = isatty(STDIN_FILENO) != 0 && isatty(STDERR_FILENO) != 0;
  const std::unique_ptr<ChatInterrupt> interrupt = terminal ? std::make_unique<ChatInterrupt>() : nullptr;
  std::string warning;
  const std::unique_ptr<Lines> lines = terminal ? edited_lines(warning) : plain_lines(false);
  if (!warning.empty()) warn(warning);
  Chat chat(talk, *lines, *loaded.model, flags, terminal);
  if (!flags.load.empty()) chat.load(flags.load);
  if (terminal) note("/help lists the commands, Ctrl-C stops an answer, Ctrl-D ends.");
  chat.run();
}

void declare(CLI::App& verb) {
  auto flags = std::make_shared<Flags>();
  flags->model.declare(verb);
  auto* system = verb.add_option("--system", flags->system, "instructions before the first message");
  verb.add_option("--load", flags->load, "go on with a conversation that /save kept")->excludes(system);
  flags->sampling.declare(verb);
  flags->engine.declare(verb, "twice what one sequence takes, and 256 MiB");
  verb.add_flag("--stats", flags->stats,
                "after each answer: tokens, speed, what was reused, the state's size (at a terminal always)");
  verb.footer(std::string("Every line is a message, or one of these commands:\n") + commands +
              "A loaded conversation goes on with the sampling settings and the seed it was saved with, unless the "
              "command line\nnames any. Answers go to stdout, all else to stderr, so a pipe works as well:\n"
              "Example: printf 'Hello\\nGo on\\n' | rattan chat runs/kjv --greedy");
  verb.callback([flags, &verb] {
    flags->keep_sampling = flags->sampling.given(verb);
    run(*flags);
  });
}

}  // namespace chat_file

extern const Verb chat_verb;
const Verb chat_verb = {"chat", "talk with a model at the terminal", chat_file::declare};

}  // namespace rattan::cli
