// Where images stand in a prompt: the text and the tokens around them; runtime/images/prompt.py.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "tokenizer.h"

namespace gemma3::text {

// What a text has where an image is to stand.
inline constexpr std::string_view kPlaceholder = "<start_of_image>";

// How a model writes an image: begin, `per_image` times soft, end.
struct ImageTokens {
  int32_t begin = 0, soft = 0, end = 0;
  size_t per_image = 0;
};

// How many places for images a text has.
size_t count_places(std::string_view text);

// Ids of a prompt with images, each written out, after <bos>; `crops` are the pan and scan crops of
// each. The text has a place for each of them, or none at all: then all stand in front of it.
Ids encode_prompt(const Tokenizer& tokenizer, std::string_view text, const std::vector<int>& crops,
                  const ImageTokens& tokens);

// Ids of a turn, which begins with who speaks and a newline; text and images as in encode_prompt.
Ids encode_turn(const Tokenizer& tokenizer, std::string_view speaker, std::string_view text,
                const std::vector<int>& crops, const ImageTokens& tokens);

// The text before the first image, between neighbours and after the last.
std::vector<std::string> texts_around_images(std::string_view text, const std::vector<int>& crops);

}  // namespace gemma3::text
