// Log-probabilities of given texts, and what the model thought on the way (runtime/requests/score.py).

#include <algorithm>

#include "cancel.h"
#include "convention.h"
#include "error.h"
#include "tasks.h"
#include "texts.h"

namespace gemma3 {
namespace {

void check_label(const Model &model, int32_t label, const std::string &where) {
  const int64_t vocab = model.manifest().model.vocab_size;
  if (label == kIgnoredLabel || (label >= 0 && label < vocab)) return;
  refuse(where + ": expected ids from 0 to " + std::to_string(vocab - 1) + " or " +
         std::to_string(kIgnoredLabel) + " for none, got " + std::to_string(label));
}

void check_labels(const Model &model, const gemma3_scoring &scoring) {
  if (scoring.labels == nullptr) return;
  if (scoring.label_count != scoring.prompt_count) {
    refuse("labels: expected some for each of the " + std::to_string(scoring.prompt_count) +
           " prompts, got " + std::to_string(scoring.label_count));
  }
  for (size_t i = 0; i < scoring.label_count; ++i) {
    const gemma3_labels &labels = scoring.labels[i];
    const std::string where = "labels of prompt " + std::to_string(i + 1);
    const size_t count = labels.ids == nullptr ? 0 : labels.count;
    if (count != scoring.prompts[i].count) {
      refuse(where + ": expected one for each of its " + std::to_string(scoring.prompts[i].count) +
             " tokens, got " + std::to_string(count));
    }
    bool any = false;
    for (size_t at = 0; at < count; ++at) {
      check_label(model, labels.ids[at], where);
      any = any || (at > 0 && labels.ids[at] != kIgnoredLabel);
    }
    if (any) continue;
    refuse(where + " are all " + std::to_string(kIgnoredLabel) +
           " after the first: there is nothing to predict; pass the id of a token where one is to "
           "be scored");
  }
}

void check_outputs(const Model &model, const gemma3_scoring &scoring) {
  const std::vector<std::string> &there = model.manifest().score_outputs;
  const std::pair<const char *, const float *> wanted[] = {{"hidden_states", scoring.hidden_states},
                                                           {"attentions", scoring.attentions}};
  for (const auto &[name, numbers] : wanted) {
    if (numbers == nullptr || std::find(there.begin(), there.end(), name) != there.end()) continue;
    std::string all = "logprobs";
    for (const std::string &one : there) all += ", " + one;
    refuse(std::string(name) + ": " + model.grid().source() + " has a score program that gives " +
           all + "; re-export with --outputs " + name);
  }
}

// How many numbers the results of a text have.
struct Sizes {
  size_t logprobs = 0, hidden_states = 0, attentions = 0;

  Sizes(const ModelRecord &model, size_t count) : logprobs(count - 1) {
    const auto layers = static_cast<size_t>(model.num_hidden_layers);
    hidden_states = (layers + 1) * count * static_cast<size_t>(model.hidden_size);
    attentions = layers * static_cast<size_t>(model.num_attention_heads) * count * count;
  }
};

// Where results go: those of one text after those of another.
struct Places {
  float *logprobs = nullptr, *hidden_states = nullptr, *attentions = nullptr;

