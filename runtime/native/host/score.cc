#include "score.h"

#include <cmath>
#include <limits>
#include <memory>

#include "error.h"
#include "generate.h"
#include "npz.h"
#include "report.h"

namespace gemma3::host {
namespace {

// Room for one output of all prompts, of `each(tokens)` numbers for one after another; none where it
// was not asked for. What is written is not zeroed before.
class Room {
 public:
  template <typename Each>
  Room(bool wanted, const std::vector<Ids>& prompts, Each each) {
    if (!wanted) return;
    starts_.push_back(0);
    for (const Ids& ids : prompts) {
      const auto tokens = static_cast<int64_t>(ids.size());
      starts_.push_back(starts_.back() + static_cast<size_t>(each(tokens)));
    }
    numbers_.reset(new float[size()]);
  }
  float* data() const { return numbers_.get(); }
  size_t size() const { return starts_.empty() ? 0 : starts_.back(); }
  const float* of(size_t prompt) const {
    return starts_.empty() ? nullptr : data() + starts_[prompt];
  }

 private:
  std::vector<size_t> starts_;
  std::unique_ptr<float[]> numbers_;
};

// What scoring gave, for all prompts one after another.
struct Scores {
  std::vector<float> logprobs;
  std::vector<double> losses;
  Room hidden_states, attentions;
};

bool gives(const Bundle& bundle, const char* output) {
  return bundle.score_outputs().count(output) > 0;
}

Scores run(gemma3_model* model, const Options& options, const Bundle& bundle,
           const Prompts& prompts, const std::vector<Ids>& labels) {
  const std::vector<gemma3_prompt> view = prompts.view();
  gemma3_request request{};
  request.size = sizeof request;
  request.prompts = view.data();
  request.prompt_size = sizeof view[0];
  request.prompt_count = view.size();
  request.task = GEMMA3_TASK_SCORE;
  gemma3_error error;
  check(gemma3_check_request(model, &request, &error), error);  // before room is made for it
  const gemma3_sizes sizes = sizes_of(model);
  const auto states = [&sizes](int64_t tokens) {
    return (sizes.layers + 1) * tokens * sizes.width;
  };
  const auto weights = [&sizes](int64_t tokens) {
    return sizes.layers * sizes.heads * tokens * tokens;
  };
  const bool wanted = options.outputs_to.has_value();
  size_t count = 0;
  for (const Ids& ids : prompts.ids) count += ids.empty() ? 0 : ids.size() - 1;
  Scores scores{std::vector<float>(count), std::vector<double>(prompts.ids.size()),
                Room(wanted && gives(bundle, "hidden_states"), prompts.ids, states),
                Room(wanted && gives(bundle, "attentions"), prompts.ids, weights)};
  std::vector<gemma3_labels> label_view;
  for (const Ids& ids : labels) label_view.push_back({ids.data(), ids.size()});
  gemma3_scoring scoring{};
  scoring.size = sizeof scoring;
  scoring.prompts = view.data();
  scoring.prompt_size = sizeof view[0];
  scoring.prompt_count = view.size();
  scoring.labels = labels.empty() ? nullptr : label_view.data();
  scoring.label_size = sizeof(gemma3_labels);
  scoring.label_count = labels.size();
  scoring.logprobs = scores.logprobs.data();
  scoring.logprobs_capacity = scores.logprobs.size();
  scoring.losses = scores.losses.data();
  scoring.losses_capacity = scores.losses.size();
  scoring.hidden_states = scores.hidden_states.data();
  scoring.hidden_states_capacity = scores.hidden_states.size();
  scoring.attentions = scores.attentions.data();
  scoring.attentions_capacity = scores.attentions.size();
  check(gemma3_score(model, &scoring, &error), error);
  return scores;
}

// The log-probabilities of one prompt; nothing where a label is left out.
std::vector<std::optional<double>> own_logprobs(const float* all, const Ids& labels) {
  std::vector<std::optional<double>> own;
  for (size_t i = 1; i < labels.size(); ++i) {
    own.emplace_back(labels[i] == GEMMA3_NO_LABEL ? std::nullopt
                                                  : std::optional<double>(all[i - 1]));
  }
  return own;
}

void write_outputs(const Options& options, const gemma3_sizes& sizes, const Prompts& prompts,
                   const std::vector<Ids>& labels, const Scores& scores) {
  NpzWriter file(*options.outputs_to);
  const float* logprobs = scores.logprobs.data();
  for (size_t i = 0; i < prompts.ids.size(); ++i) {
    const auto count = static_cast<int64_t>(prompts.ids[i].size());
    const std::string ending = prompts.ids.size() > 1 ? "_" + std::to_string(i + 1) : "";
    std::vector<float> known(logprobs, logprobs + count - 1);
    for (size_t at = 0; at < known.size(); ++at) {
      if (labels[i][at + 1] == GEMMA3_NO_LABEL) known[at] = std::numeric_limits<float>::quiet_NaN();
    }
    logprobs += count - 1;
    file.add("tokens" + ending, {count}, prompts.ids[i].data());
    file.add("logprobs" + ending, {count - 1}, known.data());
    if (const float* states = scores.hidden_states.of(i)) {
      file.add("hidden_states" + ending, {sizes.layers + 1, count, sizes.width}, states);
    }
    if (const float* weights = scores.attentions.of(i)) {
      file.add("attentions" + ending, {sizes.layers, sizes.heads, count, count}, weights);
    }
  }
  file.finish();
}

}  // namespace

void score(gemma3_model* model, const Options& options, const Bundle& bundle,
           const Prompts& prompts, StatusLine& status) {
  const std::vector<Ids> given = parse_labels(options.labels, bundle.vocab_size());
  if (options.outputs_to && bundle.score_outputs().empty()) {
    throw UsageError("--outputs-to: the score program of " + bundle.path() +
                     " gives log-probabilities only; re-export with --outputs "
                     "hidden_states,attentions");
  }
  status.say("scoring");
  const Scores scores = run(model, options, bundle, prompts, given);
  status.say("");
  const std::vector<Ids>& labels = given.empty() ? prompts.ids : given;
  if (options.outputs_to) write_outputs(options, sizes_of(model), prompts, labels, scores);
  const float* at = scores.logprobs.data();
  for (size_t i = 0; i < labels.size(); ++i) {
    const auto own = own_logprobs(at, labels[i]);
    at += own.size();
    put((options.prints_text()
             ? score_table(labels[i], own, scores.losses[i], prompts.tokenizer.get())
             : score_json(own, scores.losses[i])) +
        "\n");
  }
}

}  // namespace gemma3::host
