#include "images.h"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>

#include "error.h"

namespace gemma3::host {
namespace {

bool is_npy(const std::filesystem::path& path) {
  std::string suffix = path.extension().string();
  std::transform(suffix.begin(), suffix.end(), suffix.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return suffix == ".npy";
}

images::Rgb load_rgb(const std::filesystem::path& path) {
  const std::vector<uint8_t> file = read_file(path);
  const images::Bytes bytes{file.data(), file.size()};
  if (images::is_picture(bytes)) return images::read_picture(bytes, path.string());
  throw UsageError(path.string() +
                   ": not a picture; expected PNG or JPEG, or a .npy array; check the file, or "
                   "convert it");
}

}  // namespace

std::vector<Picture> load_images(const std::vector<std::filesystem::path>& paths, int size,
                                 bool pan_and_scan) {
  images::Form form;
  form.size = size;
  std::vector<Picture> pictures;
  for (const std::filesystem::path& path : paths) {
    if (is_npy(path)) {
      for (Picture& one : load_npy(path, size)) pictures.push_back(std::move(one));
    } else {
      pictures.push_back(images::process(load_rgb(path), form, pan_and_scan));
    }
  }
  return pictures;
}

std::vector<uint8_t> read_file(const std::filesystem::path& path) {
  const auto refuse = [&path](int error) {
    throw UsageError(path.string() + ": cannot be read: " + std::strerror(error) +
                     "; check --image");
  };
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path.c_str(), "rb"),
                                                             &std::fclose);
  if (!file) refuse(errno);
  if (std::filesystem::is_directory(path)) refuse(EISDIR);
  std::vector<uint8_t> content;
  for (size_t got = 1; got;) {
    const size_t size = content.size();
    content.resize(size + (size_t{1} << 20));
    got = std::fread(content.data() + size, 1, content.size() - size, file.get());
    content.resize(size + got);
  }
  if (std::ferror(file.get())) refuse(errno);
  return content;
}

}  // namespace gemma3::host