  void move_on(const Sizes &sizes) {
    logprobs += sizes.logprobs;
    if (hidden_states != nullptr) hidden_states += sizes.hidden_states;
    if (attentions != nullptr) attentions += sizes.attentions;
  }
};

void check_room(const Model &model, const gemma3_scoring &scoring) {
  size_t logprobs = 0, hidden_states = 0, attentions = 0;
  for (size_t i = 0; i < scoring.prompt_count; ++i) {
    const Sizes sizes(model.manifest().model, scoring.prompts[i].count);
    logprobs += sizes.logprobs;
    hidden_states += sizes.hidden_states;
    attentions += sizes.attentions;
  }
  require_room("logprobs", scoring.logprobs_capacity, logprobs);
  if (scoring.losses != nullptr) {
    require_room("losses", scoring.losses_capacity, scoring.prompt_count);
  }
  if (scoring.hidden_states != nullptr) {
    require_room("hidden_states", scoring.hidden_states_capacity, hidden_states);
  }
  if (scoring.attentions != nullptr) {
    require_room("attentions", scoring.attentions_capacity, attentions);
  }
}

// The labels of the texts of a group.
std::vector<Tokens> labels_of(const gemma3_scoring &scoring, const Group &group) {
  if (scoring.labels == nullptr) return texts_of(scoring.prompts, group.first, group.count);
  std::vector<Tokens> found;
  for (size_t i = group.first; i < group.first + group.count; ++i) {
    const gemma3_labels &labels = scoring.labels[i];
    found.emplace_back(labels.ids, labels.ids + labels.count);
  }
  return found;
}

// What `program` gives by name, in the memory of the host.
HostArray fetch_named(const LoadedProgram &program, const std::vector<Shards> &outputs,
                      const char *name) {
  const std::vector<Tensor> &tensors = program.record().outputs;
  for (size_t i = 0; i < tensors.size(); ++i) {
    if (tensors[i].name == name) return program.fetch(outputs, i);
  }
  fail(std::string("the score program gives no ") + name);
}

// Copies rows [layers,batch,size,width] of a call to where they belong in [layers,count,width].
void take_hidden_states(const HostArray &table, const PrefillCall &call,
                        const std::vector<Tokens> &texts, const std::vector<Places> &places) {
  const int64_t layers = table.shape()[0], batch = table.shape()[1], width = table.shape()[3];
  for (size_t row = 0; row < texts.size(); ++row) {
    const auto [start, length] = call.rows[row];
    if (length == 0) continue;
    const auto count = static_cast<int64_t>(texts[row].size());
    for (int64_t layer = 0; layer < layers; ++layer) {
      const int64_t from = (layer * batch + static_cast<int64_t>(row)) * call.size;
      std::copy_n(table.data<float>() + from * width, length * width,
                  places[row].hidden_states + (layer * count + start) * width);
    }
  }
}

// Copies rows [layers,batch,heads,size,slots] to where they belong in [layers,heads,count,count].
void take_attentions(const HostArray &table, const PrefillCall &call,
                     const std::vector<Tokens> &texts, const std::vector<Places> &places) {
  const Shape &shape = table.shape();
  const int64_t batch = shape[1], heads = shape[2], slots = shape[4];
  for (size_t row = 0; row < texts.size(); ++row) {
    const auto [start, length] = call.rows[row];
    if (length == 0) continue;
    const auto count = static_cast<int64_t>(texts[row].size());
    for (int64_t at = 0; at < shape[0] * heads * length; ++at) {
      const int64_t layer = at / (heads * length), head = at / length % heads, place = at % length;
      const int64_t matrix = (layer * batch + static_cast<int64_t>(row)) * heads + head;
      std::copy_n(
          table.data<float>() + (matrix * call.size + place) * slots, count,
          places[row].attentions + ((layer * heads + head) * count + start + place) * count);
    }
  }
}

// Scores the texts of a group; `places` are those of its texts.
void score_group(Model &model, const gemma3_scoring &scoring, const Group &group,
                 const std::vector<Places> &places) {
  const gemma3_prompt *prompts = scoring.prompts + group.first;
  const std::vector<Tokens> texts = texts_of(prompts, 0, group.count);
  const auto take = [&](const LoadedProgram &program, const std::vector<Shards> &outputs,
                        const PrefillCall &call) {
    const HostArray table = program.fetch(outputs, 0);
    for (size_t row = 0; row < texts.size(); ++row) {
      const auto [start, length] = call.rows[row];
      const auto wanted = static_cast<int64_t>(texts[row].size()) - 1;
      const int64_t here = std::clamp<int64_t>(wanted - start, 0, length);
      std::copy_n(table.data<float>() + static_cast<int64_t>(row) * call.size, here,
                  places[row].logprobs + std::min(start, wanted));
    }
    if (scoring.hidden_states != nullptr) {
      take_hidden_states(fetch_named(program, outputs, "hidden_states"), call, texts, places);
    }
    if (scoring.attentions != nullptr) {
      take_attentions(fetch_named(program, outputs, "attentions"), call, texts, places);
    }
  };
  read_texts(model, kScoring, group, prompts, texts, labels_of(scoring, group), take,
             between_of(scoring.cancel));
}

// The mean of the negative log-probabilities of the labels that count; zeros the others.
double loss_of(const Tokens &labels, float *logprobs) {
  double total = 0;
  int64_t count = 0;
  for (size_t i = 0; i + 1 < labels.size(); ++i) {
    if (labels[i + 1] == kIgnoredLabel) {
      logprobs[i] = 0;
    } else {
      total -= static_cast<double>(logprobs[i]);
      ++count;
    }
  }
  return total / static_cast<double>(count);
}

}  // namespace

void score(Model &model, const gemma3_scoring &scoring) {
  const std::vector<Group> groups = plan_score(model, scoring.prompts, scoring.prompt_count);
  check_labels(model, scoring);
  check_outputs(model, scoring);
  check_room(model, scoring);
  model.prepare(text_buckets(model, GEMMA3_TASK_SCORE, scoring.prompts, scoring.prompt_count),
                between_of(scoring.cancel));
  Places next{scoring.logprobs, scoring.hidden_states, scoring.attentions};
  for (const Group &group : groups) {
    const std::vector<Tokens> labels = labels_of(scoring, group);
    std::vector<Places> places;
    for (const Tokens &own : labels) {
      places.push_back(next);
      next.move_on(Sizes(model.manifest().model, own.size()));
    }
    score_group(model, scoring, group, places);
    for (size_t row = 0; row < labels.size(); ++row) {
      const double loss = loss_of(labels[row], places[row].logprobs);
      if (scoring.losses != nullptr) scoring.losses[group.first + row] = loss;
    }
  }
}

}  // namespace gemma3
