// The command line's texts, tokens and images as token ids and pixels.
#pragma once

#include <gemma3.h>

#include <memory>
#include <vector>

#include "bundle.h"
#include "images.h"
#include "options.h"
#include "tokenizer.h"

namespace gemma3::host {

// What a request goes on from.
struct Prompts {
  std::vector<Ids> ids;
  std::vector<float> pixels;  // of all images of the one prompt that has any, in order
  size_t images = 0;
  std::vector<int32_t> stop_tokens;  // that the form of the prompts and stop texts bring with them
  std::shared_ptr<const Tokenizer> tokenizer;  // null for a bundle without one

  // As the library takes them; valid as long as this object.
  std::vector<gemma3_prompt> view() const;
};

// Refuses what the bundle has no programs or no tokenizer for, before anything is loaded.
void refuse_impossible(const Options& options, const Bundle& bundle);

// What --labels says, for each time it is given. Throws UsageError.
std::vector<Ids> parse_labels(const std::vector<std::string>& texts);

// Reads tokenizer and images, and makes ids of the prompts. Throws UsageError.
Prompts read_prompts(const Options& options, const Bundle& bundle);

}  // namespace gemma3::host
