// The text of one row as it grows: what may be shown already, and where a stop text ends it.
#pragma once

#include <string>
#include <vector>

#include "tokenizer.h"

namespace gemma3::text {

// Text of tokens that come one by one, cut before the first stop text.
//
// What push() and close() return, joined, is text(). Text that could be the beginning of a stop
// text is held back until it cannot.
class TextStream {
 public:
  // `stop_texts` must not be empty strings.
  TextStream(IncrementalDecoder decoder, std::vector<std::string> stop_texts)
      : decoder_(std::move(decoder)), stop_texts_(std::move(stop_texts)) {}

  // The text that `token` makes certain; after a stop text always empty.
  std::string push(int32_t token);
  // The text that was held back, once no token follows.
  std::string close();

  // All text given out so far.
  const std::string& text() const { return text_; }
  // True once a stop text has come.
  bool stopped() const { return stopped_; }

 private:
  std::string take(const std::string& text);
  size_t may_begin_stop() const;

  IncrementalDecoder decoder_;
  std::vector<std::string> stop_texts_;
  std::string held_;
  std::string text_;
  bool stopped_ = false;
};

}  // namespace gemma3::text
