// The command line of gemma3-host: that of gemma3-run, and what a native host needs besides.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <type_traits>
#include <vector>

#include "sampling_table.h"

namespace gemma3::host {

// A value of each sampling parameter as wide as people may write it, by default its neutral one.
template <typename T>
using Wide = std::conditional_t<std::is_floating_point_v<T>, double, int64_t>;
struct SamplingOptions {
#define GEMMA3_FIELD(name, type, dtype, neutral, ...) \
  Wide<type> name = static_cast<Wide<type>>(neutral);
  GEMMA3_SAMPLING(GEMMA3_FIELD)
#undef GEMMA3_FIELD
};

struct Options {
  std::string bundle;
  std::vector<std::string> prompts;  // their texts, wherever they came from
  std::vector<std::string> prompt_files;
  std::vector<std::string> tokens;
  std::vector<std::filesystem::path> images;
  bool pan_and_scan = false;
  bool chat = false;
  std::optional<int64_t> max_new_tokens;
  SamplingOptions sampling;
  std::vector<std::string> stop;
  bool special = false;
  bool ignore_eos = false;
  std::optional<int64_t> logprobs;
  bool score = false;
  std::vector<std::string> labels;
  std::optional<std::filesystem::path> outputs_to;
  bool classify = false;
  bool embed = false;
  std::optional<std::string> task;
  std::optional<std::string> mesh;
  std::optional<std::string> platform;
  std::optional<std::filesystem::path> require_signature;
  std::optional<std::string> server;
  bool json = false;
  bool stats = false;

  std::optional<std::string> plugin;
  std::optional<std::string> client_options;
  std::optional<std::string> cache_dir;
  std::optional<std::string> kernels;
  bool no_cache = false;
  bool copy_weights = false;
  bool check = false;
  bool compile = false;

  bool help = false;
  bool version = false;

  size_t prompt_count() const { return prompts.empty() ? tokens.size() : prompts.size(); }
  // True when the output is for people: one prompt, and no JSON asked for.
  bool prints_text() const { return prompt_count() == 1 && !json && !logprobs; }
};

// Reads the arguments after the program's name. Throws UsageError for what it cannot read, and
// for flags that exclude each other.
Options parse_options(const std::vector<std::string>& arguments);

// What --help prints.
std::string help_text();

}  // namespace gemma3::host
