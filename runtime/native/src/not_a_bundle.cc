#include "not_a_bundle.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <set>
#include <system_error>
#include <utility>

namespace gemma3 {
namespace {

namespace fs = std::filesystem;

constexpr char kManifest[] = "manifest.json";
constexpr char kOther[] = "name a folder that gemma3-export wrote";
constexpr int kDeepest = 4;  // folders between a bundle and its deepest file
constexpr size_t kMostManifest = size_t{1} << 24;

using Words = std::pair<std::string, std::string>;  // what was got, and the remedy

bool is_plain(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
         std::string("@%+=:,./-_").find(c) != std::string::npos;
}

// A path as a shell takes it.
std::string quoted(const fs::path &path) {
  const std::string text = path.string();
  if (!text.empty() && std::all_of(text.begin(), text.end(), is_plain)) return text;
  std::string result = "'";
  for (const char c : text) result += c == '\'' ? "'\"'\"'" : std::string(1, c);
  return result + "'";
}

std::string export_it(const fs::path &path) {
  return "export it first: gemma3-export --mesh 1x1 --checkpoint " + quoted(path);
}

// The first `count` bytes of a regular file; nothing of others and where they are not.
std::string begin_of(const fs::path &path, size_t count) {
  std::error_code error;
  if (!fs::is_regular_file(path, error)) return "";
  const auto size = fs::file_size(path, error);
  if (error) return "";
  std::string text(std::min<uintmax_t>(count, size), '\0');
  std::ifstream file(path, std::ios::binary);
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<size_t>(std::max<std::streamsize>(file.gcount(), 0)));
  return text;
}

// A folder's own as Python's pathlib writes it: without a slash at the end, `.` for none.
fs::path parent_of(const fs::path &path) {
  const fs::path parent = path.parent_path();
  return parent.empty() ? "." : parent;
}

// The bundle that `path` is a part of; empty where it is of none.
fs::path bundle_above(fs::path path) {
  for (int depth = 0; depth < kDeepest && path != "." && path != path.root_path(); ++depth) {
    path = parent_of(path);
    const std::string text = begin_of(path / kManifest, kMostManifest);
    if (text.find("\"format_version\"") != text.npos && text.find("\"weight_sets\"") != text.npos) {
      return path;
    }
  }
  return {};
}

std::set<std::string> names_in(const fs::path &path) {
  std::set<std::string> names;
  std::error_code error;
  for (fs::directory_iterator at(path, error), end; !error && at != end; at.increment(error)) {
    names.insert(at->path().filename().string());
  }
  return names;
}

bool has_ending(const std::set<std::string> &names, const std::string &ending) {
  return std::any_of(names.begin(), names.end(), [&](const std::string &name) {
    return name.size() >= ending.size() &&
           name.compare(name.size() - ending.size(), ending.size(), ending) == 0;
  });
}

// `org/name` or `org/name@revision`.
bool is_hub_id(const std::string &text) {
  const auto letter = [](char c) {
    return is_plain(c) && std::string("%+=:,/@").find(c) == std::string::npos;
  };
  const auto name = [&](const std::string &part) {
    return !part.empty() && part[0] != '.' && part[0] != '-' && part[0] != '_' &&
           std::all_of(part.begin(), part.end(), letter);
  };
  const size_t slash = text.find('/');
  const size_t at = text.find('@');
  if (slash == text.npos || (at != text.npos && at < slash)) return false;
  const std::string revision = at == text.npos ? "r" : text.substr(at + 1);
  const bool fits = !revision.empty() && std::all_of(revision.begin(), revision.end(),
                                                     [&](char c) { return letter(c) || c == '/'; });
  return fits && name(text.substr(0, slash)) &&
         name(text.substr(slash + 1, at == text.npos ? at : at - slash - 1));
}

Words file_words(const fs::path &path) {
  if (const fs::path bundle = bundle_above(path); !bundle.empty()) {
    return {"a file of one", "name the folder: " + quoted(bundle)};
  }
  if (path.extension() == ".safetensors") {
    return {"a safetensors file", export_it(parent_of(path))};
  }
  if (path.extension() == ".gguf" || begin_of(path, 4) == "GGUF") {
    return {"a GGUF file", export_it(path)};
  }
  return {"a file", kOther};
}

Words folder_words(const fs::path &path) {
  const std::set<std::string> names = names_in(path);
  std::error_code error;
  if (const fs::path bundle = bundle_above(path); !bundle.empty()) {
    return {"a folder in one", "name the bundle: " + quoted(bundle)};
  }
  const auto holds_model = [&](const std::string &name) {
    return fs::is_regular_file(path / name / "saved_model.pb", error);
  };
  if (holds_model("") || std::any_of(names.begin(), names.end(), holds_model)) {
    return {"a TensorFlow SavedModel",
            "name the bundle it came with, or export its checkpoint: "
            "gemma3-export --mesh 1x1 --checkpoint FOLDER"};
  }
  if (names.count("snapshots") && (names.count("refs") || names.count("blobs"))) {
    const std::set<std::string> found = names_in(path / "snapshots");
    const std::string snapshot = found.size() == 1 ? *found.begin() : "REVISION";
    return {"a download of the Hugging Face hub", export_it(path / "snapshots" / snapshot)};
  }
  for (const char *name :
       {"_CHECKPOINT_METADATA", "_METADATA", "manifest.ocdbt", "commit_success.txt"}) {
    if (!names.count(name)) continue;
    return {"an Orbax checkpoint",
            "gemma3-export takes Hugging Face folders and GGUF files: convert it, then "
            "gemma3-export --mesh 1x1 --checkpoint FOLDER"};
  }
  if (names.count("config.json") || has_ending(names, ".safetensors")) {
    return {"a Hugging Face checkpoint", export_it(path)};
  }
  if (has_ending(names, ".gguf")) return {"a folder of GGUF files", export_it(path)};
  return {std::string("a folder without ") + kManifest, kOther};
}

Words words_for(const fs::path &path) {
  std::error_code error;
  if (fs::is_directory(path, error)) return folder_words(path);
  if (fs::exists(path, error)) return file_words(path);
  if (is_hub_id(path.string()) && !fs::exists(parent_of(path), error)) {
    return {"nothing of that name",
            "a model of the Hugging Face hub is downloaded and exported first: "
            "gemma3-export --mesh 1x1 --checkpoint FOLDER"};
  }
  return {"nothing of that name", kOther};
}

}  // namespace

std::string not_a_bundle(const std::string &path) {
  fs::path tidy = fs::path(path).lexically_normal();
  if (tidy.filename().empty() && tidy.has_parent_path()) tidy = tidy.parent_path();
  const auto [got, remedy] = words_for(tidy.empty() ? fs::path(".") : tidy);
  return path + ": expected the folder of a bundle, got " + got + "; " + remedy;
}

}  // namespace gemma3
