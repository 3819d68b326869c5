#include "npz.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "error.h"

namespace gemma3::host {
namespace {

constexpr uint64_t kItemBytes = 4;  // of int32 and float32
constexpr uint64_t kVersion = 45;   // of ZIP64, which has no limit of 4 GiB
constexpr uint64_t kElsewhere32 = 0xFFFFFFFF, kElsewhere16 = 0xFFFF;  // "see the ZIP64 field"
constexpr uint64_t kFirstOfJanuary1980 = 0x21;

// Little-endian numbers one after another.
class Record {
 public:
  Record& u16(uint64_t value) { return number(value, 2); }
  Record& u32(uint64_t value) { return number(value, 4); }
  Record& u64(uint64_t value) { return number(value, 8); }
  Record& text(const std::string& value) { return bytes_ += value, *this; }
  const std::string& bytes() const { return bytes_; }

 private:
  Record& number(uint64_t value, int count) {
    for (int i = 0; i < count; ++i) bytes_ += static_cast<char>(value >> (8 * i) & 255);
    return *this;
  }
  std::string bytes_;
};

// What precedes the elements of an array: version 1 of numpy's format.
std::string npy_header(const char* dtype, const std::vector<int64_t>& shape) {
  constexpr size_t kPreamble = 10, kAlignment = 64;
  std::string sides;
  for (const int64_t side : shape) sides += std::to_string(side) + (shape.size() == 1 ? "," : ", ");
  if (shape.size() > 1) sides.resize(sides.size() - 2);
  std::string text =
      "{'descr': '" + std::string(dtype) + "', 'fortran_order': False, 'shape': (" + sides + "), }";
  const size_t blocks = (kPreamble + text.size()) / kAlignment + 1;
  text.resize(blocks * kAlignment - kPreamble - 1, ' ');
  text += '\n';
  return Record().text(std::string("\x93NUMPY\x01\x00", 8)).u16(text.size()).text(text).bytes();
}

std::string partial_prefix(const std::filesystem::path& path) {
  return "." + path.filename().string() + ".partial-";
}

// A descriptor whose lock says, for as long as it is open, that the file has a writer; -1 where it
// cannot be made.
int make_and_lock(const std::filesystem::path& partial) {
  for (;;) {
    const int descriptor = ::open(partial.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (descriptor < 0) return -1;
    (void)::flock(descriptor, LOCK_EX);  // a file system without locks: nobody removes it then
    struct stat opened, named;
    const bool same = ::fstat(descriptor, &opened) == 0 && ::stat(partial.c_str(), &named) == 0 &&
                      opened.st_dev == named.st_dev && opened.st_ino == named.st_ino;
    if (same) return descriptor;
    ::close(descriptor);  // removed as abandoned before it was locked
  }
}

// Removes the files that writers of `path` who are no more were writing.
void remove_abandoned(const std::filesystem::path& path) {
  const std::string prefix = partial_prefix(path);
  std::filesystem::path folder = path.parent_path();
  if (folder.empty()) folder = ".";
  std::error_code error;
  std::vector<std::filesystem::path> found;
  for (std::filesystem::directory_iterator entry(folder, error), end; !error && entry != end;
       entry.increment(error)) {
    const std::string name = entry->path().filename().string();
    const bool ours = name.size() > prefix.size() && name.compare(0, prefix.size(), prefix) == 0 &&
                      name.find_first_not_of("0123456789", prefix.size()) == std::string::npos;
    if (ours) found.push_back(entry->path());
  }
  for (const std::filesystem::path& old : found) {
    const int descriptor = ::open(old.c_str(), O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (descriptor < 0) continue;
    struct stat status;
    const bool abandoned = ::flock(descriptor, LOCK_EX | LOCK_NB) == 0 &&
                           ::fstat(descriptor, &status) == 0 && S_ISREG(status.st_mode);
    if (abandoned) ::unlink(old.c_str());
    ::close(descriptor);
  }
}

}  // namespace

NpzWriter::NpzWriter(std::filesystem::path path)
    : path_(std::move(path)),
      partial_(path_.parent_path() / (partial_prefix(path_) + std::to_string(::getpid()))),
      unfinished_(partial_.string()) {
  lock_ = make_and_lock(partial_);
  if (lock_ < 0) fail();
  remove_abandoned(path_);
  file_ = std::fopen(partial_.c_str(), "wb");
  if (!file_) {
    const int error = errno;
    ::unlink(partial_.c_str());
    ::close(lock_);
    errno = error;
    fail();
  }
}

NpzWriter::~NpzWriter() {
  if (file_) std::fclose(file_);
  std::error_code error;
  std::filesystem::remove(partial_, error);
  ::close(lock_);
}

void NpzWriter::fail() const {
  throw UsageError("--outputs-to: cannot write " + path_.string() + ": " + std::strerror(errno) +
                   "; choose another file");
}

void NpzWriter::put(const void* bytes, uint64_t count) {
  if (std::fwrite(bytes, 1, count, file_) != count) fail();
  written_ += count;
}

void NpzWriter::add(const std::string& name, const std::vector<int64_t>& shape,
                    const int32_t* values) {
  add_array(name, "<i4", shape, values);
}

void NpzWriter::add(const std::string& name, const std::vector<int64_t>& shape,
                    const float* values) {
  add_array(name, "<f4", shape, values);
}

void NpzWriter::add_array(const std::string& name, const char* dtype,
                          const std::vector<int64_t>& shape, const void* values) {
  const std::string header = npy_header(dtype, shape);
  uint64_t count = kItemBytes;
  for (const int64_t side : shape) count *= static_cast<uint64_t>(side);
  uLong crc = crc32_z(0, reinterpret_cast<const Bytef*>(header.data()), header.size());
  crc = crc32_z(crc, static_cast<const Bytef*>(values), count);
  const Member member{name + ".npy", static_cast<uint32_t>(crc), header.size() + count, written_};
  Record local;
  local.u32(0x04034b50).u16(kVersion).u16(0).u16(0).u16(0).u16(kFirstOfJanuary1980);
  local.u32(member.crc).u32(kElsewhere32).u32(kElsewhere32).u16(member.name.size()).u16(20);
  local.text(member.name).u16(1).u16(16).u64(member.bytes).u64(member.bytes);
  put(local.bytes().data(), local.bytes().size());
  put(header.data(), header.size());
  put(values, count);
  members_.push_back(member);
}

void NpzWriter::finish() {
  const uint64_t begin = written_;
  for (const Member& member : members_) {
    Record entry;
    entry.u32(0x02014b50).u16(kVersion).u16(kVersion).u16(0).u16(0).u16(0).u16(kFirstOfJanuary1980);
    entry.u32(member.crc).u32(kElsewhere32).u32(kElsewhere32).u16(member.name.size()).u16(28);
    entry.u16(0).u16(0).u16(0).u32(0).u32(kElsewhere32).text(member.name);
    entry.u16(1).u16(24).u64(member.bytes).u64(member.bytes).u64(member.offset);
    put(entry.bytes().data(), entry.bytes().size());
  }
  const uint64_t end = written_, count = members_.size();
  Record tail;
  tail.u32(0x06064b50).u64(44).u16(kVersion).u16(kVersion).u32(0).u32(0);
  tail.u64(count).u64(count).u64(end - begin).u64(begin);
  tail.u32(0x07064b50).u32(0).u64(end).u32(1);
  tail.u32(0x06054b50).u16(0).u16(0).u16(kElsewhere16).u16(kElsewhere16);
  tail.u32(kElsewhere32).u32(kElsewhere32).u16(0);
  put(tail.bytes().data(), tail.bytes().size());
  std::FILE* file = std::exchange(file_, nullptr);
  if (std::fclose(file) != 0 || std::rename(partial_.c_str(), path_.c_str()) != 0) fail();
}

}  // namespace gemma3::host
