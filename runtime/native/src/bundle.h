// Opening a bundle: what is refused before anything of it is used, and how parts are found.
#ifndef GEMMA3_SRC_BUNDLE_H_
#define GEMMA3_SRC_BUNDLE_H_

#include <filesystem>
#include <string>
#include <unordered_map>
#include <vector>

#include "json_fwd.h"
#include "manifest.h"

namespace gemma3 {

// A bundle whose manifest, file sizes and weight headers have been checked. Digests have not:
// `read` compares that of the file it reads, `verify` those of all. Immutable.
class Bundle {
 public:
  // Throws Error (GEMMA3_USAGE) for whatever artifacts/bundle.py refuses.
  explicit Bundle(const std::string &root);
  Bundle(const Bundle &) = delete;
  Bundle &operator=(const Bundle &) = delete;

  const std::string &root() const { return root_; }
  const Manifest &manifest() const { return manifest_; }
  // Of the bytes of manifest.json: what tells bundles apart.
  const std::string &digest() const { return digest_; }

  const MeshRecord &mesh(const std::string &name) const;
  // The programs of a mesh and platform, every variant. Throws Error when there are none.
  std::vector<const Program *> programs_for(const std::string &mesh,
                                            const std::string &platform) const;
  const Weight &weight(const std::string &name) const { return *weights_.at(name); }
  const FileRecord &record(const std::string &path) const;

  // The contents of a file of the manifest, once its digest has been compared.
  std::string read(const std::string &path) const;
  // Where a file of the manifest really lies, links followed.
  std::filesystem::path resolve(const std::string &path) const;
  // Compares the digest of every file.
  void verify() const;
  int64_t weights_bytes() const;

 private:
  void check_size(const FileRecord &record) const;

  std::string root_;
  std::filesystem::path real_root_;
  Manifest manifest_;
  std::string digest_;
  std::unordered_map<std::string, const Weight *> weights_;
  std::unordered_map<std::string, const FileRecord *> records_;
};

// What gemma3_bundle_info tells.
Json bundle_info(const Bundle &bundle);

// Compares the header of a weight file with what the manifest says of it
// (artifacts/safetensors_header.py).
void check_header(const std::filesystem::path &path, const std::vector<const Weight *> &weights);

}  // namespace gemma3

#endif  // GEMMA3_SRC_BUNDLE_H_
