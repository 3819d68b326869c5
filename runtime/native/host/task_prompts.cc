#include "task_prompts.h"

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <vector>

#include "error.h"
#include "json.h"
#include "unicode.h"

namespace gemma3::host {
namespace {

using Json = nlohmann::json;

constexpr int64_t kMostBytes = int64_t{1} << 20;
constexpr size_t kMostPrompts = 1000;
constexpr size_t kMostName = 200;    // characters
constexpr size_t kNamesListed = 20;  // in an error
constexpr int kDeepest = 200;
constexpr const char* kRemedy =
    "the file is damaged or from another version: copy the bundle again or re-export it";

struct TaskPrompts {
  std::map<std::string, std::string> texts;  // by task
  std::optional<std::string> default_task;
};

[[noreturn]] void refuse(const std::string& where, const std::string& path,
                         const std::string& expected, const std::string& got) {
  throw UsageError(where + (path.empty() ? "" : ": " + path) + ": expected " + expected + ", got " +
                   got + "; " + kRemedy);
}

// A short name for a value in an error.
std::string show(const Json& value) {
  if (value.is_object()) return "an object";
  if (value.is_array()) return "an array of " + std::to_string(value.size());
  const std::string text = value.dump(-1, ' ', true, Json::error_handler_t::replace);
  return text.size() <= 60 ? text : text.substr(0, 57) + "...";
}

size_t characters(std::string_view text) {
  size_t count = 0;
  for (; !text.empty(); ++count) text.remove_prefix(std::max(first_character(text).length, 1));
  return count;
}

std::string listed(const std::map<std::string, std::string>& texts) {
  std::string names;
  size_t count = 0;
  for (const auto& [name, text] : texts) {
    if (count == kNamesListed) {
      return names + ", and " + std::to_string(texts.size() - count) + " more";
    }
    names += (count++ ? ", " : "") + name;
  }
  return names.empty() ? "none" : names;
}

// Strict: no key twice, no bottomless nesting.
Json parse(const std::string& text, const std::string& where) {
  std::vector<std::set<std::string>> keys;
  const auto strict = [&keys](int depth, Json::parse_event_t event, Json& parsed) {
    if (event == Json::parse_event_t::object_start || event == Json::parse_event_t::array_start) {
      if (depth >= kDeepest) throw std::runtime_error("values nested too deep");
      keys.emplace_back();
    } else if (event == Json::parse_event_t::object_end ||
               event == Json::parse_event_t::array_end) {
      keys.pop_back();
    } else if (event == Json::parse_event_t::key &&
               !keys.back().insert(parsed.get<std::string>()).second) {
      throw std::runtime_error("key " + show(parsed) + " given twice");
    }
    return true;
  };
  try {
    if (text.rfind("\xEF\xBB\xBF", 0) == 0) throw std::runtime_error("a byte order mark");
    return Json::parse(text, strict);
  } catch (const std::bad_alloc&) {
    throw;
  } catch (const std::exception& error) {
    refuse(where, "", "JSON", "text that is not (" + one_line(error.what()) + ")");
  }
}

TaskPrompts decode(const Json& value, const std::string& where) {
  if (!value.is_object() || value.size() != 2 || !value.contains("prompts") ||
      !value.contains("default")) {
    refuse(where, "", "an object with the fields prompts and default alone", show(value));
  }
  const Json &prompts = value.at("prompts"), &first = value.at("default");
  if (!prompts.is_object() || prompts.empty() || prompts.size() > kMostPrompts) {
    refuse(where, "prompts", "an object of 1 to " + std::to_string(kMostPrompts) + " texts",
           show(prompts));
  }
  TaskPrompts result;
  for (const auto& [name, text] : prompts.items()) {
    if (name.empty() || characters(name) > kMostName || one_line(name) != name) {
      refuse(where, "prompts",
             "names of 1 to " + std::to_string(kMostName) + " printable characters", show(name));
    }
    if (!text.is_string()) refuse(where, "prompts." + name, "a string", show(text));
    result.texts[name] = text.get<std::string>();
  }
  if (first.is_null()) return result;
  if (!first.is_string() || !result.texts.count(first.get<std::string>())) {
    refuse(where, "default", "null or one of " + listed(result.texts), show(first));
  }
  result.default_task = first.get<std::string>();
  return result;
}

TaskPrompts read(const Bundle& bundle) {
  if (!bundle.prompts()) return {};
  const auto& [path, bytes] = *bundle.prompts();
  const std::string where = bundle.path() + "/" + path;
  if (bytes > kMostBytes) {  // before it is read
    refuse(where, "", "at most " + std::to_string(kMostBytes) + " bytes", std::to_string(bytes));
  }
  return decode(parse(bundle.file(path), where), where);
}

}  // namespace

std::string task_text(const std::optional<std::string>& task, const Bundle& bundle) {
  const TaskPrompts prompts = read(bundle);
  const std::optional<std::string>& name = task ? task : prompts.default_task;
  if (!name) return "";
  const auto found = prompts.texts.find(*name);
  if (found != prompts.texts.end()) return found->second;
  throw UsageError("--task: expected a task of " + bundle.path() + " (" + listed(prompts.texts) +
                   "), got " + in_quotes(*name) + "; pass one of them, or leave --task out");
}

}  // namespace gemma3::host
