// Opening a bundle: what is refused before anything of it is used, and how parts are found.
#ifndef GEMMA3_SRC_BUNDLE_H_
#define GEMMA3_SRC_BUNDLE_H_

#include <atomic>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "cancel.h"
#include "files.h"
#include "folder.h"
#include "json_fwd.h"
#include "manifest.h"

namespace gemma3 {

// A bundle whose manifest, file sizes and weight headers have been checked. Digests have not:
// `read` compares that of the file it reads, `verify` those of all. Immutable, and so is what it
// stands for: the folder and the weight files stay those that were opened, and of other files
// nothing is used but bytes that have the digest of the manifest. Only who writes into a weight
// file can still change what was verified; copies (Mapping::copy) are safe from that too.
class Bundle {
 public:
  // Throws Error (GEMMA3_USAGE) for whatever artifacts/bundle.py refuses, and for a manifest of
  // another SHA-256 than `pin`, 64 hexadecimal digits, unless that is empty.
  explicit Bundle(const std::string &root, const std::string &pin = "");
  Bundle(const Bundle &) = delete;
  Bundle &operator=(const Bundle &) = delete;

  const std::string &root() const { return root_; }
  const Manifest &manifest() const { return manifest_; }
  // Of the bytes of manifest.json: what tells bundles apart.
  const std::string &digest() const { return digest_; }
  // Refuses it when its manifest has another SHA-256.
  void check_pin(const std::string &pin) const;

  const MeshRecord &mesh(const std::string &name) const;
  // The programs of a mesh and platform, every variant. Throws Error when there are none.
  std::vector<const Program *> programs_for(const std::string &mesh,
                                            const std::string &platform) const;
  const Weight &weight(const std::string &name) const { return *weights_.at(name); }
  const FileRecord &record(const std::string &path) const;
  const FileRecord *find_record(const std::string &path) const;  // null: not of the manifest

  // The contents of a file of the manifest, once its digest has been compared.
  std::string read(const std::string &path) const;
  // File `path` of the folder, of the manifest or not: a weight file as it was opened first. Null
  // with an errno when there is none (Folder::find).
  std::shared_ptr<const File> find(const std::string &path, int &error) const;
  // The weight file `path`, as it was opened first; `keeps`: whether there is one.
  const File &weight_file(const std::string &path) const { return *kept_.at(path); }
  bool keeps(const std::string &path) const { return kept_.count(path) > 0; }
  // Compares the digest of every file, those of weights only with `weights`; `between` as in
  // file_digest.
  void verify(bool weights, const Between &between = {}) const;
  // What `read` and `verify` refuse a file of another digest with.
  [[noreturn]] void refuse_digest(const FileRecord &expected, const std::string &got) const;
  int64_t weights_bytes() const;
  // Somebody has vouched for the digests of the manifest, so that copies must have them.
  void vouch() const { vouched_.store(true); }
  bool vouched() const { return vouched_.load(); }

 private:
  void open_files();

  std::string root_;
  Folder folder_;
  std::map<std::string, std::shared_ptr<const File>> kept_;  // weight files
  Manifest manifest_;
  std::string digest_;
  std::unordered_map<std::string, const Weight *> weights_;
  std::unordered_map<std::string, const FileRecord *> records_;
  mutable std::atomic<bool> vouched_{false};
};

// What gemma3_bundle_info tells.
Json bundle_info(const Bundle &bundle);

// Compares the header of a weight file with what the manifest says of it
// (artifacts/safetensors_header.py).
void check_header(const File &file, const std::vector<const Weight *> &weights);

}  // namespace gemma3

#endif  // GEMMA3_SRC_BUNDLE_H_
