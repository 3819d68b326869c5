// What a bundle says of itself, through gemma3.h, before anything of it is loaded.
#pragma once

#include <gemma3.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "image_prompt.h"

namespace gemma3::host {

using text::Ids;
using text::Tokenizer;

// Throws what a failed call says: UsageError for what the user can put right, else
// std::runtime_error.
void check(gemma3_status status, const gemma3_error& error);

// A string or bytes that the library gave.
template <typename T>
using Given = std::unique_ptr<T, void (*)(T*)>;
template <typename T>
Given<T> given(T* memory) {
  return Given<T>(memory, [](T* held) { gemma3_free(held); });
}

struct VisionInfo {
  int image_size = 0;
  text::ImageTokens tokens;
};

struct TokenizerInfo {
  std::string path;
  bool add_bos = true;
  bool add_eos = false;
};

// One program of the grid of fixed shapes.
struct BucketInfo {
  std::string mesh, platform, program;
  int64_t batch = 0, cache = 0;
};

// Sizes of an open model.
gemma3_sizes sizes_of(const gemma3_model* model);

// An open bundle; closed at the end.
using BundleHandle = std::unique_ptr<gemma3_bundle, void (*)(gemma3_bundle*)>;
// Throws UsageError for a folder that holds no sound bundle.
BundleHandle open_bundle(const std::string& path);

// What the manifest of an open bundle says, and its files.
class Bundle {
 public:
  // `handle` outlives it. Throws UsageError for a bundle without weights.
  Bundle(const gemma3_bundle* handle, const std::string& path);

  const std::string& path() const { return path_; }
  const std::vector<BucketInfo>& buckets() const { return buckets_; }
  const std::optional<VisionInfo>& vision() const { return vision_; }
  const std::optional<TokenizerInfo>& tokenizer() const { return tokenizer_; }
  // Path and bytes of the task prompts.
  const std::optional<std::pair<std::string, int64_t>>& prompts() const { return prompts_; }
  const std::vector<std::string>& labels() const { return labels_; }
  const std::vector<int32_t>& eos_tokens() const { return eos_; }
  int32_t bos_token() const { return bos_; }
  int64_t vocab_size() const { return vocab_size_; }
  // What the score program gives besides log-probabilities.
  const std::set<std::string>& score_outputs() const { return score_outputs_; }

  // The contents of a file of the manifest, its digest compared.
  std::string file(const std::string& name) const;
  // The names of the programs there are.
  std::set<std::string> programs() const;
  // The most positions a row can have in programs of `mesh` and `platform` that take in a prompt
  // and go on from it, with images if `images`, a token at a time if `stepping`; 0 if none can.
  int64_t most_positions(const std::string& mesh, const std::string& platform, bool images,
                         bool stepping) const;

 private:
  void read(const std::string& json);

  std::string path_;
  const gemma3_bundle* handle_;
  std::vector<BucketInfo> buckets_;
  std::optional<VisionInfo> vision_;
  std::optional<TokenizerInfo> tokenizer_;
  std::optional<std::pair<std::string, int64_t>> prompts_;
  std::vector<std::string> labels_;
  std::vector<int32_t> eos_;
  int32_t bos_ = 0;
  int64_t vocab_size_ = 0;
  std::set<std::string> score_outputs_;
  bool abstract_ = false;
};

}  // namespace gemma3::host
