#include "unicode.h"

#include <algorithm>
#include <cstdio>

namespace gemma3 {
namespace {

struct Range {
  char32_t first, last;
};

template <size_t N>
bool in_any(char32_t code, const Range (&ranges)[N]) {
  return std::any_of(std::begin(ranges), std::end(ranges), [code](const Range& range) {
    return range.first <= code && code <= range.last;
  });
}

constexpr Range kSpaces[] = {
    {0x09, 0x0D},     {0x1C, 0x20},     {0x85, 0x85},     {0xA0, 0xA0},     {0x1680, 0x1680},
    {0x2000, 0x200A}, {0x2028, 0x2029}, {0x202F, 0x202F}, {0x205F, 0x205F}, {0x3000, 0x3000},
};

// Controls, formats, separators but the space, private use and the unassigned planes.
constexpr Range kUnprintable[] = {
    {0x00, 0x1F},     {0x7F, 0xA0},     {0xAD, 0xAD},       {0x600, 0x605},      {0x61C, 0x61C},
    {0x6DD, 0x6DD},   {0x70F, 0x70F},   {0x1680, 0x1680},   {0x180E, 0x180E},    {0x2000, 0x200F},
    {0x2028, 0x202F}, {0x205F, 0x206F}, {0x3000, 0x3000},   {0xD800, 0xF8FF},    {0xFEFF, 0xFEFF},
    {0xFFF0, 0xFFFB}, {0xFFFE, 0xFFFF}, {0xE0000, 0xE00FF}, {0xE01F0, 0x10FFFF},
};

std::string escaped(char32_t code) {
  if (code == '\t') return "\\t";
  if (code == '\n') return "\\n";
  if (code == '\r') return "\\r";
  char text[16];
  const char* format = code < 0x100 ? "\\x%02x" : code < 0x10000 ? "\\u%04x" : "\\U%08x";
  std::snprintf(text, sizeof text, format, static_cast<unsigned>(code));
  return text;
}

}  // namespace

int utf8_length(unsigned char lead) {
  if (lead >> 5 == 0b110) return 2;
  if (lead >> 4 == 0b1110) return 3;
  if (lead >> 3 == 0b11110) return 4;
  return 1;
}

Character first_character(std::string_view text) {
  static constexpr char32_t kLeast[] = {0, 0, 0x80, 0x800, 0x10000};
  const auto lead = static_cast<unsigned char>(text[0]);
  const int length = utf8_length(lead);
  if (length == 1) return {lead, lead < 0x80 ? 1 : 0};
  if (static_cast<size_t>(length) > text.size()) return {0, 0};
  char32_t code = lead & (0x7F >> length);
  for (int i = 1; i < length; ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    if (byte >> 6 != 0b10) return {0, 0};
    code = code << 6 | (byte & 0x3F);
  }
  const bool surrogate = code >= 0xD800 && code <= 0xDFFF;
  if (code < kLeast[length] || code > 0x10FFFF || surrogate) return {0, 0};
  return {code, length};
}

bool is_utf8(std::string_view text) {
  while (!text.empty()) {
    const int length = first_character(text).length;
    if (length == 0) return false;
    text.remove_prefix(length);
  }
  return true;
}

std::string strip(std::string_view text) {
  size_t begin = text.size(), end = 0;
  for (size_t at = 0; at < text.size();) {
    const Character character = first_character(text.substr(at));
    const size_t next = at + std::max(character.length, 1);
    if (character.length == 0 || !in_any(character.code, kSpaces)) {
      begin = std::min(begin, at);
      end = next;
    }
    at = next;
  }
  return begin < end ? std::string(text.substr(begin, end - begin)) : std::string();
}

std::string one_line(std::string_view text) {
  std::string line;
  while (!text.empty()) {
    const Character character = first_character(text);
    if (character.length == 0) {
      line += escaped(static_cast<unsigned char>(text[0]));
    } else if (in_any(character.code, kUnprintable)) {
      line += escaped(character.code);
    } else {
      line += text.substr(0, character.length);
    }
    text.remove_prefix(std::max(character.length, 1));
  }
  return line;
}

std::string in_quotes(std::string_view text) {
  const bool single = text.find('\'') != text.npos, twice = text.find('"') != text.npos;
  const char quote = single && !twice ? '"' : '\'';
  std::string inside;
  while (!text.empty()) {
    const int length = std::max(first_character(text).length, 1);
    if (text[0] == '\\' || text[0] == quote) inside += '\\';
    inside += one_line(text.substr(0, length));
    text.remove_prefix(length);
  }
  return quote + inside + quote;
}

}  // namespace gemma3
