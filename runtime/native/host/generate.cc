#include "generate.h"

#if defined(__GLIBC__)
#include <malloc.h>
#endif

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <exception>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>

#include "error.h"
#include "text_stream.h"

namespace gemma3::host {
namespace {

constexpr int64_t kDefaultNewTokens = 64;
// Tokens of one call of the device loop while somebody reads along or a stop text may end it.
constexpr uint32_t kStreamTokens = 8;

// What one prompt has got so far.
class Row {
 public:
  Row(const Tokenizer* tokenizer, const Options& options) {
    if (tokenizer) stream_.emplace(tokenizer->decoder(options.special), options.stop);
  }

  // Adds a new token; the text to show.
  std::string take(const gemma3_token& token) {
    completion_.tokens.push_back(token.token);
    TopTokens top;
    for (uint32_t i = 0; i < token.top_count; ++i) {
      top.emplace_back(token.top_tokens[i], token.top_logprobs[i]);
    }
    if (token.top_count) completion_.logprobs.push_back(std::move(top));
    completion_.stopped = token.finish == GEMMA3_FINISH_STOP;
    if (!stream_ || completion_.stopped) return {};
    const std::string shown = stream_->push(token.token);
    met_stop_text_ = stream_->stopped();
    return shown;
  }

  bool met_stop_text() const { return met_stop_text_; }

  // The last text to show, once no token follows.
  std::string close() { return stream_ ? stream_->close() : std::string(); }

  Completion completion(const gemma3_timing& timing) {
    if (stream_) completion_.text = stream_->text();
    completion_.stopped |= met_stop_text_;
    completion_.timing = timing;
    return std::move(completion_);
  }

 private:
  std::optional<text::TextStream> stream_;
  Completion completion_;
  bool met_stop_text_ = false;
};

// The rows of a request, told of tokens by the library.
struct Receiver {
  std::vector<Row> rows;
  bool streams = false;
  StatusLine* status = nullptr;
  std::exception_ptr failure;

  void show(const std::string& text) {
    if (!streams || text.empty()) return;
    status->say("");
    put(text);
  }

