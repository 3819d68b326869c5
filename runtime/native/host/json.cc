#include "json.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>

#include "unicode.h"

namespace gemma3::host {
namespace {

std::string escaped(char32_t code) {
  switch (code) {
    case '"': return "\\\"";
    case '\\': return "\\\\";
    case '\n': return "\\n";
    case '\r': return "\\r";
    case '\t': return "\\t";
    case '\b': return "\\b";
    case '\f': return "\\f";
    default: break;
  }
  if (code >= 0x20 && code < 0x7F + 1) return {static_cast<char>(code)};
  const auto unit = [](char32_t value) {
    char text[16];
    std::snprintf(text, sizeof text, "\\u%04x", static_cast<unsigned>(value));
    return std::string(text);
  };
  if (code < 0x10000) return unit(code);
  return unit(0xD800 + ((code - 0x10000) >> 10)) + unit(0xDC00 + ((code - 0x10000) & 0x3FF));
}

}  // namespace

std::string json_string(std::string_view text) {
  std::string json = "\"";
  while (!text.empty()) {
    const Character character = first_character(text);
    json += escaped(character.length ? character.code : 0xFFFD);
    text.remove_prefix(std::max(character.length, 1));
  }
  return json + "\"";
}

std::string json_number(double value) {
  if (!std::isfinite(value)) return "null";
  char text[32];
  const auto end = std::to_chars(text, text + sizeof text, value, std::chars_format::scientific);
  const std::string shortest(text, end.ptr);  // such as -1.25e-03
  const size_t at = shortest.find('e');
  const int exponent = std::stoi(shortest.substr(at + 1));
  constexpr int kLeast = -4, kMost = 16;  // outside, Python writes an exponent too
  if (exponent < kLeast || exponent >= kMost) return shortest;
  const int digits = static_cast<int>(std::count_if(text, text + at,
                                                    [](char c) { return c >= '0' && c <= '9'; })) -
                     1;
  std::snprintf(text, sizeof text, "%.*f", std::max(digits - exponent, 1), value);
  return text;
}

}  // namespace gemma3::host
