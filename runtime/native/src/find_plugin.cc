// Where plugins lie when nobody names one: in the site-packages of Python environments.

#include <algorithm>
#include <filesystem>
#include <sstream>
#include <string>
#include <system_error>
#include <vector>

#include "environment.h"
#include "manifest.h"
#include "pjrt.h"

namespace gemma3 {
namespace {

namespace fs = std::filesystem;

struct Known {
  const char *platform;
  const char *path;     // in site-packages
  const char *package;  // what brings it
};

// The fastest of each platform first: of the CPU plugins 0.0.1 and 0.11.2, measured on the 270M model
// in bfloat16, the first decodes about ten times as fast.
constexpr Known kPlugins[] = {
    {"cpu", "xla_plugins/xla_cpu_pjrt/xla_cpu_pjrt.so", "xla_cpu_pjrt"},
    {"cpu", "lammps_jax_pjrt_cpu/pjrt_c_api_cpu_plugin.so", "lammps_jax_pjrt_cpu"},
    {"cuda", "jax_plugins/xla_cuda13/xla_cuda_plugin.so", "jax-cuda13-pjrt"},
    {"cuda", "jax_plugins/xla_cuda12/xla_cuda_plugin.so", "jax-cuda12-pjrt"},
    {"tpu", "libtpu/libtpu.so", "libtpu"},
};

bool is_there(const fs::path &path) {
  std::error_code error;
  return fs::exists(path, error);
}

// The site-packages under `prefix`, of the newest Python first.
void add_site_packages(const fs::path &prefix, std::vector<fs::path> &found) {
  std::vector<fs::path> here;
  for (const char *lib : {"lib", "lib64", "local/lib"}) {
    std::error_code error;
    for (fs::directory_iterator entry(prefix / lib, error), end; !error && entry != end;
         entry.increment(error)) {
      if (entry->path().filename().string().rfind("python3", 0) != 0) continue;
      for (const char *packages : {"site-packages", "dist-packages"}) {
        if (is_there(entry->path() / packages)) here.push_back(entry->path() / packages);
      }
    }
  }
  std::sort(here.begin(), here.end(), [](const fs::path &a, const fs::path &b) {
    const std::string left = a.string(), right = b.string();
    return left.size() != right.size() ? left.size() > right.size() : left > right;
  });
  found.insert(found.end(), here.begin(), here.end());
}

// The environment that `python3` on PATH belongs to: the folder above its own.
fs::path prefix_of_python() {
  std::istringstream folders(environment("PATH"));
  for (std::string folder; std::getline(folders, folder, ':');) {
    // A relative one, or an empty one, would mean whatever the current folder is.
    const fs::path path = folder;
    if (path.is_absolute() && is_there(path / "python3")) return path.parent_path();
  }
  return {};
}

// Environments above the folder of this library: build/native/lib in a checkout, lib in one, or what
// a wheel put into its lib/python3.x/site-packages.
void add_own_prefixes(std::vector<fs::path> &prefixes) {
  fs::path folder = own_file().parent_path();
  for (int up = 0; up < 4 && folder.has_relative_path(); ++up) {
    folder = folder.parent_path();
    prefixes.push_back(folder / ".venv");
    if (is_there(folder / "pyvenv.cfg")) prefixes.push_back(folder);
    const std::string name = folder.filename().string();
    if (name == "site-packages" || name == "dist-packages") {
      prefixes.push_back(folder.parent_path().parent_path().parent_path());
    }
  }
}

std::vector<fs::path> site_packages() {
  std::vector<fs::path> prefixes;
  for (const char *name : {"VIRTUAL_ENV", "CONDA_PREFIX"}) {
    if (const fs::path prefix = folder_variable(name); !prefix.empty()) prefixes.push_back(prefix);
  }
  if (const fs::path prefix = prefix_of_python(); !prefix.empty()) prefixes.push_back(prefix);
  add_own_prefixes(prefixes);
  if (const fs::path home = folder_variable("HOME"); !home.empty()) {
    prefixes.push_back(home / ".local");
  }
  prefixes.insert(prefixes.end(), {"/usr/local", "/usr"});
  std::vector<fs::path> found;
  for (const fs::path &prefix : prefixes) add_site_packages(prefix, found);
  return found;
}

// Environments come in order of nearness; within one, the best plugin of the platform.
fs::path search(const std::string &platform, const std::vector<fs::path> &packages) {
  for (const fs::path &folder : packages) {
    for (const Known &plugin : kPlugins) {
      if (platform == plugin.platform && is_there(folder / plugin.path))
        return folder / plugin.path;
    }
  }
  return {};
}

bool has_hardware(const std::string &platform) {
  if (platform == "cuda") return is_there("/dev/nvidia0") || is_there("/dev/dxg");
  if (platform == "tpu") return is_there("/dev/accel0") || is_there("/dev/vfio/0");
  return true;
}

std::string packages_of(const std::string &platform) {
  std::string text;
  for (const Known &plugin : kPlugins) {
    if (platform == plugin.platform)
      text += (text.empty() ? "" : " or ") + std::string(plugin.package);
  }
  return text;
}

}  // namespace

std::string find_plugin(const std::string &platform) {
  if (packages_of(platform).empty()) {
    refuse("platform: expected one of cpu, cuda, tpu, got " + platform + "; or name a plugin");
  }
  const fs::path found = search(platform, site_packages());
  if (!found.empty()) return found.string();
  refuse(GEMMA3_NOT_FOUND, "no PJRT plugin for " + platform +
                               " in the Python environments here; run: pip install " +
                               packages_of(platform) + ", or name one with --plugin");
}

std::string find_plugin(const std::vector<std::string> &platforms) {
  const std::vector<fs::path> packages = site_packages();
  std::string last;
  for (const char *platform : {"tpu", "cuda", "cpu"}) {
    if (std::find(platforms.begin(), platforms.end(), platform) == platforms.end()) continue;
    last = platform;
    const fs::path found = has_hardware(platform) ? search(platform, packages) : fs::path();
    if (!found.empty()) return found.string();
  }
  return find_plugin(last.empty() ? "cpu" : last);
}

}  // namespace gemma3
