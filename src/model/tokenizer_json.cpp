#include "model/tokenizer_json.h"

#include <fmt/format.h>

#include <algorithm>
#include <unordered_map>
#include <unordered_set>

#include "model/tokenizer_node.h"
#include "thermoe/error.h"

namespace thermoe {
namespace {

// Sixteen times the largest published vocabulary; bounds what an id can make the tables take.
constexpr int64_t kMaxId = 4'194'303;

void read_normalizer(const JsonNode& node, std::vector<NormalizerStep>& out) {
  const std::string type = node.type();
  if (type == "Sequence") {
    for (const JsonNode& part : node.items("normalizers")) read_normalizer(part, out);
  } else if (type == "NFC") {
    out.push_back(NfcStep{});
  } else if (type == "Prepend") {
    out.push_back(PrependStep{node.at("prepend").string()});
  } else if (type == "Replace") {
    const JsonNode pattern = node.at("pattern").at("String");
    if (pattern.string().empty()) pattern.refuse("is empty");
    out.push_back(ReplaceStep{pattern.string(), node.at("content").string()});
  } else {
    node.refuse_type(type, "Sequence, NFC, Prepend, Replace of a String");
  }
}

SplitRegex make_regex(const JsonNode& node, std::string_view pattern) {
  try {
    return SplitRegex(pattern);
  } catch (const PatternError& e) {
    node.refuse(fmt::format("'{}' {}", printable(pattern), e.what()));
  }
}

void read_split(const JsonNode& node, PreTokenizer& out) {
  const std::string behavior = node.at("behavior").string();
  if (behavior != "Isolated") node.at("behavior").refuse_type(behavior, "Isolated");
  if (node.flag("invert", false)) node.refuse("with invert is not supported: set it to false");
  const JsonNode pattern = node.at("pattern");
  if (const auto regex = pattern.find("Regex")) {
    out.splits.emplace_back(make_regex(*regex, regex->string()));
  } else {
    const JsonNode text = pattern.at("String");
    if (text.string().empty()) text.refuse("is empty");
    out.splits.emplace_back(SplitRegex::literal(text.string()));
  }
}

// Both respell the text, which is done once, before all splitting.
void set_respelling(const JsonNode& node, PreTokenizer& out, Respelling respelling) {
  if (out.respelling || !out.splits.empty()) {
    node.refuse("that changes the text is supported as the first pre_tokenizer only");
  }
  out.respelling = std::move(respelling);
}

void read_byte_level(const JsonNode& node, PreTokenizer& out) {
  if (node.flag("add_prefix_space", true)) {
    set_respelling(node, out, {" ", Respelling::Prepend::kAlways});
  }
  if (node.flag("use_regex", true)) out.splits.emplace_back(SplitRegex(kGpt2Pattern));
  out.byte_level = true;
}

// Newer files have prepend_scheme, older ones add_prefix_space.
Respelling::Prepend read_prepend(const JsonNode& node) {
  const auto scheme = node.find("prepend_scheme");
  const std::string name = scheme ? scheme->string() : "always";
  if (!node.flag("add_prefix_space", true)) {
    if (scheme && name != "never") {
      node.refuse("has an add_prefix_space that contradicts its prepend_scheme: remove one");
    }
    return Respelling::Prepend::kNever;
  }
  if (name == "always") return Respelling::Prepend::kAlways;
  if (name == "first") return Respelling::Prepend::kFirst;
  if (name != "never") scheme->refuse_type(name, "first, always, never");
  return Respelling::Prepend::kNever;
}

void read_metaspace(const JsonNode& node, PreTokenizer& out) {
  const std::string mark = node.at("replacement").character();
  set_respelling(node, out, {mark, read_prepend(node)});
  if (node.flag("split", true)) out.splits.emplace_back(CutBefore{mark});
}

void read_pre_tokenizer(const JsonNode& node, PreTokenizer& out) {
  const std::string type = node.type();
  if (out.byte_level) node.refuse("stands after a ByteLevel, which has to be the last");
  if (type == "Sequence") {
    for (const JsonNode& part : node.items("pretokenizers")) read_pre_tokenizer(part, out);
  } else if (type == "Split") {
    read_split(node, out);
  } else if (type == "Digits") {
    const bool each = node.flag("individual_digits", false);
    out.splits.emplace_back(SplitRegex(each ? R"(\p{N})" : R"(\p{N}+)"));
  } else if (type == "ByteLevel") {
    read_byte_level(node, out);
  } else if (type == "Metaspace") {
    read_metaspace(node, out);
  } else {
    node.refuse_type(type, "Sequence, Split, Digits, ByteLevel, Metaspace");
  }
}

void read_decoder(const JsonNode& node, std::vector<DecoderStep>& out) {
  const std::string type = node.type();
  if (type == "Sequence") {
    for (const JsonNode& part : node.items("decoders")) read_decoder(part, out);
  } else if (type == "ByteLevel") {
    out.push_back(ByteLevelDecode{});
  } else if (type == "ByteFallback") {
    out.push_back(ByteFallbackDecode{});
  } else if (type == "Fuse") {
    out.push_back(FuseDecode{});
  } else if (type == "Replace") {
    const JsonNode pattern = node.at("pattern").at("String");
    if (pattern.string().empty()) pattern.refuse("is empty");
    out.push_back(ReplaceDecode{pattern.string(), node.at("content").string()});
  } else if (type == "Strip") {
    constexpr int64_t kMaxStrip = 1'000'000;
    out.push_back(StripDecode{node.at("content").character(),
                              static_cast<size_t>(node.at("start").integer(0, kMaxStrip)),
                              static_cast<size_t>(node.at("stop").integer(0, kMaxStrip))});
  } else if (type == "Metaspace") {
    out.push_back(MetaspaceDecode{node.at("replacement").character(),
                                  read_prepend(node) != Respelling::Prepend::kNever});
  } else {
    node.refuse_type(type,
                     "Sequence, ByteLevel, ByteFallback, Fuse, Replace of a String, Strip, "
                     "Metaspace");
  }
}

void read_vocab(const JsonNode& model, BpeSpec& out) {
  const JsonNode vocab = model.at("vocab");
  if (!vocab.value().is_object()) vocab.refuse("is not an object of token and id");
  std::unordered_map<int32_t, const std::string*> owner;
  out.vocab.reserve(vocab.value().size());
  for (const auto& [token, value] : vocab.value().items()) {
    const JsonNode entry_node(value, model.path(),
                              fmt::format("model.vocab['{}']", printable(token)));
    const auto id = static_cast<int32_t>(entry_node.integer(0, kMaxId));
    const auto entry = out.vocab.emplace(token, id).first;
    const auto [other, inserted] = owner.emplace(id, &entry->first);
    if (!inserted) {
      vocab.refuse(fmt::format("gives the id {} to '{}' and to '{}'", id, printable(*other->second),
                               printable(token)));
    }
  }
}

void read_merges(const JsonNode& model, BpeSpec& out) {
  for (const JsonNode& merge : model.items("merges")) {
    if (merge.value().is_array()) {
      const auto& pair = merge.value();
      if (pair.size() != 2 || !pair[0].is_string() || !pair[1].is_string()) {
        merge.refuse("is not a pair of tokens");
      }
      out.merges.emplace_back(pair[0].get<std::string>(), pair[1].get<std::string>());
      continue;
    }
    const std::string text = merge.string();
    if (text.starts_with("#version")) continue;  // a header of the merges.txt that older files copy
    const size_t space = text.find(' ');
    if (space == std::string::npos || text.find(' ', space + 1) != std::string::npos) {
      merge.refuse(fmt::format("'{}' is not two tokens with a space between", printable(text)));
    }
    out.merges.emplace_back(text.substr(0, space), text.substr(space + 1));
  }
}

BpeSpec read_model(const JsonNode& node, bool byte_level) {
  const std::string type = node.type();
  if (type != "BPE") node.refuse_type(type, "BPE");
  if (const auto dropout = node.find("dropout"); dropout && dropout->value() != 0.0) {
    dropout->refuse("makes encoding random: set it to null");
  }
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    if (node.has_text(key)) node.at(key).refuse("is not supported; supported: null");
  }
  BpeSpec out;
  out.byte_level = byte_level;
  if (const auto unk = node.find("unk_token")) out.unk_token = unk->string();
  out.fuse_unk = node.flag("fuse_unk", false);
  out.byte_fallback = node.flag("byte_fallback", false);
  out.ignore_merges = node.flag("ignore_merges", false);
  if (out.byte_fallback && byte_level) {
    node.at("byte_fallback").refuse("is not supported with a ByteLevel pre_tokenizer");
  }
  read_vocab(node, out);
  read_merges(node, out);
  return out;
}

// tokenizers takes a token's id from the vocabulary, or counts on from its size; the file's own id
// must agree, since the model's weights were trained with it.
std::vector<AddedToken> read_added_tokens(const JsonNode& root, const BpeSpec& model) {
  std::vector<AddedToken> out;
  std::unordered_set<std::string> seen;
  auto next = static_cast<int64_t>(model.vocab.size());
  if (!root.find("added_tokens")) return out;
  for (const JsonNode& node : root.items("added_tokens")) {
    AddedToken token;
    token.content = node.at("content").string();
    token.id = static_cast<int32_t>(node.at("id").integer(0, kMaxId));
    token.single_word = node.flag("single_word", false);
    token.lstrip = node.flag("lstrip", false);
    token.rstrip = node.flag("rstrip", false);
    token.special = node.flag("special", false);
    token.normalized = node.flag("normalized", !token.special);
    if (token.content.empty()) node.refuse("is empty: remove it");
    if (!seen.insert(token.content).second) {
      node.refuse(fmt::format("gives '{}' again: remove one", printable(token.content)));
    }
    const auto known = model.vocab.find(token.content);
    const int64_t expected = known != model.vocab.end() ? known->second : next++;
    if (token.id != expected) {
      node.refuse(
          fmt::format("'{}' has the id {}, but by the vocabulary and the tokens before it "
                      "that is {}: was the file edited?",
                      printable(token.content), token.id, expected));
    }
    out.push_back(std::move(token));
  }
  return out;
}

}  // namespace

TokenizerSpec read_tokenizer(const nlohmann::json& file, const std::string& path) {
  const JsonNode root(file, path, "");
  if (!file.is_object()) throw IoError(path, "is not a tokenizer: download it again");
  TokenizerSpec out;
  if (const auto version = root.find("version"); version && version->string() != "1.0") {
    version->refuse_type(version->string(), "1.0");
  }
  for (const char* key : {"truncation", "padding"}) {
    if (const auto found = root.find(key)) found->refuse("is not supported; supported: null");
  }
  if (const auto node = root.find("normalizer")) read_normalizer(*node, out.normalizer);
  if (const auto node = root.find("pre_tokenizer")) read_pre_tokenizer(*node, out.pre_tokenizer);
  if (const auto node = root.find("decoder")) read_decoder(*node, out.decoder.emplace());
  out.model = read_model(root.at("model"), out.pre_tokenizer.byte_level);
  out.added_tokens = read_added_tokens(root, out.model);
  return out;
}

}  // namespace thermoe
