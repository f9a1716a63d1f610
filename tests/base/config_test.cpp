#include "rattan/base/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bit>
#include <cmath>

#include "rattan/base/error.h"
#include "rattan/base/random.h"

namespace rattan::config_test {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;
using testing::StartsWith;

struct Ffn {
  std::string type = "gelu";
  int64_t hidden = 0;
  void fields(Fields& f) {
    f("type", type, "feed-forward form", one_of({"gelu", "swiglu"}));
    f("hidden", hidden, "width", at_least(0));
  }
};

struct MixerTable {
  std::string type = "rat";
  int64_t chunk = 16;
  int64_t window = 64;
  void fields(Fields& f) {
    f("type", type, "kind of mixer", one_of({"rat", "swa"}));
    if (type == "rat") f("chunk", chunk, "tokens a chunk", at_least(1));
    if (type == "swa") f("window", window, "tokens seen", at_least(1));
  }
};

struct Source {
  std::string path;
  double weight = 1;
  void fields(Fields& f) {
    f("path", path, "where the text is");
    f("weight", weight, "share of the mixture", above(0));
  }
};

struct Train {
  double lr = 8e-4;
  int64_t steps = 1000;
  bool decay = true;
  double anything = 0;
  std::vector<double> betas = {0.9, 0.95};
  void fields(Fields& f) {
    f("lr", lr, "peak learning rate", above(0));
    f("steps", steps, "updates", between(1, 1e9));
    f("decay", decay, "decay on all parameters");
    f("anything", anything, "no limits");
    f("betas", betas, "moments", between(0, 1));
  }
};

struct Sample {
  Ffn ffn;
  std::string name = "run";
  std::vector<std::string> pattern = {"rat"};
  std::map<std::string, MixerTable> mixers;
  std::vector<Source> sources;
  Train train;
  void fields(Fields& f) {
    f.table("ffn", ffn, "feed-forward layer");
    f("name", name, "name of the run");
    f("pattern", pattern, "mixers over depth");
    f.named("mixers", mixers, "named mixers");
    f.list("sources", sources, "texts to mix");
    f.table("train", train, "training");
  }
};

Sample read(const std::string& text, const std::vector<std::string>& overrides = {}) {
  ConfigTree tree = ConfigTree::from_text(text, "recipe.toml");
  tree.override_with(overrides);
  Sample sample;
  tree.read(sample);
  return sample;
}

std::string error_of(const std::string& text, const std::vector<std::string>& overrides = {}) {
  try {
    read(text, overrides);
  } catch (const InputError& error) {
    return error.what();
  }
  ADD_FAILURE() << "accepted: " << text;
  return "";
}

TEST(Config, AbsentKeysKeepDefaults) {
  Sample sample = read("");
  EXPECT_EQ(sample.train.lr, 8e-4);
  EXPECT_THAT(sample.pattern, ElementsAre("rat"));
  EXPECT_THAT(sample.mixers, IsEmpty());
}

TEST(Config, TablesListsAndInlineTablesAreRead) {
  Sample sample = read(R"(
name = "x"
pattern = ["a", "b"]
ffn = { type = "swiglu", hidden = 8192 }
[mixers.a]
chunk = 8
[mixers.b]
type = "swa"
window = 1024
[[sources]]
path = "one"
[[sources]]
path = "two"
weight = 2
[train]
betas = [0, 0.5]
)");
  EXPECT_EQ(sample.ffn.type, "swiglu");
  EXPECT_EQ(sample.ffn.hidden, 8192);
  EXPECT_EQ(sample.mixers.at("a").chunk, 8);
  EXPECT_EQ(sample.mixers.at("b").window, 1024);
  ASSERT_EQ(sample.sources.size(), 2u);
  EXPECT_EQ(sample.sources[1].path, "two");
  EXPECT_EQ(sample.sources[1].weight, 2.0);
  EXPECT_THAT(sample.train.betas, ElementsAre(0.0, 0.5));
}

TEST(Config, NumbersAreTakenInEverySpelling) {
  EXPECT_EQ(read("[train]\nlr = 1").train.lr, 1.0);
  EXPECT_EQ(read("[train]\nlr = 1e-3").train.lr, 1e-3);
  EXPECT_EQ(read("[train]\nsteps = 1e6").train.steps, 1000000);
  EXPECT_EQ(read("[train]\nsteps = 1_000").train.steps, 1000);
  EXPECT_EQ(read("", {"train.lr=.5"}).train.lr, 0.5);
  EXPECT_EQ(read("", {"train.lr=1e-3"}).train.lr, 1e-3);
}

TEST(Config, UnknownKeyNamesPlaceAndNearestKey) {
  EXPECT_THAT(error_of("[train]\nlrr = 1"), AllOf(StartsWith("recipe.toml:2: "), HasSubstr("unknown key 'train.lrr'"),
                                                  HasSubstr("did you mean 'train.lr'?")));
  EXPECT_THAT(error_of("", {"train.stesp=3"}),
              AllOf(HasSubstr("override 'train.stesp=3'"), HasSubstr("did you mean 'train.steps'?")));
  EXPECT_THAT(error_of("lr = 1"), HasSubstr("did you mean 'train.lr'?"));
  EXPECT_THAT(error_of("[trian]\nlr = 1"), HasSubstr("did you mean 'train'?"));
  EXPECT_THAT(error_of("[[sources]]\npth = 'x'"), HasSubstr("did you mean 'sources.0.path'?"));
  EXPECT_THAT(error_of("[train]\nzzzzzz = 1"), AllOf(Not(HasSubstr("did you mean")), HasSubstr("known here: lr, ")));
}

TEST(Config, KeyOfAnotherTypeIsUnknown) {
  EXPECT_THAT(error_of("[mixers.a]\ntype = 'swa'\nchunk = 3"),
              AllOf(StartsWith("recipe.toml:3: "), HasSubstr("unknown key 'mixers.a.chunk'")));
}

TEST(Config, WrongTypesNamePlaceKeyMeaningAndValue) {
  EXPECT_THAT(error_of("\n[train]\nlr = \"x\""),
              AllOf(StartsWith("recipe.toml:3: 'train.lr' (peak learning rate) takes a number"),
                    HasSubstr("the string \"x\"")));
  EXPECT_THAT(error_of("[train]\nsteps = 1.5"), AllOf(HasSubstr("a whole number"), HasSubstr("1.5")));
  EXPECT_THAT(error_of("[train]\nsteps = true"), HasSubstr("a whole number, got true"));
  EXPECT_THAT(error_of("[train]\ndecay = 1"), HasSubstr("true or false, got 1"));
  EXPECT_THAT(error_of("name = 3"), HasSubstr("a string, got 3"));
  EXPECT_THAT(error_of("pattern = 'rat'"), HasSubstr("a list of strings"));
  EXPECT_THAT(error_of("pattern = [1]"), HasSubstr("a list of strings, got 1"));
  EXPECT_THAT(error_of("train = 1"), HasSubstr("a table, got 1"));
  EXPECT_THAT(error_of("mixers = 1"), HasSubstr("got 1"));
  EXPECT_THAT(error_of("[mixers]\na = 1"), HasSubstr("'mixers.a' takes a table, got 1"));
  EXPECT_THAT(error_of("sources = [1]"), HasSubstr("'sources.0' takes a table, got 1"));
  EXPECT_THAT(error_of("sources = 2020-01-01"), HasSubstr("a date"));
}

TEST(Config, ValuesOutOfRangeAreRefused) {
  EXPECT_THAT(error_of("[train]\nlr = 0"), AllOf(StartsWith("recipe.toml:2"), HasSubstr("must be above 0, got 0")));
  EXPECT_THAT(error_of("[train]\nlr = nan"), HasSubstr("above 0"));
  EXPECT_THAT(error_of("[train]\nlr = inf"), HasSubstr("above 0"));
  EXPECT_THAT(error_of("[train]\nsteps = 0"), HasSubstr("between 1 and 1000000000, got 0"));
  EXPECT_THAT(error_of("[train]\nbetas = [0.5, 1.5]"), HasSubstr("between 0 and 1, got 1.5"));
  EXPECT_THAT(error_of("ffn.type = 'gelo'"),
              AllOf(HasSubstr("one of \"gelu\", \"swiglu\", got \"gelo\""), HasSubstr("did you mean \"gelu\"?")));
}

TEST(Config, BrokenTomlNamesLineAndColumn) {
  EXPECT_THAT(error_of("a = 1\nb = = 2"), StartsWith("recipe.toml:2:5: "));
  EXPECT_THAT(error_of("a = 1\na = 2"), StartsWith("recipe.toml:2:"));
  EXPECT_THAT(error_of("a = \"\xff\""), HasSubstr("recipe.toml:1:"));
  EXPECT_THAT(error_of("a = 1\n\n[=x]\nb = 1"), StartsWith("recipe.toml:3: "));
  EXPECT_THAT(error_of("[=x]"), StartsWith("recipe.toml:1: "));
  EXPECT_THAT(error_of("é = 1"), StartsWith("recipe.toml:1:1: "));
  EXPECT_THAT(error_of("a = 1 \u025f"), StartsWith("recipe.toml:1:"));
}

TEST(Config, LaterOverridesWin) { EXPECT_EQ(read("[train]\nlr = 1", {"train.lr=2", "train.lr=3"}).train.lr, 3.0); }

TEST(Config, OverridesReachEveryKindOfKey) {
  Sample sample = read("[mixers.a]\nchunk = 8\n[[sources]]\npath = 'one'",
                       {"mixers.a.chunk=4", "mixers.b.type=swa", "sources.0.path=new", "sources.1.path=2024-01-01",
                        "ffn={type=\"swiglu\", hidden=7}", "pattern=a,b", "train.betas=[.1,.2]", "name=123"});
  EXPECT_EQ(sample.mixers.at("a").chunk, 4);
  EXPECT_EQ(sample.mixers.at("b").type, "swa");
  ASSERT_EQ(sample.sources.size(), 2u);
  EXPECT_EQ(sample.sources[0].path, "new");
  EXPECT_EQ(sample.sources[1].path, "2024-01-01");
  EXPECT_EQ(sample.ffn.hidden, 7);
  EXPECT_THAT(sample.pattern, ElementsAre("a", "b"));
  EXPECT_THAT(sample.train.betas, ElementsAre(0.1, 0.2));
  EXPECT_EQ(sample.name, "123");
}

TEST(Config, OverridesMakeListsThatTheFileLacks) {
  Sample sample = read("", {"sources.0.path=a", "sources.1.path=b"});
  ASSERT_EQ(sample.sources.size(), 2u);
  EXPECT_EQ(sample.sources[1].path, "b");
  EXPECT_THAT(error_of("", {"sources.1.path=b"}), HasSubstr("'sources' is a list of 0"));
  EXPECT_THAT(error_of("", {"sources.x.path=b"}), HasSubstr("not 'x'"));
}

TEST(Config, WrongOverridesAreNamed) {
  EXPECT_THAT(error_of("", {"train.lr"}), HasSubstr("key=value"));
  EXPECT_THAT(error_of("", {"=3"}), HasSubstr("key=value"));
  EXPECT_THAT(error_of("", {"train..lr=3"}), HasSubstr("empty part"));
  EXPECT_THAT(error_of("", {"train.lr=abc"}), HasSubstr("override 'train.lr=abc': 'train.lr'"));
  EXPECT_THAT(error_of("[train]\nlr = 1", {"train.lr.x=3"}), HasSubstr("'train.lr' is 1, it has no key 'x'"));
  EXPECT_THAT(error_of("[[sources]]\npath = 'x'", {"sources.2.path=y"}), HasSubstr("0 to 1 (1 appends)"));
  EXPECT_THAT(error_of("", {"name=\xff"}), HasSubstr("UTF-8"));
}

TEST(Config, TomlOutputReadsBackBitForBit) {
  for (uint64_t seed = 0; seed < 300; ++seed) {
    SCOPED_TRACE(fmt::format("seed {}", seed));
    Rng rng(seed);
    auto text = [&] {
      static const std::string alphabet[] = {"a", "\"", "\\", "\n", "\t", "#", "]", "=", ".", " ", "é", "\x01", "𝄞"};
      std::string out;
      for (uint64_t i = rng.below(8); i > 0; --i) out += alphabet[rng.below(std::size(alphabet))];
      return out;
    };
    auto real = [&] {
      double value;
      do {
        value = std::bit_cast<double>(rng.next_u64());
      } while (std::isnan(value));
      return value;
    };
    Sample sample;
    sample.name = text();
    sample.pattern.clear();
    for (uint64_t i = rng.below(3); i > 0; --i) sample.pattern.push_back(text());
    for (uint64_t i = rng.below(3); i > 0; --i) {
      MixerTable& mixer = sample.mixers[text()];
      mixer.type = rng.below(2) == 0 ? "rat" : "swa";
      (mixer.type == "rat" ? mixer.chunk : mixer.window) = static_cast<int64_t>(rng.below(INT64_MAX)) + 1;
    }
    sample.sources.resize(rng.below(3));
    for (Source& source : sample.sources) source.path = text(), source.weight = std::exp(rng.normal());
    sample.train.anything = real();
    sample.train.betas = {rng.uniform(), 5e-324, 1.0};

    std::string toml = to_toml(sample);
    SCOPED_TRACE(toml);
    Sample again = read(toml);
    EXPECT_EQ(to_toml(again), toml);
    EXPECT_EQ(again.name, sample.name);
    EXPECT_EQ(again.pattern, sample.pattern);
    EXPECT_EQ(again.mixers.size(), sample.mixers.size());
    EXPECT_EQ(again.sources.size(), sample.sources.size());
    EXPECT_EQ(std::bit_cast<uint64_t>(again.train.anything), std::bit_cast<uint64_t>(sample.train.anything));
    EXPECT_EQ(again.train.betas, sample.train.betas);
  }
}

TEST(Config, SpecialDoublesReadBack) {
  for (double value : {0.0, -0.0, 1e22, 0.1, 1e300, double{INFINITY}, -double{INFINITY}, static_cast<double>(NAN),
                       5e-324, 123456789.0}) {
    Sample sample;
    sample.train.anything = value;
    double again = read(to_toml(sample)).train.anything;
    EXPECT_TRUE(std::bit_cast<uint64_t>(again) == std::bit_cast<uint64_t>(value) || (again != again && value != value))
        << value;
  }
}

TEST(Config, MarkdownShowsEveryKeyOnce) {
  Sample sample;
  std::string text = to_markdown([&](Fields& f) { sample.fields(f); });
  EXPECT_THAT(text, HasSubstr("## `[train]`"));
  EXPECT_THAT(text, HasSubstr("| `lr` | number | `0.0008` | above 0 | peak learning rate |"));
  EXPECT_THAT(text, HasSubstr("## `[mixers.<name>]`"));
  EXPECT_THAT(text, HasSubstr("## `[[sources]]`"));
  EXPECT_THAT(text, HasSubstr("| `pattern` | list of strings | `[\"rat\"]` |  | mixers over depth |"));
  EXPECT_THAT(text, HasSubstr("one of \"gelu\", \"swiglu\""));
}

TEST(Config, NearestOffersOnlyWhatIsNear) {
  EXPECT_EQ(nearest("lrr", {"steps", "lr"}), "lr");
  EXPECT_EQ(nearest("chnuk", {"chunk", "check"}), "chunk");
  EXPECT_EQ(nearest("window", {"lr", "steps"}), "");
  EXPECT_EQ(nearest("x", {}), "");
}

}  // namespace rattan::config_test
