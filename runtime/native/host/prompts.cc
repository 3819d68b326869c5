#include "prompts.h"

#include <charconv>
#include <limits>

#include "error.h"
#include "chat.h"
#include "task_prompts.h"
#include "unicode.h"

namespace gemma3::host {
namespace {

// The numbers of a list such as 2,17,18; those that no int32 holds, by `too_large`, which throws.
template <typename TooLarge>
Ids parse_ids(const std::string& flag, const char* example, const std::string& text,
              TooLarge too_large) {
  Ids ids;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t comma = std::min(text.find(',', begin), text.size());
    const std::string digits = strip(text.substr(begin, comma - begin));
    const char* first = digits.c_str() + (digits.rfind('+', 0) == 0 ? 1 : 0);
    const char* last = digits.c_str() + digits.size();
    int64_t value = 0;
    const auto parsed = std::from_chars(first, last, value);
    if (parsed.ptr != last || first == last) {
      throw UsageError(flag + ": expected ids separated by commas, such as " + example + ", got " +
                       in_quotes(text));
    }
    const auto id = static_cast<int32_t>(value);
    if (parsed.ec == std::errc::result_out_of_range || id != value) too_large(ids.size(), digits);
    ids.push_back(id);
    begin = comma + 1;
  }
  return ids;
}

Ids parse_tokens(const std::string& text, const Bundle& bundle, size_t prompt) {
  const auto too_large = [&](size_t index, const std::string& digits) {
    throw UsageError("token " + std::to_string(index + 1) + " of prompt " +
                     std::to_string(prompt + 1) + " is " + digits + ": expected an id from 0 to " +
                     std::to_string(bundle.vocab_size() - 1) + " (vocabulary of " + bundle.path() +
                     ")");
  };
  return parse_ids("--tokens", "2,17,18", text, too_large);
}

// `before` stands before the text; a turn of a conversation has no place for it.
Ids encode_text(const std::string& before, const std::string& text, const Options& options,
                const Bundle& bundle, const Tokenizer& tokenizer) {
  if (options.chat && !before.empty()) {
    throw UsageError("--embed with --chat: the model puts " + in_quotes(before) +
                     " before a text, which a turn of a conversation has no place for: leave "
                     "--chat out");
  }
  if (options.chat) return tokenizer.chat(text);
  const TokenizerInfo& info = *bundle.tokenizer();
  Ids ids = tokenizer.encode(before + text, info.add_bos);
  // An end token would end a text that is to go on.
  const bool whole = (options.classify || options.embed) && info.add_eos;
  if (whole && !bundle.eos_tokens().empty()) ids.push_back(bundle.eos_tokens()[0]);
  return ids;
}

Ids encode_with_images(const std::string& text, const std::vector<int>& crops,
                       const Options& options, const Bundle& bundle, const Tokenizer& tokenizer) {
  const size_t places = text::count_places(text);
  if (places > 0 && places != crops.size()) {
    throw UsageError("--prompt has " + std::to_string(places) + " times " +
                     std::string(text::kPlaceholder) + " but --image brings " +
                     std::to_string(crops.size()) +
                     "; write it once for each image, or leave it out to put all in front");
  }
  const text::ImageTokens& tokens = bundle.vision()->tokens;
  if (!options.chat) return text::encode_prompt(tokenizer, text, crops, tokens);
  return text::encode_chat(tokenizer, {{"user", text}}, crops, tokens);
}

}  // namespace

std::vector<gemma3_prompt> Prompts::view() const {
  std::vector<gemma3_prompt> prompts;
  for (const Ids& one : ids) {
    prompts.push_back({one.data(), one.size(), images ? pixels.data() : nullptr, images});
  }
  return prompts;
}

