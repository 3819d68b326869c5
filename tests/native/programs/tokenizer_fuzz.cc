// tokenizer_fuzz: reads tokenizer models and texts in turn from stdin, each after its length as a
// little-endian uint32. A line for each pair: the ids of the text and, in hexadecimal, the
// text of the ids, or why the model or the text is refused.
#include <cstdint>
#include <cstdio>
#include <optional>
#include <string>

#include "error.h"
#include "../records.h"
#include "tokenizer.h"
#include "unicode.h"

using namespace gemma3;
using namespace gemma3::text;

namespace {

std::string in_hexadecimal(const std::string& text) {
  constexpr char kDigits[] = "0123456789abcdef";
  std::string digits;
  for (const char byte : text) {
    digits += kDigits[static_cast<uint8_t>(byte) >> 4];
    digits += kDigits[static_cast<uint8_t>(byte) & 15];
  }
  return digits;
}

std::string outcome(std::string model, const std::string& text) {
  try {
    const Tokenizer tokenizer(std::move(model), "m", 2);
    const Ids ids = tokenizer.encode(text, true);
    std::string line;
    for (const int32_t id : ids) line += std::to_string(id) + " ";
    IncrementalDecoder decoder = tokenizer.decoder(true);
    std::string decoded;
    for (const int32_t id : ids) decoded += decoder.push(id);
    for (int32_t id = -1; id < 600; ++id) decoded += decoder.push(id);
    return line + in_hexadecimal(decoded + decoder.close());
  } catch (const UsageError& error) {
    return one_line(error.what());
  }
}

}  // namespace

int main() {
  while (const std::optional<std::string> model = next_record()) {
    const std::optional<std::string> text = next_record();
    if (!text) return 1;
    std::printf("%s\n", outcome(*model, *text).c_str());
  }
  return 0;
}
