// A folder that stays the same one, whatever happens to its name while files of it are opened.
#ifndef GEMMA3_SRC_FOLDER_H_
#define GEMMA3_SRC_FOLDER_H_

#include <memory>
#include <string>

#include "files.h"

namespace gemma3 {

// Files are found from the folder's descriptor, part by part and without the system following a
// link: so none outside it is ever opened, and none by a name that meanwhile means something else.
class Folder {
 public:
  // Throws Error when `path` is not a folder that can be opened.
  explicit Folder(const std::string &path);
  ~Folder();
  Folder(const Folder &) = delete;
  Folder &operator=(const Folder &) = delete;

  // The regular file `path` of the folder, links inside it followed. Null with an errno in `error`
  // when there is none: EXDEV for a link that leads out, EISDIR for what is no regular file.
  std::shared_ptr<const File> find(const std::string &path, int &error) const;
  // The same; throws Error (GEMMA3_USAGE) when there is none.
  std::shared_ptr<const File> open(const std::string &path) const;

 private:
  std::string name_, real_;  // as given, and where it lay when it was opened
  int descriptor_;
};

}  // namespace gemma3

#endif  // GEMMA3_SRC_FOLDER_H_
