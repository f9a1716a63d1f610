#include "rattan/eval/study/text.h"

#include <fmt/ranges.h>

#include "rattan/base/config.h"
#include "rattan/base/error.h"
#include "rattan/base/files.h"
#include "rattan/data/pack.h"
#include "rattan/data/tokenizer_training.h"

namespace rattan::study {
namespace text_file {

namespace fs = std::filesystem;

// What the data depends on; kept beside it.
struct Origin : TextSource {
  int64_t vocab_size = 0;
  void fields(Fields& f) {
    TextSource::fields(f);
    f("vocab_size", vocab_size, "pieces of the vocabulary", at_least(1));
  }
};

Origin origin(const Study& study) {
  Origin out;
  static_cast<TextSource&>(out) = study.file.text;
  out.vocab_size = study.arms.front().setup.model.vocab_size;
  for (const Arm& arm : study.arms) {
    require(arm.setup.model.vocab_size == out.vocab_size,
            "the arms '{}' and '{}' have vocabularies of {} and {}; a study that makes its data has one vocabulary",
            study.arms.front().name, arm.name, out.vocab_size, arm.setup.model.vocab_size);
  }
  return out;
}

std::vector<std::string> files_of(const std::string& path, const char* key) {
  std::error_code none;
  require(fs::exists(path, none), "{} = \"{}\" does not exist; name a text file or a folder of them: {}=my/texts", key,
          path, key);
  auto files = find_inputs({path}, {}).paths;
  require(!files.empty(), "{} = \"{}\" holds no .txt file", key, path);
  // One document a file: how many are held out is then known before they are read.
  for (const std::string& file : files) {
    require(input_kind(file, {}) == "text", "{}: a study's texts are .txt files, one document each", file);
    require(fs::file_size(file, none) > 0, "{}: empty; remove it from {}", file, key);
  }
  return files;
}

// Words stay whole where a long text is cut.
std::size_t word_cut(std::string_view text) {
  const std::size_t at = text.find_last_of(" \n");
  return at == std::string_view::npos ? 0 : at + (text[at] == '\n' ? 1 : 0);
}

std::string learn_vocabulary(const std::vector<std::string>& files, int64_t size) {
  TokenizerTraining training;
  training.vocab_size = size;
  TokenizerTrainer trainer(training);
  DocumentReader reader(files, {}, word_cut);
  TextPortion portion;
  std::string storage;
  while (reader.next(portion))
    for (const auto& item : portion.items) trainer.add(item_text(portion, item, {}, storage));
  return trainer.train();
}

}  // namespace text_file

void prepare_text(const Study& study, const std::function<void(const std::string&)>& note) {
  using namespace text_file;
  const fs::path tokenizer = study.folder / "tokenizer.model", data = study.folder / "data";
  const fs::path stored = study.folder / "text.toml";
  const Origin wanted = origin(study);
  std::error_code none;
  if (fs::exists(stored, none)) {
    const auto changed =
        differences(flatten_toml(to_toml(wanted), "text"), flatten_toml(read_file(stored), stored.string()));
    require(changed.empty(), "{} holds data of another text ({}); choose another folder with --out",
            study.folder.string(), fmt::join(changed, "; "));
    if (fs::exists(data / "manifest.json", none)) return;
  }
  auto learn = files_of(wanted.train, "text.train");
  std::vector<std::string> hold;
  if (wanted.valid.empty()) {
    const auto holdout = static_cast<std::ptrdiff_t>(wanted.holdout);
    require(
        static_cast<std::ptrdiff_t>(learn.size()) > holdout,
        "text.train = \"{}\" has {} files, of which text.holdout = {} are to be held out; name texts to validate on "
        "in text.valid",
        wanted.train, learn.size(), wanted.holdout);
    hold.assign(learn.end() - holdout, learn.end());
    learn.erase(learn.end() - holdout, learn.end());
  } else {
    hold = files_of(wanted.valid, "text.valid");
  }
  note(fmt::format("vocabulary: {} pieces from {} files", wanted.vocab_size, learn.size()));
  std::error_code problem;
  fs::create_directories(study.folder, problem);
  if (problem) fail("{}: cannot be made: {}", study.folder.string(), problem.message());
  write_file(tokenizer, learn_vocabulary(learn, wanted.vocab_size));
  PackConfig pack;
  pack.inputs = learn;
  pack.inputs.insert(pack.inputs.end(), hold.begin(), hold.end());
  pack.tokenizer = tokenizer;
  pack.out = data;
  pack.holdout.last = static_cast<int64_t>(hold.size());
  pack.overwrite = true;
  const Manifest manifest = rattan::pack(pack).manifest;
  write_file(stored, to_toml(wanted));  // last: without it, all is made again
  note(fmt::format("data: {} tokens to learn from, {} to validate on, in {}", manifest.splits.at("train").tokens,
                   manifest.splits.at("valid").tokens, data.string()));
}

}  // namespace rattan::study
