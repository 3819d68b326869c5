// The type of JSON values, for headers that only name it.
#ifndef GEMMA3_SRC_JSON_FWD_H_
#define GEMMA3_SRC_JSON_FWD_H_

#include <nlohmann/json_fwd.hpp>
#include <string>

namespace gemma3 {

using Json = nlohmann::json;

// `value` as one line of ASCII, whatever strings it holds.
std::string to_text(const Json &value);

}  // namespace gemma3

#endif  // GEMMA3_SRC_JSON_FWD_H_
