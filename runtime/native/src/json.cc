#include "json.h"

#include <cmath>
#include <set>

#include "error.h"
#include "manifest.h"

namespace gemma3 {
namespace {

constexpr size_t kMaxDepth = 200;
constexpr char kRemedy[] =
    "the file is damaged or from another version: copy the bundle again or re-export it";

// Refuses what the parser alone would take: keys given twice and bottomless nesting. It goes over
// the text by itself, before values are made: as a callback of the parser that makes them it would
// have all members of an array looked at again after each.
class Strict : public nlohmann::json_sax<Json> {
 public:
  bool null() override { return true; }
  bool boolean(bool) override { return true; }
  bool number_integer(number_integer_t) override { return true; }
  bool number_unsigned(number_unsigned_t) override { return true; }
  bool number_float(number_float_t, const string_t &) override { return true; }
  bool string(string_t &) override { return true; }
  bool binary(binary_t &) override { return true; }
  bool start_object(size_t) override { return enter(); }
  bool start_array(size_t) override { return enter(); }
  bool end_object() override { return leave(); }
  bool end_array() override { return leave(); }
  bool key(string_t &name) override {
    if (keys_.back().insert(name).second) return true;
    throw std::runtime_error("key " + to_text(Json(name)) + " given twice");
  }
  bool parse_error(size_t, const std::string &, const Json::exception &error) override {
    throw std::runtime_error(error.what());
  }

 private:
  bool enter() {
    if (keys_.size() >= kMaxDepth) throw std::runtime_error("values nested too deep");
    keys_.emplace_back();
    return true;
  }
  bool leave() {
    keys_.pop_back();
    return true;
  }

  std::vector<std::set<std::string>> keys_;
};

}  // namespace

Json parse_json(std::string_view text, const std::string &where) {
  try {
    if (text.substr(0, 3) == "\xef\xbb\xbf") throw std::runtime_error("a byte order mark");
    // The parser would take it for the end, and not look at what follows.
    if (text.find('\0') != text.npos) throw std::runtime_error("a byte 0");
    Strict strict;
    Json::sax_parse(text.begin(), text.end(), &strict);
    return Json::parse(text.begin(), text.end());
  } catch (const std::bad_alloc &) {
    throw;
  } catch (const std::exception &error) {
    std::string reason = error.what();
    if (!is_printable(reason)) reason = "syntax error";
    refuse(where + ": expected JSON, got text that is not (" + reason + "); " + kRemedy);
  }
}

std::string to_text(const Json &value) {
  return value.dump(-1, ' ', true, Json::error_handler_t::replace);
}

std::string show(const Json &value) {
  if (value.is_object()) return "an object";
  if (value.is_array()) return "an array of " + std::to_string(value.size());
  const std::string text = to_text(value);
  return text.size() <= 60 ? text : text.substr(0, 57) + "...";
}

std::string Place::text() const {
  std::string path = up == nullptr ? "" : up->text();
  if (index >= 0) return path + "[" + std::to_string(index) + "]";
  if (field == nullptr) return path;
  return path.empty() ? field : path + "." + field;
}

void refuse_value(const Place &place, const std::string &expected, const std::string &got) {
  refuse_field(*place.where, place.text(), expected, got);
}

void refuse_field(const std::string &where, const std::string &path, const std::string &expected,
                  const std::string &got) {
  std::string safe = path + ": expected " + expected + ", got " + got;
  if (!is_printable(safe)) safe = to_text(Json(safe));
  refuse(where + ": " + safe.substr(path.empty() ? 2 : 0) + "; " + kRemedy);
}

Fields::Fields(const Json &value, const Place &place) : value_(value), place_(place) {
  if (!value.is_object()) refuse_value(place, "an object", show(value));
}

const Json &Fields::at(const char *name) {
  const auto found = value_.find(name);
  if (found == value_.end()) {
    const Place inner{place_.where, &place_, name};
    refuse_value(inner, "this field", "no such field");
  }
  names_.push_back(name);
  return *found;
}

void Fields::done() const {
  if (value_.size() == names_.size()) return;
  for (auto item = value_.begin(); item != value_.end(); ++item) {
    bool known = false;
    for (const char *name : names_) known = known || item.key() == name;
    if (!known) {
      const std::string key = to_text(Json(item.key()));
      refuse_value(place_, "known fields only", "an unknown field " + key.substr(0, 60));
    }
  }
}

void decode(const Json &value, const Place &place, bool &out) {
  if (!value.is_boolean()) refuse_value(place, "true or false", show(value));
  out = value.get<bool>();
}

void decode(const Json &value, const Place &place, int64_t &out) {
  if (!value.is_number_integer()) refuse_value(place, "an integer", show(value));
  if (value.is_number_unsigned() && value.get<uint64_t>() > uint64_t{INT64_MAX}) {
    refuse_value(place, "an integer of 64 bits", show(value));
  }
  out = value.get<int64_t>();
}

void decode(const Json &value, const Place &place, double &out) {
  if (!value.is_number()) refuse_value(place, "a number", show(value));
  out = value.get<double>();
  if (!std::isfinite(out)) refuse_value(place, "a finite number", show(value));
}

void decode(const Json &value, const Place &place, std::string &out) {
  if (!value.is_string()) refuse_value(place, "a string", show(value));
  out = value.get<std::string>();
  if (!is_printable(out)) refuse_value(place, "printable characters", show(value));
}

}  // namespace gemma3
