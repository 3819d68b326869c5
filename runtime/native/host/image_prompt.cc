#include "image_prompt.h"

#include "error.h"
#include "unicode.h"

namespace gemma3::host {
namespace {

constexpr std::string_view kPlaceholder = "<start_of_image>";
constexpr const char* kAround = "\n\n";  // before and after every image
constexpr const char* kCropsBefore = "Here is the original image ";
constexpr const char* kCropsBetween = " and here are some crops to help you see better ";

std::vector<std::string> split(const std::string& text) {
  std::vector<std::string> parts;
  size_t begin = 0;
  for (size_t at; (at = text.find(kPlaceholder, begin)) != text.npos;) {
    parts.push_back(text.substr(begin, at - begin));
    begin = at + kPlaceholder.size();
  }
  parts.push_back(text.substr(begin));
  return parts;
}

}  // namespace

Ids encode_prompt(const Tokenizer& tokenizer, const std::string& text,
                  const std::vector<int>& crops, const VisionInfo& vision, bool chat) {
  std::vector<std::string> texts = texts_around_images(chat ? strip(text) : text, crops);
  if (chat) texts[0] = "user\n" + texts[0];
  Ids ids = tokenizer.encode(texts[0], !chat);
  for (size_t i = 1; i < texts.size(); ++i) {
    ids.push_back(vision.begin_token);
    ids.insert(ids.end(), vision.tokens_per_image, vision.soft_token);
    ids.push_back(vision.end_token);
    const Ids piece = tokenizer.encode(texts[i], false);
    ids.insert(ids.end(), piece.begin(), piece.end());
  }
  return chat ? tokenizer.turn(ids) : ids;
}

std::vector<std::string> texts_around_images(const std::string& text,
                                             const std::vector<int>& crops) {
  std::vector<std::string> segments = split(text);
  if (segments.size() == 1) segments.insert(segments.begin(), crops.size(), std::string());
  if (segments.size() != crops.size() + 1) {
    throw UsageError("--prompt has " + std::to_string(segments.size() - 1) + " times " +
                     std::string(kPlaceholder) + " but --image brings " +
                     std::to_string(crops.size()) +
                     "; write it once for each image, or leave it out to put all in front");
  }
  std::vector<std::string> pieces = {segments[0]};
  for (size_t image = 0; image < crops.size(); ++image) {
    pieces.back() += std::string(crops[image] ? kCropsBefore : "") + kAround;
    for (int crop = 0; crop < crops[image]; ++crop) {
      pieces.push_back(std::string(kAround) + (crop == 0 ? kCropsBetween : " ") + kAround);
    }
    pieces.push_back(kAround + segments[image + 1]);
  }
  return pieces;
}

}  // namespace gemma3::host
