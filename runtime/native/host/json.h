// JSON text as json.dumps of Python writes it: ASCII only, shortest numbers that read back.
#pragma once

#include <string>
#include <string_view>

namespace gemma3::host {

// `text`, which is UTF-8, in quotes.
std::string json_string(std::string_view text);

// A number as repr() of a Python float; null for NaN and infinity, which JSON has not.
std::string json_number(double value);

template <typename Values, typename Show>
std::string json_list(const Values& values, Show show) {
  std::string list = "[";
  for (const auto& value : values) list += (list.size() > 1 ? ", " : "") + show(value);
  return list + "]";
}

}  // namespace gemma3::host
