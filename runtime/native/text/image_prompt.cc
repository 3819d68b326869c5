#include "image_prompt.h"

#include "unicode.h"

namespace gemma3::text {
namespace {

constexpr const char* kAround = "\n\n";  // before and after every image
constexpr const char* kCropsBefore = "Here is the original image ";
constexpr const char* kCropsBetween = " and here are some crops to help you see better ";

std::vector<std::string> split(std::string_view text) {
  std::vector<std::string> parts;
  for (size_t at; (at = text.find(kPlaceholder)) != text.npos;) {
    parts.emplace_back(text.substr(0, at));
    text.remove_prefix(at + kPlaceholder.size());
  }
  parts.emplace_back(text);
  return parts;
}

// Ids of texts with an image between neighbours.
Ids encode(const Tokenizer& tokenizer, const std::vector<std::string>& texts,
           const ImageTokens& tokens, bool add_bos) {
  Ids ids = tokenizer.encode(texts[0], add_bos);
  for (size_t i = 1; i < texts.size(); ++i) {
    ids.push_back(tokens.begin);
    ids.insert(ids.end(), tokens.per_image, tokens.soft);
    ids.push_back(tokens.end);
    const Ids piece = tokenizer.encode(texts[i], false);
    ids.insert(ids.end(), piece.begin(), piece.end());
  }
  return ids;
}

}  // namespace

size_t count_places(std::string_view text) { return split(text).size() - 1; }

Ids encode_prompt(const Tokenizer& tokenizer, std::string_view text, const std::vector<int>& crops,
                  const ImageTokens& tokens) {
  return encode(tokenizer, texts_around_images(text, crops), tokens, true);
}

Ids encode_turn(const Tokenizer& tokenizer, std::string_view speaker, std::string_view text,
                const std::vector<int>& crops, const ImageTokens& tokens) {
  std::vector<std::string> texts = texts_around_images(strip(text), crops);
  texts[0] = std::string(speaker) + "\n" + texts[0];
  return encode(tokenizer, texts, tokens, false);
}

std::vector<std::string> texts_around_images(std::string_view text, const std::vector<int>& crops) {
  std::vector<std::string> segments = split(text);
  if (segments.size() == 1) segments.insert(segments.begin(), crops.size(), std::string());
  std::vector<std::string> pieces = {segments[0]};
  for (size_t image = 0; image < crops.size(); ++image) {
    pieces.back() += std::string(crops[image] ? kCropsBefore : "") + kAround;
    for (int crop = 0; crop < crops[image]; ++crop) {
      pieces.push_back(std::string(kAround) + (crop == 0 ? kCropsBetween : " ") + kAround);
    }
    pieces.push_back(kAround + segments.at(image + 1));
  }
  return pieces;
}

}  // namespace gemma3::text
