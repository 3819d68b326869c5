// UTF-8 text as the Python runtime sees it: what is white space, what can be printed.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace gemma3 {

// U+FFFD in UTF-8.
inline constexpr std::string_view kReplacement = "\xEF\xBF\xBD";

// Bytes of the character that `lead` begins; 1 for a byte that begins none.
int utf8_length(unsigned char lead);

// The character at the start of `text` and its length in bytes; length 0 when the bytes there are
// not UTF-8 (overlong forms and surrogates are not).
struct Character {
  char32_t code;
  int length;
};
Character first_character(std::string_view text);

bool is_utf8(std::string_view text);

// `text` without the white space around it: what str.strip() of Python removes.
std::string strip(std::string_view text);

// `text` with every character that cannot be printed escaped, so that a file name cannot add lines.
std::string one_line(std::string_view text);

// `text` in quotes, as repr() of Python writes it.
std::string in_quotes(std::string_view text);

}  // namespace gemma3