void refuse_impossible(const Options& options, const Bundle& bundle) {
  const std::set<std::string> names = bundle.programs();
  struct Head {
    const char *program, *kind;
    bool asked;
  };
  for (const Head& head : {Head{"classify", "a classifier", options.classify},
                           Head{"embed", "an embedding model", options.embed}}) {
    if (names == std::set<std::string>{head.program} && !head.asked) {
      throw UsageError(bundle.path() + " holds " + head.kind + " and has no other program than " +
                       head.program + ": pass --" + head.program +
                       ", or export another checkpoint");
    }
  }
  std::string all;
  for (const std::string& name : names) all += (all.empty() ? "" : ", ") + name;
  const std::pair<const char*, const char*> needs[] = {
      {options.images.empty() ? nullptr : "--image", "encode_image"},
      {options.images.empty() || !options.score ? nullptr : "--image with --score", "score_images"},
      {options.images.empty() || !options.classify ? nullptr : "--image with --classify",
       "classify_images"},
      {options.classify ? "--classify" : nullptr, "classify"},
      {options.embed ? "--embed" : nullptr, "embed"},
  };
  for (const auto& [flag, program] : needs) {
    if (flag && !names.count(program)) {
      throw UsageError(std::string(flag) + ": " + bundle.path() + " has no " + program +
                       " program (it has " + all + "); export a checkpoint that needs one, with " +
                       program + " among --programs where they are named");
    }
  }
  const bool generates = !options.score && !options.classify && !options.embed;
  const bool needs_text =
      !options.prompts.empty() || !options.stop.empty() || (generates && options.prints_text());
  if (needs_text && !bundle.tokenizer()) {
    throw UsageError(bundle.path() +
                     "/manifest.json names no tokenizer: pass --tokens and --json, or export from "
                     "a checkpoint that has a tokenizer");
  }
}

std::vector<Ids> parse_labels(const std::vector<std::string>& texts, int64_t vocab_size) {
  std::vector<Ids> labels;
  for (const std::string& text : texts) {
    const auto too_large = [&](size_t, const std::string& digits) {
      throw UsageError("labels of prompt " + std::to_string(labels.size() + 1) +
                       ": expected ids from 0 to " + std::to_string(vocab_size - 1) +
                       " or -100 for none, got " + digits);
    };
    labels.push_back(parse_ids("--labels", "-100,17,18", text, too_large));
  }
  return labels;
}

Prompts read_prompts(const Options& options, const Bundle& bundle) {
  Prompts prompts;
  for (size_t i = 0; i < options.tokens.size(); ++i) {
    prompts.ids.push_back(parse_tokens(options.tokens[i], bundle, i));
  }
  std::vector<int> crops;
  if (!options.images.empty()) {
    const int size = bundle.vision()->image_size;
    for (const Picture& picture : load_images(options.images, size, options.pan_and_scan)) {
      crops.push_back(picture.crops);
      prompts.images += 1 + static_cast<size_t>(picture.crops);
      prompts.pixels.insert(prompts.pixels.end(), picture.pixels.begin(), picture.pixels.end());
    }
  }
  if (!bundle.tokenizer()) return prompts;
  const std::string& file = bundle.tokenizer()->path;
  const auto tokenizer = std::make_shared<const Tokenizer>(
      bundle.file(file), bundle.path() + "/" + file, bundle.bos_token());
  prompts.tokenizer = tokenizer;
  if (options.chat && !options.ignore_eos) {
    prompts.stop_tokens.push_back(tokenizer->steering_id(text::kEndOfTurn));
  }
  for (const std::string& text : options.stop) {
    const int32_t token = tokenizer->stop_token(text, options.special);
    if (token >= 0) prompts.stop_tokens.push_back(token);
  }
  const std::string before = options.embed ? task_text(options.task, bundle) : "";
  for (const std::string& text : options.prompts) {
    prompts.ids.push_back(crops.empty()
                              ? encode_text(before, text, options, bundle, *tokenizer)
                              : encode_with_images(text, crops, options, bundle, *tokenizer));
  }
  return prompts;
}

}  // namespace gemma3::host
