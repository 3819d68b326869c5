// Results as gemma3-run prints them: JSON objects and tables; runtime/commands/output.py.
#pragma once

#include <gemma3.h>

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "tokenizer.h"

namespace gemma3::host {

using text::Ids;
using text::Tokenizer;

using TopTokens = std::vector<std::pair<int32_t, double>>;

// What was generated for one prompt; `text` has no stop token and no stop text.
struct Completion {
  Ids tokens;
  std::string text;
  bool stopped = false;
  std::vector<TopTokens> logprobs;
  gemma3_timing timing{};
  std::string variant;  // of the programs that ran: "portable" or "kernels"
  std::string mesh;     // that they ran on
};

// Seconds on CLOCK_MONOTONIC, now and when this process began.
double now();
double process_started_at();

// The object that --json prints for one prompt. `loaded_at` is when weights and programs were
// ready.
std::string completion_json(const Completion& completion, bool logprobs, double loaded_at);
// Log-probabilities are missing where a label was left out.
using Logprobs = std::vector<std::optional<double>>;
std::string score_json(const Logprobs& logprobs, double loss);
// {"name": [values]}
std::string values_json(const char* name, const std::vector<double>& values);

// A table of a scored text's labels; `tokenizer` may be null.
std::string score_table(const Ids& labels, const Logprobs& logprobs, double loss,
                        const Tokenizer* tokenizer);
std::string classify_table(const std::vector<std::string>& labels,
                           const std::vector<double>& scores);
std::string embed_line(const std::vector<double>& vector);

// The statistics of a whole run, as a table; `devices` says what the mesh is made of.
std::string stats_table(const std::vector<Completion>& completions, double loaded_at,
                        const std::string& devices);

}  // namespace gemma3::host
