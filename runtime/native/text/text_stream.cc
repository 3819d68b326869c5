#include "text_stream.h"

#include <algorithm>

namespace gemma3::text {

std::string TextStream::push(int32_t token) {
  return stopped_ ? std::string() : take(decoder_.push(token));
}

std::string TextStream::close() {
  if (stopped_) return {};
  std::string shown = take(decoder_.close());
  text_ += held_;
  shown += held_;
  held_.clear();
  return shown;
}

std::string TextStream::take(const std::string& text) {
  held_ += text;
  size_t cut = std::string::npos;
  for (const std::string& stop : stop_texts_) cut = std::min(cut, held_.find(stop));
  stopped_ = cut != std::string::npos;
  if (!stopped_) cut = held_.size() - may_begin_stop();
  const std::string shown = held_.substr(0, cut);
  held_ = stopped_ ? std::string() : held_.substr(cut);
  text_ += shown;
  return shown;
}

// Length of the longest end of the held text that begins a stop text.
size_t TextStream::may_begin_stop() const {
  size_t longest = 0;
  for (const std::string& stop : stop_texts_) {
    for (size_t length = std::min(stop.size() - 1, held_.size()); length > longest; --length) {
      if (held_.compare(held_.size() - length, length, stop, 0, length) == 0) longest = length;
    }
  }
  return longest;
}

}  // namespace gemma3::text
