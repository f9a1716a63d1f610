// Vocabulary and packed data of a study that names texts.
#pragma once
#include <functional>
#include <string>

#include "rattan/eval/study/study_file.h"

namespace rattan::study {

// Makes FOLDER/tokenizer.model from the texts to learn from, then FOLDER/data; what is there already stays. InputError
// for missing texts, or if what is there was made from others.
void prepare_text(const Study& study, const std::function<void(const std::string&)>& note);

}  // namespace rattan::study
