#include "rattan/tasks/language_modeling/data_config.h"

namespace rattan::tasks {

void LanguageDataConfig::fields(Fields& f) {
  f.list("sources", sources, "packed data to learn from (rattan data pack), mixed by weight");
  f("layout", layout,
    "concat: documents one after another, cut into windows, nothing reset between them; documents: whole documents "
    "packed into rows, each on its own",
    one_of({"concat", "documents"}));
  f("seq_len", seq_len, "tokens of a row; becomes the model's context", at_least(1));
  f("batch", batch, "rows of a batch; train.accumulation batches make a step", at_least(1));
  f("epochs", epochs, "passes over each source; 0: as many as the steps need", at_least(0));
  f("valid_split", valid_split, "split of the packed data to validate on; empty: no validation");
  f("valid_batches", valid_batches, "batches of a validation; 0: the whole split", at_least(0));
}

StreamConfig LanguageDataConfig::training(uint64_t seed) const {
  StreamConfig stream;
  stream.sources = sources;
  stream.layout = layout;
  stream.seq_len = seq_len;
  stream.batch = batch;
  stream.seed = seed;
  stream.epochs = epochs;
  return stream;
}

StreamConfig LanguageDataConfig::validation() const {
  StreamConfig stream = training(0);
  stream.split = valid_split;
  stream.epochs = 1;
  stream.sequential = true;
  return stream;
}

}  // namespace rattan::tasks