  // Nothing may be thrown through the library.
  static int32_t take(void* user, const gemma3_token* token) {
    auto* self = static_cast<Receiver*>(user);
    if (self->failure) return GEMMA3_CANCEL;  // told of the rest of the call that drew it
    try {
      Row& row = self->rows.at(token->prompt);
      if (row.met_stop_text()) return GEMMA3_FINISH_ROW;
      self->show(row.take(*token));
      return row.met_stop_text() ? GEMMA3_FINISH_ROW : GEMMA3_CONTINUE;
    } catch (...) {
      self->failure = std::current_exception();
      return GEMMA3_CANCEL;
    }
  }
};

uint32_t count_of(int64_t value) {
  return static_cast<uint32_t>(std::clamp<int64_t>(value, 0, std::numeric_limits<int32_t>::max()));
}

// Brought to what float32 holds: a zero in the struct stands for the default.
gemma3_sampling sampling_of(const Options& options) {
  gemma3_sampling sampling = {};
#define GEMMA3_SET(name, type, dtype, neutral, least, most, above_least, least_fed, most_fed, ...) \
  {                                                                                                \
    const auto number = static_cast<double>(options.sampling.name);                                \
    sampling.name = static_cast<type>(                                                             \
        number == (neutral) ? number : std::clamp<double>(number, least_fed, most_fed));           \
  }
  GEMMA3_SAMPLING(GEMMA3_SET)
#undef GEMMA3_SET
  return sampling;
}

// gemma3_model_info.
nlohmann::json info_of(const gemma3_model* model) {
  gemma3_error error;
  char* text = nullptr;
  check(gemma3_model_info(model, &text, &error), error);
  return nlohmann::json::parse(given(text).get());
}

// What the mesh of a model is made of, and which others the bundle has.
std::string devices_text(const nlohmann::json& info) {
  const auto count = info.at("devices").at("count").get<int64_t>();
  std::string others;
  for (const auto& mesh : info.at("meshes")) {
    const auto name = mesh.at("name").get<std::string>();
    if (name != info.at("mesh")) others += (others.empty() ? "" : ", ") + name;
  }
  return std::to_string(count) + " " + info.at("platform").get<std::string>() + " device" +
         (count == 1 ? "" : "s") + (others.empty() ? "" : "; the bundle has " + others + " too");
}

// How many tokens to ask for where the user does not say: what fits, up to the default.
uint32_t default_new_tokens(const nlohmann::json& info, const Options& options,
                            const Bundle& bundle, const Prompts& prompts) {
  const int64_t most = bundle.most_positions(info.at("mesh"), info.at("platform"),
                                             prompts.images > 0, options.logprobs.has_value());
  size_t longest = 0;
  for (const Ids& ids : prompts.ids) longest = std::max(longest, ids.size());
  const int64_t fits = most - static_cast<int64_t>(longest);
  // Where 1 does not fit, a refusal says so.
  return count_of(std::max<int64_t>(1, std::min(kDefaultNewTokens, fits)));
}

// "kernels" once a program that calls them was loaded, else "portable".
std::string variant_of(const gemma3_model* model) {
  gemma3_error error;
  char* text = nullptr;
  check(gemma3_model_stats(model, &text, &error), error);
  return nlohmann::json::parse(given(text).get()).at("variant");
}

}  // namespace

void put(std::string_view text) {
  const bool written = std::fwrite(text.data(), 1, text.size(), stdout) == text.size();
  if (!written || std::fflush(stdout) != 0) throw OutputClosed{errno};
}

void generate(gemma3_model* model, const Options& options, const Bundle& bundle,
              const Prompts& prompts, StatusLine& status) {
  Receiver receiver;
  receiver.streams = options.prints_text();
  receiver.status = &status;
  receiver.rows.assign(prompts.ids.size(), Row(prompts.tokenizer.get(), options));
  const std::vector<gemma3_prompt> view = prompts.view();
  const gemma3_sampling sampling = sampling_of(options);
  const nlohmann::json info = info_of(model);
  gemma3_request request{};
  request.size = sizeof request;
  request.prompts = view.data();
  request.prompt_size = sizeof view[0];
  request.prompt_count = view.size();
  request.max_new_tokens = options.max_new_tokens
                               ? count_of(*options.max_new_tokens)
                               : default_new_tokens(info, options, bundle, prompts);
  if (options.logprobs.value_or(0) > bundle.vocab_size()) {
    throw UsageError("logprobs: expected 0 to " + std::to_string(bundle.vocab_size()) +
                     " (the vocabulary), got " + std::to_string(*options.logprobs));
  }
  request.logprobs = count_of(options.logprobs.value_or(0));
  request.sampling = &sampling;
  request.sampling_size = sizeof sampling;
  request.stop_tokens = prompts.stop_tokens.data();
  request.stop_count = prompts.stop_tokens.size();
  request.chunk = receiver.streams || !options.stop.empty() ? kStreamTokens : 0;
  request.task = GEMMA3_TASK_GENERATE;
  request.flags = options.ignore_eos ? GEMMA3_IGNORE_EOS : 0;

  gemma3_error error;
  check(gemma3_check_request(model, &request, &error), error);
  status.say("compiling");
  check(gemma3_prepare(model, &request, &error), error);
#if defined(__GLIBC__)
  malloc_trim(0);  // what reading programs and tokenizer has freed goes back to the system
#endif
  const double loaded_at = now();
  status.say(receiver.streams ? "reading the prompt" : "generating");
  std::vector<gemma3_timing> timings(view.size());
  request.timings = timings.data();
  request.timing_size = sizeof timings[0];
  request.timing_capacity = timings.size();
  const gemma3_status done = gemma3_generate(model, &request, Receiver::take, &receiver, &error);
  if (receiver.failure) std::rethrow_exception(receiver.failure);
  check(done, error);

  const std::string variant = variant_of(model);
  std::vector<Completion> completions;
  for (size_t i = 0; i < view.size(); ++i) {
    receiver.show(receiver.rows[i].close());
    completions.push_back(receiver.rows[i].completion(timings[i]));
    completions.back().variant = variant;
    completions.back().mesh = info.at("mesh");
    status.say("");
    put((receiver.streams ? std::string()
                          : completion_json(completions[i], request.logprobs > 0, loaded_at)) +
        "\n");
  }
  if (options.stats) {
    std::fputs(stats_table(completions, loaded_at, devices_text(info)).c_str(), stderr);
  }
}

}  // namespace gemma3::host
