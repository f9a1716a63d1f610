#include "rattan/eval/study/setup.h"

#include <algorithm>

#include "rattan/base/config.h"
#include "rattan/base/config_node.h"
#include "rattan/base/error.h"
#include "rattan/models/load.h"
#include "rattan/models/summary.h"
#include "rattan/tasks/language_modeling/task.h"

namespace rattan::study {
namespace setup_file {

void describe(Fields& f, Setup& setup, const std::string& task) {
  setup.model.fields(f);
  if (task == "recall") {
    f.table("recall", setup.recall, "associative recall");
  } else {
    f.table("data", setup.data, "what to learn from");
  }
  f.table("train", setup.train, "how to learn");
  f.table("run", setup.run, "what a run writes, and where it computes");
}

void flatten_node(const ConfigNode& node, const std::string& path, std::map<std::string, std::string>& out) {
  if (const auto* table = std::get_if<ConfigNode::Table>(&node.value)) {
    const std::string prefix = path.empty() ? "" : path + ".";
    for (const auto& [key, child] : *table) flatten_node(child, prefix + key, out);
    return;
  }
  const auto* list = std::get_if<ConfigNode::List>(&node.value);
  if (list != nullptr && !list->empty() && list->front().is_table()) {
    for (std::size_t i = 0; i < list->size(); ++i) flatten_node((*list)[i], fmt::format("{}.{}", path, i), out);
    return;
  }
  ConfigNode::Table single;
  single.emplace_back("v", node);
  std::string text = print_toml({std::move(single), "", "", false});
  text.erase(text.find_last_not_of('\n') + 1);
  out[path] = text.substr(text.find('=') + 2);
}

bool matters(const std::string& key) { return !key.starts_with("run.") || key == "run.device"; }

at::ScalarType compute_type(const Setup& setup) {
  return models::precision_named(setup.train.precision).compute.value_or(at::kFloat);
}

}  // namespace setup_file

void Setup::fields(Fields& f) {
  model.fields(f);
  f.table("data", data, "what to learn from");
  f.table("recall", recall, "associative recall");
  f.table("train", train, "how to learn");
  f.table("run", run, "what a run writes, and where it computes");
}

void Setup::finish(const std::string& task) {
  model.validate();
  require(run.minutes == 0,
          "run.minutes must be 0 in a study, whose arms learn from equally many tokens; set train.steps");
  model.context = task == "recall" ? recall.tokens() : data.seq_len;
  recall.seed = static_cast<uint64_t>(train.seed);
  run.sample_tokens = 0;
  if (task == "recall") {
    require(recall.vocabulary() <= model.vocab_size,
            "model.vocab_size is {}, but the task has {} symbols; set model.vocab_size={}", model.vocab_size,
            recall.vocabulary(), recall.vocabulary());
  }
}

Setup copy_of(const Setup& setup) {
  Setup same = setup, out;
  ConfigTree::from_text(to_toml([&](Fields& f) { same.fields(f); }), "the configuration").read(out);
  return out;
}

StudyTask make_task(const Setup& setup, const std::string& task) {
  StudyTask out;
  if (task == "recall") {
    out.task = std::make_unique<tasks::Recall>(setup.recall);
    return out;
  }
  auto made = std::make_unique<tasks::LanguageModeling>(setup.data, static_cast<uint64_t>(setup.train.seed));
  out.tokenizer = &made->tokenizer();
  const int64_t size = out.tokenizer->vocab_size();
  require(size <= setup.model.vocab_size,
          "model.vocab_size is {}, but the data's vocabulary has {} tokens; set model.vocab_size={}",
          setup.model.vocab_size, size, size);
  out.task = std::move(made);
  return out;
}

std::string to_text(const Setup& setup, const std::string& task) {
  Setup copy = setup;
  return to_toml([&](Fields& f) { setup_file::describe(f, copy, task); });
}

std::map<std::string, std::string> flatten(const Setup& setup, const std::string& task) {
  return flatten_toml(to_text(setup, task), "the configuration");
}

std::map<std::string, std::string> flatten_toml(const std::string& text, const std::string& source) {
  std::map<std::string, std::string> out;
  setup_file::flatten_node(parse_toml(text, source), "", out);
  return out;
}

std::vector<std::string> differences(const std::map<std::string, std::string>& now,
                                     const std::map<std::string, std::string>& before) {
  std::vector<std::string> out;
  for (const auto& [key, value] : now) {
    const auto old = before.find(key);
    if (!setup_file::matters(key) || (old != before.end() && old->second == value)) continue;
    out.push_back(fmt::format("{} is {}, was {}", key, value, old == before.end() ? "not there" : old->second));
  }
  for (const auto& [key, value] : before)
    if (setup_file::matters(key) && !now.contains(key))
      out.push_back(fmt::format("{} is not there, was {}", key, value));
  return out;
}

Size size_of(const Setup& setup) {
  const models::Summary summary = models::summarize(setup.model, {}, setup_file::compute_type(setup));
  Size out;
  out.parameters = out.non_embedding = summary.parameters;
  for (const models::Part& part : summary.parts)
    if (part.name == "embedding" || part.name == "output") out.non_embedding -= part.parameters;
  out.training_flops = summary.at_context.training_flops;
  return out;
}

int64_t state_bytes(const Setup& setup, int64_t tokens) {
  return models::summarize(setup.model, {tokens}, setup_file::compute_type(setup)).lengths.front().state_bytes;
}

int64_t tokens_per_step(const Setup& setup, const std::string& task) {
  const int64_t batch =
      task == "recall" ? setup.recall.batch * setup.recall.tokens() : setup.data.batch * setup.data.seq_len;
  return batch * setup.train.accumulation;
}

}  // namespace rattan::study
