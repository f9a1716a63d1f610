#include "rattan/eval/study/study_file.h"

namespace rattan::study {

void Outline::fields(Fields& f) {
  f("title", title, "heading of the report");
  f("note", note, "a paragraph below it");
  f("base", base, "a configuration file that the tables here are laid over; relative to this file");
  f("task", task, "what is trained", one_of({"language_modeling", "recall"}));
  f("seeds", seeds, "a run each, of every arm that names none; they decide initial weights and the order of the data",
    at_least(0.0));
  f("metrics", metrics, "columns of the table; none: loss, perplexity (recall: accuracy), size and state");
  f("reference", reference, "arm that the others' first metric is subtracted from, seed by seed; none: no such column");
  f("beside", beside, "heading of the column with the arms' own remarks");
  f("equal_parameters", equal_parameters,
    "largest difference of non-embedding parameters between arms, as a share of the smaller; 0: any", at_least(0.0));
  f("confidence", confidence, "of the intervals over seeds (Student's t)", between(0.5, 0.9999));
}

void TextSource::fields(Fields& f) {
  f("train", train, "a text file or a folder of them to learn from: vocabulary and packed data are made from it");
  f("valid", valid, "texts to validate on; empty: the last documents of `train`");
  f("holdout", holdout, "how many these are", at_least(1));
}

void Tuning::fields(Fields& f) {
  f("lr", lr, "learning rates to choose from, arm by arm, by the validation loss of a short run; none: train.lr stands",
    above(0.0));
  f("steps", steps, "length of such a run, with the schedule shortened to it", at_least(0));
  f("seed", seed, "its seed", at_least(0));
}

void Evaluation::fields(Fields& f) {
  f("position_factor", position_factor,
    "measure the loss by position in windows of so many times the training length; 0: do not", at_least(0));
  f("position_tokens", position_tokens, "tokens of the validation text to do that on, about; 0: all", at_least(0));
}

void ArmEntry::fields(Fields& f) {
  f("name", name, "letters, digits, '-', '_' and '.'; also the name of its folder");
  f("label", label, "its name in tables and plots; empty: the name");
  f("set", set, "settings laid over the study's, as on the command line: \"train.lr=3e-4\"");
  f("seeds", seeds, "seeds of this arm; none: the study's", at_least(0.0));
  f("lr", lr, "learning rates to choose from, instead of those of [tune]", above(0.0));
  f("beside", beside, "a remark for the table, such as a published figure");
}

void PlotEntry::fields(Fields& f) {
  f("name", name, "of the file, without .svg");
  f("title", title, "heading of the plot");
  f("x", x, "position, step, a metric, or a key of the configuration such as mixers.rat.chunk");
  f("y", y, "a metric; with position and step: loss, with step also what validation reports");
  f("lines", lines, "a key of the configuration: arms with the same value share a line; empty: every arm for itself");
  f("x_scale", x_scale, "scale of this axis", one_of({"linear", "log2", "log10"}));
  f("y_scale", y_scale, "scale of this axis", one_of({"linear", "log2", "log10"}));
  f("x_from", x_from, "points further to the left are not shown");
  f("arms", arms, "arms to show; none: all");
}

void ExpectEntry::fields(Fields& f) {
  f("text", text, "the expectation in words; empty: made from the other keys");
  f("metric", metric, "what is looked at");
  f("arm", arm, "the arm whose mean over seeds must lie between low and high");
  f("minus", minus, "another arm, whose value is subtracted seed by seed");
  f("low", low, "least value that passes");
  f("high", high, "greatest value that passes");
  f("order", order, "instead of arm: arms whose means must rise from one to the next");
  f("whole_interval", whole_interval, "demand it of the whole interval, not of the mean alone");
}

void StudyFile::study_fields(Fields& f) {
  f.table("study", study, "what is compared");
  f.table("text", text, "text that the study makes its data from; without it, data.sources names packed data");
  f.table("tune", tune, "choice of the learning rate");
  f.table("evaluate", evaluate, "what is measured beside the validation of the task");
  f.list("arms", arms, "the configurations that are compared, in the order of the table");
  f.list("plots", plots, "SVG files");
  f.list("expect", expect, "what the result should be; `rattan study` exits with 1 where it is not");
}

void StudyFile::fields(Fields& f) {
  study_fields(f);
  base.fields(f);
}

}  // namespace rattan::study
