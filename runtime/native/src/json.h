// JSON as manifests have it: strict, and read field by field with places for errors.
#ifndef GEMMA3_SRC_JSON_H_
#define GEMMA3_SRC_JSON_H_

#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "json_fwd.h"

namespace gemma3 {

// The value in `text`. Refuses text that is not JSON in UTF-8, keys given twice, a byte order mark,
// numbers out of range and values nested too deep; `where` names the file. Throws Error.
Json parse_json(std::string_view text, const std::string &where);

// A short name for a value in an error.
std::string show(const Json &value);

// Where in a document a value is; a list from the inside out, made into text for errors only.
struct Place {
  const std::string *where;
  const Place *up = nullptr;
  const char *field = nullptr;
  int64_t index = -1;

  std::string text() const;
};

// Reads an object of a known set of fields: each must be there, no other may be.
class Fields {
 public:
  Fields(const Json &value, const Place &place);
  // The value of field `name`. Throws Error when there is none.
  const Json &at(const char *name);
  // To be called after the last field. Throws Error for fields that nobody asked for.
  void done() const;

  template <typename T>
  Fields &read(const char *name, T &out);

 private:
  const Json &value_;
  const Place &place_;
  std::vector<const char *> names_;
};

void decode(const Json &value, const Place &place, bool &out);
void decode(const Json &value, const Place &place, int64_t &out);
void decode(const Json &value, const Place &place, double &out);
void decode(const Json &value, const Place &place, std::string &out);
[[noreturn]] void refuse_value(const Place &place, const std::string &expected,
                               const std::string &got);

template <typename T>
void decode(const Json &value, const Place &place, std::vector<T> &out);
template <typename T>
void decode(const Json &value, const Place &place, std::map<std::string, T> &out);
template <typename T>
void decode(const Json &value, const Place &place, std::optional<T> &out);

template <typename T>
void decode(const Json &value, const Place &place, std::vector<T> &out) {
  if (!value.is_array()) refuse_value(place, "an array", show(value));
  out.resize(value.size());
  for (size_t i = 0; i < out.size(); ++i) {
    const Place inner{place.where, &place, nullptr, static_cast<int64_t>(i)};
    decode(value[i], inner, out[i]);
  }
}

template <typename T>
void decode(const Json &value, const Place &place, std::map<std::string, T> &out) {
  if (!value.is_object()) refuse_value(place, "an object", show(value));
  for (auto item = value.begin(); item != value.end(); ++item) {
    const Place inner{place.where, &place, item.key().c_str()};
    std::string key;
    decode(Json(item.key()), inner, key);
    decode(item.value(), inner, out[key]);
  }
}

template <typename T>
void decode(const Json &value, const Place &place, std::optional<T> &out) {
  if (value.is_null()) {
    out.reset();
  } else {
    decode(value, place, out.emplace());
  }
}

template <typename T>
Fields &Fields::read(const char *name, T &out) {
  const Json &value = at(name);
  const Place inner{place_.where, &place_, name};
  decode(value, inner, out);
  return *this;
}

}  // namespace gemma3

#endif  // GEMMA3_SRC_JSON_H_
