// Where images stand in a prompt: the text and the tokens around them; runtime/images/prompt.py.
#pragma once

#include <string>
#include <vector>

#include "bundle.h"
#include "tokenizer.h"

namespace gemma3::host {

// Ids of a prompt with images, each written out, after <bos>.
//
// In `text` <start_of_image> stands for an image, in order; a text without any gets all images in
// front of it. `crops` are the pan and scan crops of each image. `chat` makes it the user's turn
// of a conversation that the model is to answer. Throws UsageError when the text has places for
// another number of images.
Ids encode_prompt(const Tokenizer& tokenizer, const std::string& text,
                  const std::vector<int>& crops, const VisionInfo& vision, bool chat);

// The text before the first image, between neighbours and after the last.
std::vector<std::string> texts_around_images(const std::string& text,
                                             const std::vector<int>& crops);

}  // namespace gemma3::host
